"""Many messages at once come to what each comes to by itself."""

from __future__ import annotations

import numpy as np
import pytest
from hostile_messages import hostile_messages

from consumers.json_runs import JsonRuns
from consumers.messages import MessageReader
from stream_curate.sources import ColumnChoice
from stream_curate.sources.json_pairs import JsonPairs

PLAIN = [b'{"url":"http://x.org/%d","text":"a dog"}' % k for k in range(4)]

# what could be taken for something else when it is joined
FRAGMENTS = [
    b"{}",
    b"{},{}",
    b"{},\n{}",
    b'{"a":[1}',
    b'{"a":[{}',
    b"{}]}",
    b"[1",
    b"2]",
    b'{"url":"u","text":"a}',
    b'b"}',
    b'","text":"t"}',
    b'{"url":"u","text":"t"},{"url":"v","text":"w"}',
    b'{"url":"u","text":"t"} ',
    b'{"url":"u","text":"t","text":"t"}',
    b'{"url":"u","url":"t"}',
    b'{"url":"u","text":"say \\"dog\\""}',
    b'{"url":"u","text":"\\ud800"}',
    b'{"url":"u","text":"\xff"}',
    b'{"url":1,"text":"t"}',
    b'{"url":null,"text":"t"}',
    b'{"text":"t","url":"u"}',
    b'{"url":"u","text":{}}',
    b'{"url":"u","text":"t"}}',
    b"",
    b"}",
    b"null",
    b'{"url":"u","caption":"t","text":"t"}',
    b'{"url":"u","text":"t","uid":"7"}',
]


def check(values: list[bytes], choice: ColumnChoice) -> bool:
    """Whether they are decoded at once; if so, it is as one by one."""
    found = JsonRuns(choice).pairs(values)
    if found is None:
        return False
    one_by_one = JsonPairs(choice)
    for k, value in enumerate(values):
        url, text, kept, reason = one_by_one.pair(value)
        if k not in found.odd:
            assert (found.urls[k], found.texts[k], reason) == (url, text, None), value
        assert not any(kept)
    return True


@pytest.mark.parametrize("choice", [ColumnChoice(), ColumnChoice(keep=["uid"])], ids=["", "keep"])
def test_no_mix_is_taken_for_another(choice: ColumnChoice, rng: np.random.Generator) -> None:
    all_of_them = FRAGMENTS + PLAIN + [each.value for each in hostile_messages(rng, 200) if each.value]
    n_at_once = 0
    for _ in range(4_000):
        n = rng.integers(1, 5)
        n_at_once += check([all_of_them[k] for k in rng.integers(len(all_of_them), size=n)], choice)
    for first in all_of_them:
        n_at_once += check([first], choice) + check([first, *PLAIN], choice) + check([*PLAIN, first], choice)
    assert n_at_once > 100


def test_plain_messages_are_taken_at_once_and_odd_ones_named() -> None:
    quoted = b'{"url":"u","text":"say \\"dog\\""}'
    twice = b'{"url":"u","text":"t","text":"t"}'
    found = JsonRuns(ColumnChoice()).pairs([*PLAIN, quoted, twice])
    assert found is not None
    assert found.urls[:4] == [f"http://x.org/{k}" for k in range(4)]
    assert found.texts[:5] == ["a dog"] * 4 + ['say "dog"']
    assert found.odd == [4, 5]


def test_a_reader_decodes_odd_ones_of_a_run_by_themselves() -> None:
    values = [*PLAIN, b'{"url":"u","text":"say \\"dog\\""}', b'{"url":"u","text":"t","text":"t"}', *PLAIN]
    reader = MessageReader("pairs", 0)
    (batch,) = reader.read([_Message(7 + k, value) for k, value in enumerate(values)])
    alone = [reader.decode(value).records for value in values]
    assert batch.records.urls.to_pylist() == [each.urls[0].as_py() for each in alone]
    assert batch.records.texts.to_pylist() == [each.texts[0].as_py() for each in alone]
    assert batch.records.rejected == {k: each.rejected[0] for k, each in enumerate(alone) if each.rejected}
    assert set(batch.records.rejected) == {5}
    assert (batch.positions // 65_536).tolist() == list(range(7, 17))


class _Message:
    headers = ()

    def __init__(self, offset: int, value: bytes) -> None:
        self.offset = offset
        self.value = value
