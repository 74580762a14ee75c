"""What was read and is not committed yet: all of it comes out, in batches that tile."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pytest
from hostile_messages import Message
from hypothesis import given
from hypothesis import strategies as st
from kafka_workers import made_pairs, read_batch

from consumers import inbox as module
from consumers.inbox import Inbox
from consumers.messages import ARROW_HEADERS, ReadBatch, encode_arrow, encode_json, position
from consumers.settings import KafkaSettings
from stream_curate.sources import ColumnChoice

PAIRS = made_pairs(300)
JSON = encode_json(PAIRS)
EMPTY = Message(0, encode_arrow(PAIRS.slice(0, 0)), ARROW_HEADERS)


def inbox_of(next_position: int = 0, *, commit_records: int = 100, commit_interval_s: float = 1_000) -> Inbox:
    settings = KafkaSettings(commit_records=commit_records, commit_interval_s=commit_interval_s)
    return Inbox("pairs", 0, ColumnChoice(), settings, next_position)


def json_messages(n: int, first: int = 0) -> list[Message]:
    return [Message(first + k, JSON[k % 300]) for k in range(n)]


def arrow_message(offset: int, n_rows: int) -> Message:
    return Message(offset, encode_arrow(PAIRS.slice(0, n_rows)), ARROW_HEADERS)


def check_tiles(inbox: Inbox, taken: Sequence[tuple[ReadBatch, int]], begin: int, messages: Sequence[Message]) -> None:
    """Each record from `begin` on is in exactly one batch, below its `next` and not below the one before."""
    wanted = read_batch(messages)
    reached = begin
    for batch, after in taken:
        assert after >= reached
        assert (batch.positions >= reached).all()
        assert (batch.positions < after).all()
        reached = after
    positions = np.concatenate([batch.positions for batch, _ in taken])
    assert positions.tolist() == [place for place in wanted.positions.tolist() if place >= begin]
    urls = [url for batch, _ in taken for url in batch.records.urls.to_pylist()]
    assert urls == wanted.records.urls.to_pylist()[len(wanted) - len(urls) :]
    assert inbox.next == reached == max(begin, position(messages[-1].offset + 1))


@st.composite
def streams(draw: st.DrawFn) -> list[Message]:
    """Messages of one and of many pairs, and of none, with holes between them."""
    messages, offset = [], 0
    for kind, n, hole in draw(
        st.lists(st.tuples(st.sampled_from("jae"), st.integers(1, 40), st.integers(1, 3)), min_size=1, max_size=25)
    ):
        offset += hole
        if kind == "j":
            messages.append(Message(offset, JSON[n]))
        elif kind == "a":
            messages.append(arrow_message(offset, n))
        else:
            messages.append(Message(offset, EMPTY.value, ARROW_HEADERS))
    return messages


@given(messages=streams(), commit_records=st.sampled_from([1, 2, 7, 100, 20_000]), data=st.data())
def test_all_comes_out_in_batches_that_tile(messages: list[Message], commit_records: int, data: st.DataObject) -> None:
    """Also when the last commit of the owner before ended inside a message."""
    last = messages[0].offset
    begin = position(last, data.draw(st.integers(0, 45), label="row"))
    inbox = inbox_of(begin, commit_records=commit_records)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(messages)), max_size=3), label="cuts"))
    taken: list[tuple[ReadBatch, int]] = []
    for start, stop in zip([0, *cuts], [*cuts, len(messages)], strict=True):
        if start < stop:
            inbox.add(messages[start:stop])
            taken += list(inbox.take())
            assert not inbox.is_due()
    check_tiles(inbox, taken, begin, messages)
    assert max(len(batch) for batch, _ in taken) < 2 * commit_records + 40


@pytest.mark.parametrize("commit_records", [1, 100, 20_000])
@pytest.mark.parametrize("is_arrow", [False, True])
def test_batches_are_as_large_as_commits_should_be(commit_records: int, is_arrow: bool) -> None:
    messages = [arrow_message(k, 300) for k in range(160)] if is_arrow else json_messages(48_000)
    if commit_records == 1:
        messages = messages[:2] if is_arrow else messages[:600]
    inbox = inbox_of(commit_records=commit_records)
    inbox.add(messages)
    taken = list(inbox.take())

    check_tiles(inbox, taken, 0, messages)
    sizes = [len(batch) for batch, _ in taken]
    assert min(sizes[:-1]) >= commit_records
    assert max(sizes) < 2 * commit_records + 300


@pytest.mark.parametrize(("n", "sizes"), [(99, [99]), (109, [109]), (199, [199]), (205, [103, 102])])
def test_no_small_batch_is_left_at_the_end(n: int, sizes: list[int]) -> None:
    """It would take a transaction of its own."""
    inbox = inbox_of(commit_records=100)
    inbox.add(json_messages(n))
    assert [len(batch) for batch, _ in inbox.take()] == sizes


def test_each_batch_says_where_it_ends_as_it_is_taken() -> None:
    inbox = inbox_of(commit_records=100)
    inbox.add([arrow_message(5, 250), arrow_message(9, 120)])
    seen = [(after, inbox.next) for _, after in inbox.take()]

    assert all(after == told for after, told in seen)
    assert [after for after, _ in seen] == [position(5, 125), position(9), position(10)]


def test_messages_without_a_record_move_the_position() -> None:
    inbox = inbox_of(position(3))
    inbox.add([Message(4, EMPTY.value, ARROW_HEADERS)])
    ((batch, after),) = inbox.take()

    assert len(batch) == 0
    assert after == inbox.next == position(5)
    pairs, rejections = batch.validate()
    assert (len(pairs), rejections) == (0, [])


def test_a_message_that_was_committed_up_to_its_end_only_moves_the_position() -> None:
    inbox = inbox_of(position(4, 250))
    inbox.add([arrow_message(4, 250)])
    ((batch, after),) = inbox.take()

    assert (len(batch), after) == (0, position(5))


# --- when


def test_an_empty_one_is_never_due() -> None:
    inbox = inbox_of(commit_interval_s=0.001)
    time.sleep(0.01)

    assert not inbox.is_due()
    assert not inbox.is_due(target=1)


def test_it_is_due_by_records() -> None:
    inbox = inbox_of(commit_records=5)
    inbox.add(json_messages(4))
    assert not inbox.is_due()
    inbox.add(json_messages(1, 4))
    assert inbox.is_due()


def test_the_rows_of_arrow_messages_are_records() -> None:
    inbox = inbox_of(commit_records=500)
    inbox.add([arrow_message(0, 300), *json_messages(199, 1)])
    assert not inbox.is_due()
    inbox.add([EMPTY])
    assert inbox.is_due()


def test_it_is_due_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BATCH_BYTES", 10 * len(JSON[0]))
    inbox = inbox_of(commit_records=20_000)
    inbox.add([Message(k, JSON[0]) for k in range(9)] + [Message(9, None)])
    assert not inbox.is_due()
    inbox.add([Message(10, JSON[0])])
    assert inbox.is_due()

    list(inbox.take())
    inbox.add(json_messages(1, 11))
    assert not inbox.is_due()


def test_it_is_due_by_time_since_the_first_message() -> None:
    inbox = inbox_of(commit_interval_s=0.05)
    inbox.add(json_messages(1))
    is_due_at_once = inbox.is_due()
    begun_s = time.monotonic()
    while not inbox.is_due():
        inbox.add(json_messages(1, 1))
        assert time.monotonic() - begun_s < 5

    assert not is_due_at_once
    list(inbox.take())
    inbox.add(json_messages(1, 500_000))
    assert not inbox.is_due()


def test_it_is_due_at_a_target_and_not_again_behind_it() -> None:
    """Else, with input that goes on, each poll would be a commit."""
    inbox = inbox_of()
    inbox.add(json_messages(9))
    assert not inbox.is_due(target=position(10))
    inbox.add(json_messages(3, 9))
    assert inbox.is_due(target=position(10))

    list(inbox.take())
    inbox.add(json_messages(3, 12))
    assert not inbox.is_due(target=position(10))
    assert inbox.is_due(target=position(15))


def test_how_far_there_is_nothing_to_take() -> None:
    inbox = inbox_of(position(3))
    assert inbox.done_to == position(3)
    inbox.passed(5)
    assert inbox.done_to == position(5)
    inbox.add(json_messages(2, 5))
    assert inbox.done_to is None
    list(inbox.take())
    assert inbox.done_to == position(7)


# --- offsets that are no records


def test_markers_behind_the_last_record_are_committed_with_it() -> None:
    inbox = inbox_of()
    inbox.add(json_messages(3))
    inbox.passed(5)
    ((batch, after),) = inbox.take()

    assert (len(batch), after, inbox.next) == (3, position(5), position(5))
    assert not inbox.is_due(target=position(3))


def test_markers_alone_are_committed_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    inbox = inbox_of(position(3), commit_interval_s=0.001)
    inbox.passed(3)
    assert not inbox.is_due(target=position(3))
    inbox.passed(4)
    time.sleep(0.01)
    assert not inbox.is_due()
    assert inbox.is_due(target=position(3))  # a run that will end

    monkeypatch.setattr(module, "PASSED_INTERVAL_S", 0.005)
    assert inbox.is_due()
    ((batch, after),) = inbox.take()
    assert (len(batch), after) == (0, position(4))
    assert not inbox.is_due(target=position(3))
