"""What a text matches, with counts and P(keep)."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stream_curate.balance import keep_probability
from stream_curate.chances import Chances
from stream_curate.metadata import Metadata
from stream_curate.page.matched import N_MATCHES_SHOWN, TextBox, matched_entries

METADATA = Metadata.from_entries(["dog", "park", "in the", "never"])
COUNTS = np.array([40, 5, 80, 0])


def test_the_rarest_entries_come_first() -> None:
    found = TextBox(METADATA).answer(b"a dog in the park", Chances(COUNTS, 20))
    assert [(row["entry"], row["count"], row["keep_probability"]) for row in found["entries"]] == [
        ("park", 5, 1.0),
        ("dog", 40, 0.5),
        ("in the", 80, 0.25),
    ]
    assert found["keep_probability"] == 1.0
    assert found["is_tail"]
    assert found["refused"] is None


def test_p_keep_is_over_all_matches_not_those_listed() -> None:
    counts = np.full(500, 1_000)
    metadata = Metadata.from_entries([f"e{i}" for i in range(500)])
    text = " ".join(f"e{i}" for i in range(500)).encode()
    found = TextBox(metadata).answer(text, Chances(counts, 20))
    assert found["n_matched"] == 500
    assert len(found["entries"]) == N_MATCHES_SHOWN
    assert found["keep_probability"] == keep_probability(counts, 20)
    assert not found["is_tail"]


def test_an_answer_holds_neither_draw_nor_verdict() -> None:
    answer = TextBox(METADATA).answer(b"a dog", Chances(COUNTS, 20))
    assert answer.keys() == {"refused", "threshold", "n_matched", "keep_probability", "is_tail", "entries"}
    assert all(row.keys() == {"entry", "count", "keep_probability"} for row in answer["entries"])
    # what it says of a text is the same at each time, whoever asks
    assert json.dumps(answer) == json.dumps(TextBox(METADATA).answer(b"a dog", Chances(COUNTS, 20)))


@pytest.mark.parametrize(
    ("text", "reason"),
    [(b"\xff dog", "invalid_utf8"), (b"dog " * 4_097, "text_too_long"), (b"x" * 65_537, "text_too_long")],
)
def test_what_no_pair_can_have_as_text_is_refused(text: bytes, reason: str) -> None:
    assert TextBox(METADATA).answer(text, Chances(COUNTS, 20))["refused"] == reason


@pytest.mark.parametrize("text", [b"", b"nothing here", b"\x00\x01"])
def test_a_text_without_matches_is_never_kept(text: bytes) -> None:
    answer = TextBox(METADATA).answer(text, Chances(COUNTS, 20))
    assert (answer["n_matched"], answer["keep_probability"], answer["is_tail"]) == (0, 0.0, False)


def test_an_entry_with_count_nought_is_sure() -> None:
    found = matched_entries(METADATA, np.array([3]), Chances(COUNTS, 20), 5)
    assert found["entries"] == [{"entry": "never", "count": 0, "keep_probability": 1.0}]
