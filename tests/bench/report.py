"""From the results of a run to tables and plots, and into README.md.

    PYTHONPATH=tests python -m bench.report --keep       # what `make bench` found last becomes what README.md says

`--keep` copies out/bench/results.json to tests/bench/results.json and one plot to .readme/, and writes the tables
between the two marks in README.md. tests/bench/test_report.py sees that they agree.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
KEPT = Path(__file__).with_name("results.json")
KEPT_PLOT = ROOT / ".readme" / "bench.png"
BEGIN, END = "<!-- bench: made by `python -m bench.report --keep` -->", "<!-- bench: end -->"

OURS = "stream-curate"
PUBLISHED = "published way, pyahocorasick"
NAMES = {
    "naive": "published scan, each entry in each text (sample)",
    "pyahocorasick": "pyahocorasick",
    "ahocorasick_rs": "ahocorasick_rs",
    OURS: "**stream-curate**",
}


def markdown(found: dict[str, Any]) -> str:
    """All tables of a run."""
    parts = {"matching": _matching, "whole_job": _whole_job, "growth": _growth, "kafka": _kafka, "start": _start}
    machine, sizes = found["machine"], found["sizes"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    head = (
        f"Measured in one run on {found['date']}: {machine['n_cores']} cores of an {machine['cpu']}, Python "
        f"{machine['python']}, {versions}. {sizes['n_entries']:,} entries. Medians; in brackets the slowest and the "
        "fastest round."
    )
    return "\n\n".join([head, *(make(found[part]) for part, make in parts.items() if part in found)]) + "\n"


def _matching(found: dict[str, Any]) -> str:
    one, two, mixed = (found[key]["contestants"] for key in ("one_core", "all_cores", "one_core_mixed"))
    base = one["pyahocorasick"]["pairs_per_second"]
    rows = []
    for name, shown in NAMES.items():
        rate = one[name]["pairs_per_second"]
        rows.append(
            [
                shown,
                _with_spread(one[name]),
                _times(rate / base),
                _with_spread(two[name]) if name in two else "",
                _number(mixed[name]["pairs_per_second"]) if name in mixed else "",
            ]
        )
    n = one[OURS]["n_pairs"]
    return _section(
        "Matching",
        ["captions/s", "one core", "to pyahocorasick", "all cores", "one core, mixed captions"],
        rows,
        f"{n:,} captions, and all found the same matches; the scan had {one['naive']['n_pairs']} of them. On all cores "
        "stream-curate has threads, each library processes. Mixed captions are made of two halves, so that nearly all "
        "are different.",
    )


def _whole_job(found: dict[str, Any]) -> str:
    one, two = found["one_core"]["ways"], found["all_cores"]["ways"]
    base = one[PUBLISHED]["without_start"]["pairs_per_second"]
    rows = []
    for name, way in one.items():
        rate = way["without_start"]["pairs_per_second"]
        rows.append(
            [
                NAMES.get(name, name),
                _with_spread(way["without_start"]),
                _times(rate / base),
                _number(way["with_start"]["pairs_per_second"]),
                _with_spread(two[name]["without_start"]),
                f"{way['n_curated']:,}",
                _megabytes(way["peak_bytes"]),
            ]
        )
    polars = next(name for name in one if name.startswith("Polars"))
    stages = one[polars]["stages_seconds"]
    rest_s = sum(stages.values()) - stages["match"] - stages["start"]
    ours, n = one[OURS], found["one_core"]["n_pairs"]
    total_s = sum(ours["stages_seconds"].values())
    where = ", ".join(
        f"{stage} {1e6 * s / n:.2f} ({100 * s / total_s:.0f}%)" for stage, s in ours["stages_seconds"].items()
    )
    return _section(
        "The whole job, parquet in, curated pairs out",
        [
            "pairs/s",
            "one core",
            "to the published way",
            "one core, with its start",
            "all cores",
            "curated pairs",
            "peak memory",
        ],
        rows,
        f"{n:,} pairs, t={found['one_core']['threshold']}; stream-curate admits {100 * ours['admitted_share']:.0f}% of "
        f"them as they come, and then settles. With all its defaults it does more than the others: it drops pairs that "
        f"come twice, counts in a sketch, commits to a Delta table and could go on after a crash. Its start takes "
        f"{ours['start_s']:.1f} s. Polars without its matching: {_number(n / rest_s)} pairs/s on one core. Where the "
        f"time of stream-curate goes on one core, in µs a pair: {where}.",
    )


def _growth(found: dict[str, Any]) -> str:
    def rows(points: Sequence[dict[str, Any]], key: str) -> Iterable[list[str]]:
        for point in points:
            yield [
                f"{point[key]:,}",
                _number(point["pairs_per_second"]),
                _megabytes(point["peak_bytes"]),
                f"{point['over_admission']:.2f}",
                f"{100 * point['settle_share']:.0f}%",
            ]

    columns = ["pairs/s", "peak memory", "admitted to curated", "time in settles"]
    n_pairs = found["by_entries"][0]["n_pairs"]
    apart, by_cores = found["without_duplicates"], found["by_cores"]
    return "\n\n".join(
        [
            _section(
                "Growth",
                ["pairs", *columns],
                rows(found["by_pairs"], "n_pairs"),
                "stream-curate on all cores, without its start; the threshold grows with the stream. With "
                f"`--dedup none` nothing is kept of the pairs seen: then {apart['n_pairs']:,} of them peak at "
                f"{_megabytes(apart['peak_bytes'])}.",
            ),
            _table(["entries", *columns], rows(found["by_entries"], "n_entries")),
            f"With lists of so many entries, on {n_pairs:,} pairs.",
            f"The {by_cores['n_pairs']:,} pairs take one core at {_with_spread(by_cores['one_core'])} pairs/s, and "
            f"{by_cores['cores']} at {_with_spread(by_cores['all_cores'])}: {_times(_gain(by_cores))}.",
        ]
    )


def _gain(by_cores: dict[str, Any]) -> float:
    """How many times faster all cores are."""
    return float(by_cores["all_cores"]["pairs_per_second"] / by_cores["one_core"]["pairs_per_second"])


def _kafka(found: dict[str, Any]) -> str:
    lines = {line["what"]: line for line in found["lines"]}
    rows = []
    for what, line in lines.items():
        alone = lines["reading alone, arrow" if "arrow" in what else "reading alone, json"]
        ratio = line["pairs_per_second"] / alone["pairs_per_second"]
        is_slower = not what.startswith(("produce", "reading alone"))
        share = f"{100 * ratio:.0f}%" if is_slower else ""
        rows.append([what, _with_spread(line), share, _number(line["pairs_per_core_second"])])
    sizes = ", ".join(f"{topic} {n:.0f}" for topic, n in found["bytes_per_pair"].items())
    simulated = found["traffic"]
    by_workers = {point["workers"]: point["total"] for point in simulated["by_workers"]}
    return _section(
        "Kafka",
        ["pairs/s", "one core, the broker on another", "of reading alone", "for each second of a core"],
        rows,
        f"{found['n_pairs']['json']:,} pairs in JSON, {found['n_pairs']['arrow']:,} in Arrow messages, "
        f"partitions: {found['partitions']}. Compressed bytes a pair: "
        f"{sizes}. Counts after a settle: {found['bytes_of_counts']:,} bytes. From these, to and from the brokers "
        f"in a stream of {simulated['n_pairs']:,} pairs in Arrow messages: {by_workers[1]:.0f} bytes a pair with one "
        f"worker, {by_workers[100]:.0f} with 100, {by_workers[1000]:.0f} with 1,000 (simulated).",
    )


def _start(found: dict[str, Any]) -> str:
    rows = [
        [
            "warm" if key == "warm" else "cold: nothing compiled yet",
            f"{each['first_pair_taken_s']:.1f} s",
            f"{each['first_pair_curated_s']:.1f} s",
            _megabytes(each["peak_bytes"]),
        ]
        for key, each in found.items()
    ]
    return _section("Start", ["", "first pair read after", "and curated, table settled", "peak memory"], rows, "")


def _section(title: str, columns: list[str], rows: Iterable[list[str]], words: str) -> str:
    return f"#### {title}\n\n{_table(columns, rows)}" + (f"\n\n{words}" if words else "")


def _table(columns: list[str], rows: Iterable[list[str]]) -> str:
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _number(value: float) -> str:
    """In three digits: 1234567 is 1,230,000."""
    digits = max(0, len(str(round(value))) - 3)
    return f"{round(value, -digits):,.0f}"


def _with_spread(rates: dict[str, Any]) -> str:
    middle = _number(rates["pairs_per_second"])
    if rates["slowest"] == rates["fastest"]:
        return middle
    return f"{middle} ({_number(rates['slowest'])} to {_number(rates['fastest'])})"


def _times(ratio: float) -> str:
    return f"{ratio:.1f}x" if ratio >= 0.1 else f"{ratio:.1g}x"


def _megabytes(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:,.0f} MB"


def aims(found: dict[str, Any]) -> str:
    """What was aimed at, beside what was measured."""
    rows: list[tuple[str, str, float, bool]] = []

    def at_least(what: str, value: float, aim: float) -> None:
        rows.append((what, f">= {aim:g}", value, value >= aim))

    def below(what: str, value: float, aim: float) -> None:
        rows.append((what, f"< {aim:g}", value, value < aim))

    if "matching" in found:
        rates = {name: each["pairs_per_second"] for name, each in found["matching"]["one_core"]["contestants"].items()}
        at_least("matching to pyahocorasick, one core", rates[OURS] / rates["pyahocorasick"], 14)
        at_least("matching to ahocorasick_rs, one core", rates[OURS] / rates["ahocorasick_rs"], 7)
    local = 0.0
    if "whole_job" in found:
        one = {
            name: way["without_start"]["pairs_per_second"]
            for name, way in found["whole_job"]["one_core"]["ways"].items()
        }
        local = one[OURS]
        at_least("whole job to the published way, one core", local / one[PUBLISHED], 8)
        others = [rate for name, rate in one.items() if name != OURS]
        at_least("whole job to the fastest other way", local / max(others), 1)
    if "growth" in found:
        points = found["growth"]["by_pairs"]
        ratio = points[-1]["pairs_per_second"] / points[0]["pairs_per_second"]
        at_least("pairs/s, longest to shortest stream", ratio, 0.9)
        at_least("whole job, all cores to one", _gain(found["growth"]["by_cores"]), 1.6)
        below("settles, share of the longest run", points[-1]["settle_share"], 0.1)
        peak = found["growth"]["without_duplicates"]["peak_bytes"]
        below("peak MB of the longest run, without exact duplicates", peak / 1e6, 700)
    if "kafka" in found:
        kafka = {line["what"]: line["pairs_per_second"] for line in found["kafka"]["lines"]}
        at_least("worker, JSON, to reading alone", kafka["worker, json"] / kafka["reading alone, json"], 0.55)
        if local:
            at_least("worker, Arrow, to the local rate of one core", kafka["worker, arrow"] / local, 0.7)
        for each in ("json", "arrow"):
            cost = 1 - kafka[f"worker, {each}"] / kafka[f"worker, {each}, without transactions"]
            below(f"what transactions cost, {each}", cost, 0.15)
    for key, limit_s in (("warm", 3), ("cold", 15)):
        if key in found.get("start", {}):
            below(f"first pair, {key}, s", found["start"][key]["first_pair_taken_s"], limit_s)
            below(f"first pair curated, {key}, s", found["start"][key]["first_pair_curated_s"], limit_s)
    return _table(
        ["aim", "", "measured", ""],
        [[what, aim, f"{value:.2f}", "yes" if reached else "no"] for what, aim, value, reached in rows],
    )


def plot(found: dict[str, Any], folder: Path) -> None:
    """Draw bench.png, and growth.png and traffic.png where there is something to draw."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    if {"matching", "whole_job"} <= set(found):
        figure, axes = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
        _bars(axes[0], "Matching", found["matching"], lambda each: each["contestants"], "pyahocorasick")
        _bars(axes[1], "Whole job, without the start", found["whole_job"], _rates_of_ways, PUBLISHED)
        figure.savefig(folder / "bench.png", dpi=110)
        plt.close(figure)
    if "growth" in found:
        figure, axes = plt.subplots(2, 3, figsize=(11, 5.5), layout="constrained")
        for row, (key, unit) in enumerate((("n_pairs", "pairs"), ("n_entries", "entries"))):
            points = found["growth"]["by_pairs" if row == 0 else "by_entries"]
            drawn = (
                ("pairs/s", [point["pairs_per_second"] for point in points]),
                ("peak memory, MB", [point["peak_bytes"] / 1e6 for point in points]),
                ("time in settles, %", [100 * point["settle_share"] for point in points]),
            )
            for axis, (what, values) in zip(axes[row], drawn, strict=True):
                axis.plot([point[key] for point in points], values, marker="o", color="#1b7f5c")
                axis.set(xlabel=unit, title=what, ylim=(0, 1.15 * max([*values, 1])))
                axis.xaxis.set_major_formatter(mpl.ticker.EngFormatter(sep=""))
                axis.yaxis.set_major_formatter(mpl.ticker.EngFormatter(sep=""))
                axis.grid(alpha=0.3)
        figure.savefig(folder / "growth.png", dpi=110)
        plt.close(figure)
    if "kafka" in found:
        figure, axis = plt.subplots(figsize=(6, 3.5), layout="constrained")
        points = found["kafka"]["traffic"]["by_workers"]
        workers = [point["workers"] for point in points]
        topics = ("pairs", "ledger", "counts")
        axis.stackplot(workers, *([point[topic] for point in points] for topic in topics), labels=topics, alpha=0.8)
        axis.set(xscale="log", xlabel="workers (simulated)", ylabel="bytes a pair, to and from the brokers")
        axis.set(xlim=(1, workers[-1]), ylim=(0, 1.3 * points[-1]["total"]))
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.legend(loc="upper left", ncols=3)
        figure.savefig(folder / "traffic.png", dpi=110)
        plt.close(figure)


def _rates_of_ways(found: dict[str, Any]) -> dict[str, Any]:
    return {name: way["without_start"] for name, way in found["ways"].items()}


def _bars(axis: Any, title: str, found: dict[str, Any], rates_of: Any, base: str) -> None:
    one, both = rates_of(found["one_core"]), rates_of(found["all_cores"])
    names = [name for name in one if name in both]
    for offset, rates, colour, label in ((-0.2, one, "#1b7f5c", "one core"), (0.2, both, "#9fd3c0", "all cores")):
        places = [place + offset for place in range(len(names))]
        values = [rates[name]["pairs_per_second"] for name in names]
        spread = [
            [value - rates[name]["slowest"] for name, value in zip(names, values, strict=True)],
            [rates[name]["fastest"] - value for name, value in zip(names, values, strict=True)],
        ]
        axis.barh(places, values, 0.4, xerr=spread, color=colour, label=label, ecolor="#555")
        for place, value, most in zip(places, values, spread[1], strict=True):
            times = _times(value / one[base]["pairs_per_second"])
            axis.annotate(f" {_number(value)}  ({times})", (value + most, place), va="center", fontsize=8)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set(title=title, xlabel="pairs/s", xlim=(0, 1.6 * axis.get_xlim()[1]))
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.xaxis.set_major_locator(_few_ticks())
    axis.legend(loc="upper right", fontsize=8)


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4)


def in_readme(readme: str, found: dict[str, Any]) -> str:
    """The text of README.md with these results between the marks.

    Raises:
        ValueError: the marks do not stand there once each.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise ValueError(f"{BEGIN} and {END} must stand in README.md once each")
    between = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.S)
    return between.sub(lambda _: f"{BEGIN}\n\n{markdown(found)}\n{END}", readme)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "out" / "bench" / "results.json", metavar="FILE")
    parser.add_argument(
        "--keep", action="store_true", help="keep them in the repository, and write them into README.md"
    )
    given = parser.parse_args()
    found = json.loads(given.results.read_text(encoding="utf-8"))
    print(markdown(found))
    print(aims(found))
    plot(found, given.results.parent)
    if given.keep:
        README.write_text(in_readme(README.read_text(encoding="utf-8"), found), encoding="utf-8")
        shutil.copyfile(given.results, KEPT)
        shutil.copyfile(given.results.with_name("bench.png"), KEPT_PLOT)


if __name__ == "__main__":
    main()
