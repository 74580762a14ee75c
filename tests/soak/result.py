"""What a soak came to: the figures, the bounds that they are held against, the table and the curves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from soak.watch import Life, growth, least_between, slope_per_minute

LONGEST_GAP_S = 10.0

_COLOURS = {
    "steady": "#1b7f5c",
    "settler": "#b3541e",
    "mortal-1": "#5b7db1",
    "mortal-2": "#8e6bb0",
    "broker": "#888888",
}
_FAULT_COLOURS = {
    "kill": "#c0392b",
    "restart": "#d68910",
    "stop": "#7d3c98",
    "disconnect": "#2874a6",
    "broker restart": "#707b7c",
    "broker kill": "#17202a",
}


@dataclass(frozen=True)
class Bounds:
    """What has to hold. Figures are of the time after warm-up, and of the two processes that are never killed.

    A worker has some 8 files open for each of its partitions, so their number goes up and down as partitions come and
    go: what is looked at is the least of each half minute. What a fault leaves open for good adds to all that follow.

    Attributes:
        slope_mb_per_minute: of the resident set, at most.
        more_fds: by how many the last third of these least numbers of open files may lie above the first, by medians.
        waiting_s: the longest that the input may wait, in seconds at the rate of the feed; None for no bound.
        drain_s: within so long after the last message all is in the ledger.
    """

    slope_mb_per_minute: float = 1.0
    more_fds: float = 16.0
    waiting_s: float | None = 45.0
    drain_s: float = 60.0


@dataclass
class Result:
    """What happened; times are in seconds since the watch began.

    Attributes:
        minutes: how long it was to be, after the warm-up.
        lasting: the names of those that are never killed.
        warm_up_s, fed_s: when the warm-up was over, and the last message sent.
        drain_s: how long it took until all was in the ledger, after the last message.
        digest, digest_offline: of the table, and of what offline keeps of the same pairs.
        audit: what `stream-curate audit` said, as JSON.
    """

    seed: int
    minutes: float
    top_rate: float | None
    rate: float
    lasting: Sequence[str]
    bounds: Bounds
    lives: list[Life] = field(default_factory=list)
    lags: list[tuple[float, int, int]] = field(default_factory=list)
    faults: list[tuple[float, str, str]] = field(default_factory=list)
    warm_up_s: float = 0.0
    fed_s: float = 0.0
    n_sent: int = 0
    n_distinct: int = 0
    n_scrapes: int = 0
    drain_s: float = 0.0
    digest: str = ""
    digest_offline: str = ""
    audit: dict[str, Any] = field(default_factory=dict)

    def long_lives(self) -> dict[str, Life]:
        """Of each of the lasting the longest life, of it what lies between warm-up and the last message."""
        found: dict[str, Life] = {}
        for name in self.lasting:
            parts = [life.after(self.warm_up_s, self.fed_s) for life in self.lives if life.name == name]
            found[name] = max(parts, key=lambda life: life.seconds)
        return found

    def checks(self) -> list[tuple[str, str, str, bool]]:
        """What was looked at, its bound, what was found, and whether it holds."""
        bounds, rows = self.bounds, []
        measured_s = self.fed_s - self.warm_up_s
        for name, life in self.long_lives().items():
            rows.append((f"{name} lived through it", "yes", f"{life.seconds:.0f} s", life.seconds > 0.9 * measured_s))
            slope = slope_per_minute(life.at_s, life.rss_mb)
            limit = bounds.slope_mb_per_minute
            rows.append((f"memory of {name}", f"< {limit:g} MB/min", f"{slope:+.2f} MB/min", slope < limit))
            more = growth(least_between(life.at_s, life.n_fds, 30.0))
            rows.append(
                (f"open files of {name}", f"<= {bounds.more_fds:g} more", f"{more:+g}", more <= bounds.more_fds)
            )
        if bounds.waiting_s is not None:
            longest_s = max((n for at_s, _, n in self.lags if at_s > self.warm_up_s), default=0) / self.rate
            rows.append(
                ("input waits", f"<= {bounds.waiting_s:g} s", f"{longest_s:.1f} s", longest_s <= bounds.waiting_s)
            )
        rows.append(("drained", f"<= {bounds.drain_s:g} s", f"{self.drain_s:.1f} s", self.drain_s <= bounds.drain_s))
        n_differences = self.audit.get("n_differences")
        rows.append(("differences found by audit", "0", str(n_differences), n_differences == 0))
        is_equal = bool(self.digest) and self.digest == self.digest_offline
        rows.append(("digest", "that of offline", self.digest[:12], is_equal))
        return rows

    @property
    def holds(self) -> bool:
        """Whether every bound does."""
        return all(is_fine for *_, is_fine in self.checks())

    def words(self) -> str:
        """As it stands on the terminal."""
        top = "set" if self.top_rate is None else f"half of {self.top_rate:,.0f}"
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(Counter(kind for _, kind, _ in self.faults).items()))
        minutes = (self.fed_s - self.warm_up_s) / 60
        lines = [
            f"seed {self.seed}: {minutes:.1f} minutes at {self.rate:,.0f} messages/s ({top}), "
            f"{self.n_sent:,} messages, {self.n_distinct:,} distinct pairs; metrics read {self.n_scrapes:,} times",
            f"{len(self.faults)} faults: {kinds}",
            f"after {self.warm_up_s:.0f} s of warm-up:",
        ]
        lines += [
            f"  {'holds' if is_fine else 'FAILS'}  {what:28} {bound:>18} {found:>18}"
            for what, bound, found, is_fine in self.checks()
        ]
        return "\n".join(lines)

    def save(self, folder: Path) -> None:
        """Write soak.json and soak.png."""
        folder.mkdir(parents=True, exist_ok=True)
        told = asdict(self) | {
            "holds": self.holds,
            "checks": [dict(zip(("what", "bound", "found", "holds"), row, strict=True)) for row in self.checks()],
        }
        (folder / "soak.json").write_text(json.dumps(told) + "\n")
        self.plot(folder / "soak.png")

    def plot(self, path: Path) -> None:
        """Memory, open files, waiting input and rate, with the faults as lines."""
        import matplotlib as mpl

        mpl.use("Agg")
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(4, 1, figsize=(11, 10), sharex=True, layout="constrained")
        memory, files, waiting, rates = axes
        shown: set[str] = set()
        for life in self.lives:
            label = None if life.name in shown else life.name
            shown.add(life.name)
            colour = _COLOURS.get(life.name, "#444444")
            minutes = life.at_s / 60
            width = 1.6 if life.name in self.lasting else 0.9
            memory.plot(minutes, life.rss_mb, color=colour, label=label, linewidth=width)
            if life.name != "broker":
                files.plot(minutes, life.n_fds, color=colour, linewidth=width)
        for life in self.long_lives().values():
            line = np.median(life.rss_mb) + slope_per_minute(life.at_s, life.rss_mb) / 60 * (
                life.at_s - np.median(life.at_s)
            )
            memory.plot(life.at_s / 60, line, color="black", linewidth=0.8, linestyle="--")
        at_s, done, lag = (np.array(column, float) for column in zip(*self.lags, strict=True))
        lag[1:][np.diff(at_s) > LONGEST_GAP_S] = np.nan  # no broker answered: no line is drawn
        waiting.plot(at_s / 60, lag / self.rate, color="#333333", linewidth=1.0)
        middle = (at_s[1:] + at_s[:-1]) / 120
        rates.plot(middle, np.diff(done) / np.diff(at_s), color="#333333", linewidth=0.8, label="into the ledger")
        rates.axhline(self.rate, color="#1b7f5c", linewidth=1.0, label="sent")
        for axis in axes:
            axis.axvspan(0, self.warm_up_s / 60, color="#eeeeee", zorder=0)
            labelled: set[str] = set()
            for fault_s, kind, _ in self.faults:
                label = kind if axis is waiting and kind not in labelled else None
                labelled.add(kind)
                axis.axvline(fault_s / 60, color=_FAULT_COLOURS.get(kind, "#000000"), linewidth=0.7, label=label)
            axis.set_ylim(bottom=0)
            axis.grid(alpha=0.3)
        memory.set(
            ylabel="resident set, MB", title=f"{self.rate:,.0f} messages/s, a fault each half minute, seed {self.seed}"
        )
        files.set(ylabel="open files")
        waiting.set(ylabel="input waiting, s")
        rates.set(ylabel="messages/s", xlabel="minutes; grey: warm-up")
        memory.legend(loc="upper left", ncols=5, fontsize=8)
        waiting.legend(loc="upper left", ncols=6, fontsize=8)
        rates.legend(loc="upper left", ncols=2, fontsize=8)
        figure.savefig(path, dpi=110)
        plt.close(figure)
