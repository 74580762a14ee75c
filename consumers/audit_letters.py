"""Dead letters: one for each rejected record, with the right reason, and its bytes."""

from __future__ import annotations

import hashlib
from collections import Counter as Multiset
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from consumers.audit_reading import place_in_words, position_in_words
from consumers.audit_report import AuditReport, CheckName
from consumers.messages import position


@dataclass(frozen=True)
class Rejected:
    """What was rejected of the input of one partition.

    Attributes:
        recounted: position -> reason, and SHA-256 of the original bytes.
        by_word: reason -> how many the ledger tells of in the ranges that are beyond checking.
        checked_from: the position where the recount began.
        covered: the position up to which the ledger tells of the input.
    """

    recounted: Mapping[int, tuple[str, str]]
    by_word: Multiset[str]
    checked_from: int
    covered: int


class Unaddressed(Exception):
    """A dead letter does not say what it is of."""


def compare_letters(
    report: AuditReport, topics: tuple[str, str], partition: int, letters: Iterable[Any], begin: int, rejected: Rejected
) -> None:
    """Hold the dead letters of a partition against what was rejected.

    Args:
        report: where differences go.
        topics: the names of the input and of the topic of dead letters.
        partition: of both.
        letters: the Kafka records that are there.
        begin: the offset where they begin; those before it were removed.
        rejected: what there should be.
    """
    topic, letters_topic = topics
    found: set[int] = set()
    by_word: Multiset[str] = Multiset()
    for letter in letters:
        where = place_in_words(letters_topic, partition, letter.offset)
        headers = {name: (value or b"").decode("utf-8", "replace") for name, value in letter.headers}
        try:
            place = _place(headers, f"kafka:{topic}/{partition}")
        except Unaddressed as error:
            report.differ(CheckName.DEAD_LETTERS, f"{where}: {error}")
            continue
        if place >= rejected.covered:  # of a commit that came since
            continue
        report.compare(CheckName.DEAD_LETTERS)
        words = f"{where}, of {position_in_words(topic, partition, place)}:"
        if place in found:
            report.differ(CheckName.DEAD_LETTERS, f"{words} it stands there twice")
        elif place < rejected.checked_from:
            by_word[headers["reason"]] += 1
        elif place not in rejected.recounted:
            report.differ(CheckName.DEAD_LETTERS, f"{words} no record that is rejected stands there")
        else:
            reason, sha256 = rejected.recounted[place]
            report.expect(CheckName.DEAD_LETTERS, headers["reason"], reason, f"{words} the reason is")
            report.expect(CheckName.DEAD_LETTERS, headers["sha256"], sha256, f"{words} sha256 is")
        if "truncated-from" not in headers:
            own = hashlib.sha256(letter.value or b"").hexdigest()
            report.expect(CheckName.DEAD_LETTERS, own, headers["sha256"], f"{words} the SHA-256 of its bytes is")
        found.add(place)
    _compare_missing(report, topic, partition, found, begin, rejected)
    if begin == 0:
        for reason in sorted(set(by_word) | set(rejected.by_word)):
            words = f"{place_in_words(letters_topic, partition)}: letters for removed input, rejected as {reason}:"
            report.expect(CheckName.DEAD_LETTERS, by_word[reason], rejected.by_word[reason], words)


def _compare_missing(
    report: AuditReport, topic: str, partition: int, found: set[int], begin: int, rejected: Rejected
) -> None:
    n_removed = 0
    for place in sorted(set(rejected.recounted) - found):
        # letters stand in the order of the input, so those that were removed are of the input before the others
        if begin > 0 and place < min(found, default=rejected.covered):
            n_removed += 1
            continue
        report.compare(CheckName.DEAD_LETTERS)
        reason, _ = rejected.recounted[place]
        report.differ(
            CheckName.DEAD_LETTERS,
            f"{position_in_words(topic, partition, place)}: it is rejected as {reason}, and there is no dead letter",
        )
    if n_removed:
        report.beyond_checking.append(
            f"dead letters of {n_removed:,} records of partition {partition}: they were removed from their topic"
        )


def _place(headers: Mapping[str, str], source: str) -> int:
    """The position that a letter is of. Raises Unaddressed."""
    missing = [name for name in ("reason", "source", "offset", "row", "sha256") if name not in headers]
    if missing:
        raise Unaddressed(f"this dead letter has no header {', '.join(missing)}")
    if headers["source"] != source:
        raise Unaddressed(f"this dead letter is of {headers['source']}, and should be of {source}")
    if not (headers["offset"].isdecimal() and headers["row"].isdecimal()):
        raise Unaddressed(f"this dead letter is of offset {headers['offset']}, row {headers['row']}")
    return position(int(headers["offset"]), int(headers["row"]))
