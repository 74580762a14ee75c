"""What an audit found: of each check how much was compared, and what differs."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from stream_curate.rule import Decisions

N_SHOWN = 10


class CheckName(StrEnum):
    """What is checked; the docstring of `audit` says more."""

    RANGES = "ledger ranges"
    RULE = "rule headers"
    NUMBERS = "ledger numbers"
    VIEWS = "view cuts"
    RECOUNT = "recount of the input"
    SEEN = "seen pairs"
    ADMITTED = "admitted pairs"
    FORWARDS = "forwarded pairs"
    DEAD_LETTERS = "dead letters"
    TABLE = "curated table"
    CUTS = "settled cuts"
    COUNTS = "published counts"
    TRANSACTIONS = "open transactions"
    DECISIONS = "final decisions"
    ACCEPTED = "topic of accepted pairs"


OF_FINAL_DECISIONS = frozenset({CheckName.DECISIONS, CheckName.ACCEPTED})

UNITS = {
    CheckName.RANGES: "ranges",
    CheckName.RULE: "records",
    CheckName.NUMBERS: "records",
    CheckName.VIEWS: "records",
    CheckName.RECOUNT: "records of the input",
    CheckName.SEEN: "keyed hashes",
    CheckName.ADMITTED: "pairs",
    CheckName.FORWARDS: "pairs",
    CheckName.DEAD_LETTERS: "letters",
    CheckName.TABLE: "rows",
    CheckName.CUTS: "settled versions",
    CheckName.COUNTS: "entries",
    CheckName.TRANSACTIONS: "partitions",
    CheckName.DECISIONS: "pairs",
    CheckName.ACCEPTED: "pairs",
}


@dataclass
class Check:
    """How one check came out.

    Attributes:
        name: which.
        n_compared: how many there were to compare, in the unit that `UNITS` gives.
        n_differences: all that were found.
        differences: the first few of them, in words.
    """

    name: CheckName
    n_compared: int = 0
    n_differences: int = 0
    differences: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """As it stands in a JSON report."""
        return self.__dict__ | {"name": str(self.name), "unit": UNITS[self.name], "ok": not self.n_differences}


class AuditReport:
    """What was compared, what differs, and what could not be looked at.

    Args:
        decisions: which kind was made.

    Attributes:
        checks: one for each name; those of final decisions are there where there are such.
        beyond_checking: what could not be compared, and why, in words; no problems.
        numbers: totals of the ledger and of the newest settled version that was checked.
    """

    def __init__(self, decisions: Decisions) -> None:
        names = [name for name in CheckName if decisions == "final" or name not in OF_FINAL_DECISIONS]
        self.checks = {name: Check(name) for name in names}
        self.beyond_checking: list[str] = []
        self.numbers: dict[str, int | str] = {}

    def compare(self, name: CheckName, n: int = 1) -> None:
        """So many more were compared."""
        self.checks[name].n_compared += n

    def differ(self, name: CheckName, words: str) -> None:
        """One more difference; its words begin with the place."""
        check = self.checks[name]
        check.n_differences += 1
        if len(check.differences) < N_SHOWN:
            check.differences.append(words)

    def expect(self, name: CheckName, found: object, expected: object, words: str) -> None:
        """A difference, unless the two are equal: `words`, then what was found and what should be."""
        if found != expected:
            self.differ(name, f"{words} {_shown(found)}, where it should be {_shown(expected)}")

    @property
    def n_problems(self) -> int:
        """All differences of all checks."""
        return sum(check.n_differences for check in self.checks.values())

    @property
    def problems(self) -> list[tuple[str, str]]:
        """The first few differences of each check, as (name of the check, words)."""
        return [(str(name), words) for name, check in self.checks.items() for words in check.differences]

    def as_dict(self) -> dict[str, Any]:
        """As it stands in a JSON report."""
        return {
            "clean": self.n_problems == 0,
            "n_differences": self.n_problems,
            "checks": [check.as_dict() for check in self.checks.values()],
            "beyond_checking": self.beyond_checking,
            "numbers": self.numbers,
        }


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
