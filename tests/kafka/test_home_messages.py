"""Pairs on their way home: each once, in its order, in messages that can be read."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka_workers import made_pairs, valid_pairs

from consumers import home_messages as module
from consumers.home_messages import ARROW_MESSAGE_BYTES, ARROW_MESSAGE_PAIRS, home_messages
from consumers.messages import MAX_ARROW_BYTES, encode_arrow, home

PAIRS = made_pairs(10_000)


@given(n_pairs=st.integers(0, 10_000), n_partitions=st.integers(1, 9))
def test_each_pair_is_in_one_message_of_its_home_in_order(n_pairs: int, n_partitions: int) -> None:
    pairs = PAIRS.slice(0, n_pairs)
    homes = home(pairs.column("pair_id"), n_partitions)
    found: dict[int, list[bytes]] = {}
    for partition, message in home_messages(pairs, homes):
        assert 0 < len(message) <= ARROW_MESSAGE_PAIRS
        found.setdefault(partition, []).extend(message.column("pair_id").to_pylist())

    wanted: dict[int, list[bytes]] = {}
    for partition, pair_id in zip(homes.tolist(), pairs.column("pair_id").to_pylist(), strict=True):
        wanted.setdefault(partition, []).append(pair_id)
    assert found == wanted


def test_large_pairs_are_fewer_in_a_message() -> None:
    pairs = valid_pairs([{"url": f"http://x.org/{i}", "text": "a" * 60_000} for i in range(100)])
    messages = [message for _, message in home_messages(pairs, np.zeros(100, np.int64))]

    assert sum(len(message) for message in messages) == 100
    assert max(message.nbytes for message in messages) <= ARROW_MESSAGE_BYTES
    assert len(messages) < 20


def test_the_largest_pair_fits_into_a_message() -> None:
    pairs = valid_pairs([{"url": "http://x.org/" + "u" * 8_000, "text": "a" * 65_536}] * 3)
    for _, message in home_messages(pairs, np.array([0, 1, 0])):
        assert len(encode_arrow(message)) < MAX_ARROW_BYTES


def test_one_too_large_pair_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ARROW_MESSAGE_BYTES", 1)

    assert [len(message) for _, message in home_messages(PAIRS.slice(0, 5), np.zeros(5, np.int64))] == [1] * 5


def test_kept_columns_go_along() -> None:
    pairs = PAIRS.slice(0, 50).append_column("lang", pa.array(["en", None] * 25))
    messages = [message for _, message in home_messages(pairs, home(pairs.column("pair_id"), 3))]

    assert sum(message.column("lang").null_count for message in messages) == 25
    assert {message.schema for message in messages} == {pairs.schema}
