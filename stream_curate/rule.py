"""What makes two runs the same curation: everything that decides which pairs are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

from stream_curate.counting import Counter, Counts, CountsAndCoins, load_counts
from stream_curate.draws import check_seed, seed_fingerprint
from stream_curate.errors import ConfigError
from stream_curate.final_rule import FinalDecisions
from stream_curate.metadata import Metadata
from stream_curate.pairs import VALIDATOR_VERSION

Dedup = Literal["exact", "none"]
DEDUPS: tuple[Dedup, ...] = ("exact", "none")
Decisions = Literal["provisional", "final"]


@dataclass(frozen=True)
class Rule:
    """The rule as it is stored with a table and compared: the seed by its fingerprint alone.

    `final` is None for a table that is settled: what is decided there is provisional until then.
    """

    threshold: int
    seed_fingerprint: str
    metadata_sha256: str
    dedup: Dedup
    counter: Counter
    validator_version: int = VALIDATOR_VERSION
    final: FinalDecisions | None = None

    @classmethod
    def of(
        cls,
        metadata: Metadata,
        *,
        threshold: int,
        seed: int,
        counter: Counter,
        dedup: Dedup,
        final: FinalDecisions | None = None,
    ) -> Self:
        """The rule of these settings.

        Raises:
            ConfigError: for a threshold below 1, a seed out of range, an unknown choice, or final decisions without
                exact counts.
        """
        if threshold < 1:
            raise ConfigError(f"the threshold is {threshold}: it must be at least 1 pair for each entry")
        if dedup not in DEDUPS:
            raise ConfigError(f"there is no dedup {dedup!r}: choose one of {', '.join(DEDUPS)}")
        if final is not None and counter.kind != "exact":
            raise ConfigError(
                f"final decisions need exact counts, not {counter.kind}: a rare entry that a sketch takes for a "
                "frequent one would lose its pairs for good. Leave the counter out, or choose exact"
            )
        return cls(threshold, seed_fingerprint(check_seed(seed)), metadata.fingerprint, dedup, counter, final=final)

    @property
    def decisions(self) -> Decisions:
        """Which kind of decisions are made."""
        return "provisional" if self.final is None else "final"

    def load_counts(self, n_entries: int, data: bytes) -> Counts:
        """The counts that `Counts.to_bytes` wrote under this rule.

        Raises:
            ValueError: when the bytes are not such.
        """
        if self.final is not None:
            return CountsAndCoins.from_bytes(data, n_entries)
        return load_counts(self.counter, n_entries, data)

    def as_dict(self) -> dict[str, Any]:
        """As it stands in headers and reports. Of provisional decisions, which came first, it says nothing."""
        values: dict[str, Any] = {
            "threshold": self.threshold,
            "seed_fingerprint": self.seed_fingerprint,
            "metadata_sha256": self.metadata_sha256,
            "dedup": self.dedup,
            "counter": self.counter.as_dict(),
            "validator_version": self.validator_version,
        }
        return values if self.final is None else values | {"decisions": self.final.as_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """What `as_dict` gave."""
        values = values | {"counter": Counter(**values["counter"])}
        decisions = values.pop("decisions", None)
        return cls(**values, final=FinalDecisions.from_dict(decisions) if decisions is not None else None)
