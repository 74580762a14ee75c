"""What makes two runs the same curation: everything that decides which pairs are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

from stream_curate.counting import Counter
from stream_curate.draws import check_seed, seed_fingerprint
from stream_curate.errors import ConfigError
from stream_curate.metadata import Metadata
from stream_curate.pairs import VALIDATOR_VERSION

Dedup = Literal["exact", "none"]
DEDUPS: tuple[Dedup, ...] = ("exact", "none")


@dataclass(frozen=True)
class Rule:
    """The rule as it is stored with a table and compared: the seed by its fingerprint alone."""

    threshold: int
    seed_fingerprint: str
    metadata_sha256: str
    dedup: Dedup
    counter: Counter
    validator_version: int = VALIDATOR_VERSION

    @classmethod
    def of(cls, metadata: Metadata, *, threshold: int, seed: int, counter: Counter, dedup: Dedup) -> Self:
        """The rule of these settings.

        Raises:
            ConfigError: for a threshold below 1, a seed out of range or an unknown choice.
        """
        if threshold < 1:
            raise ConfigError(f"the threshold is {threshold}: it must be at least 1 pair for each entry")
        if dedup not in DEDUPS:
            raise ConfigError(f"there is no dedup {dedup!r}: choose one of {', '.join(DEDUPS)}")
        return cls(threshold, seed_fingerprint(check_seed(seed)), metadata.fingerprint, dedup, counter)

    def as_dict(self) -> dict[str, Any]:
        """As it stands in headers and reports."""
        return {
            "threshold": self.threshold,
            "seed_fingerprint": self.seed_fingerprint,
            "metadata_sha256": self.metadata_sha256,
            "dedup": self.dedup,
            "counter": self.counter.as_dict(),
            "validator_version": self.validator_version,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """What `as_dict` gave."""
        return cls(**(values | {"counter": Counter(**values["counter"])}))
