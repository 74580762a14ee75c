"""What a replay found, as a table, as JSON and as a picture."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stream_curate.agreement import over_admission
from stream_curate.errors import OutputError
from stream_curate.replay import Agreement, Point, ReplayReport, Run, Variation
from stream_curate.replay_final import FinalReplayReport

# Okabe and Ito's colours, which people with any kind of colour vision can tell apart; each has its own marker as well
STYLES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"))
GREY = "#595959"
_MIN_SHOWN_DISTANCE = 1e-3  # smaller distances are drawn to scale down to 0, larger ones by their logarithm
_N_DIFFERENCES_SHOWN = 10


def write_json(report: ReplayReport | FinalReplayReport, path: Path) -> None:
    """Write `report.as_dict()` to `path`.

    Raises:
        OutputError: when it cannot be written.
    """
    try:
        path.write_text(json.dumps(report.as_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


def print_table(report: ReplayReport, console: Console) -> None:
    """Print the runs, the baseline's prefixes, and what it all comes to; readable from 80 columns on."""
    console.print(_runs_table(report))
    console.print()
    console.print(_prefixes_table(report.runs[0]))
    console.print()
    console.print(Text(f"{_verdict(report)}.", style="bold green" if report.is_equal else "bold red"))
    for line in _differences(report):
        console.print(Text(line, style="red"))
    for line in _explanations(report):
        console.print(Text(line, style="dim"))


def plot_convergence(report: ReplayReport, path: Path) -> None:
    """Draw the runs that differ in their order alone to the PNG `path`: how they converge, and the surplus on the way.

    Raises:
        OutputError: when it cannot be written.
    """
    figure = Figure(figsize=(11, 5.6), dpi=150)
    figure.subplots_adjust(left=0.07, right=0.985, top=0.8, bottom=0.19, wspace=0.17)
    distance, surplus = figure.subplots(1, 2)
    _plot_distance(distance, report)
    _plot_surplus(surplus, report)
    for axes in (distance, surplus):
        axes.set_xlabel("pairs read")
        axes.set_xlim(0, report.n_pairs * 1.02)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.grid(color="#E5E5E5", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.text(0.012, 0.975, _headline(report), size=15, weight="bold", va="top")
    about = (
        f"{report.n_pairs:,} pairs, {report.n_entries:,} entries, t = {report.rule.threshold:,}. "
        f"{_verdict(report)}, bit for bit."
    )
    figure.text(0.012, 0.915, about, size=10.5, color=GREY, va="top")
    handles, labels = distance.get_legend_handles_labels()
    figure.text(0.012, 0.05, "order of the pairs", size=10, color=GREY, va="center")
    figure.legend(handles, labels, loc="center left", bbox_to_anchor=(0.125, 0.05), ncols=6, frameon=False)
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


def _plot_distance(axes: Axes, report: ReplayReport) -> None:
    axes.set_title("Distance of the settled table to the final one", loc="left", size=11.5)
    axes.set_ylabel("total variation of the entry distribution")
    axes.set_yscale("symlog", linthresh=_MIN_SHOWN_DISTANCE, linscale=0.6)
    axes.yaxis.set_major_locator(FixedLocator([0, 0.001, 0.01, 0.1, 1]))
    axes.yaxis.set_minor_locator(FixedLocator([]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylim(0, 1)
    for run, (colour, marker) in zip(_runs_by_order(report), cycle(STYLES), strict=False):
        n_read = [point.n_read for point in run.points]
        distances = [point.whole.total_variation for point in run.points]
        name = _order_in_words(run.variation.order)
        axes.plot(n_read, distances, color=colour, marker=marker, label=name, clip_on=False, zorder=3)
    if report.noise:
        floor = fmean(agreement.total_variation for agreement in report.noise)
        axes.axhline(floor, color=GREY, linestyle=(0, (4, 3)), linewidth=1.2)
        _annotate(axes, f"noise floor, offline with different seeds: {floor:.2g}", 0.02, floor)
    _annotate(axes, "0: identical", 0.02, 0)


def _plot_surplus(axes: Axes, report: ReplayReport) -> None:
    axes.set_title("Surplus of a table that is not settled on the way", loc="left", size=11.5)
    axes.set_ylabel("pairs more than offline keeps")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    for run, (colour, marker) in zip(_runs_by_order(report), cycle(STYLES), strict=False):
        n_read = [point.n_read for point in run.points]
        axes.plot(n_read, [_surplus_percent(point) for point in run.points], color=colour, marker=marker, zorder=3)
    for run in report.runs:
        if run.variation.n_interruptions:
            # settled at each point: the surplus falls to that of the settled table, then grows again
            teeth = [(0, 0.0)]
            for point in run.points:
                settled = 100 * (over_admission(point.n_curated, point.n_offline) - 1)
                teeth += [(point.n_read, _surplus_percent(point)), (point.n_read, settled)]
            label = f"settled at every point (and interrupted {run.variation.n_interruptions} times)"
            axes.plot(*zip(*teeth, strict=True), color=GREY, linewidth=1.2, label=label, clip_on=False)
            axes.legend(loc="upper left", frameon=False, borderaxespad=0.2)
            break
    axes.set_ylim(0, 1.15 * axes.get_ylim()[1])


def _annotate(axes: Axes, text: str, x: float, y: float) -> None:
    """Put `text` just above height `y`, at the share `x` of the width."""
    across = axes.get_yaxis_transform()
    axes.annotate(text, (x, y), xycoords=across, xytext=(0, 4), textcoords="offset points", size=9, color=GREY)


def _runs_table(report: ReplayReport) -> Table:
    table = _table("Runs: the first, then what was changed in the others")
    table.add_column("run", ratio=1)
    for heading in ("equal to\noffline", "curated", "surplus\nat most", "TV\nunsettled", "TV to\nexact"):
        table.add_column(heading, justify="right", no_wrap=True)
    baseline = report.runs[0].variation
    for run in report.runs:
        n_equal, n_points = sum(point.is_equal for point in run.points), len(run.points)
        table.add_row(
            _in_words(run.variation, None if run is report.runs[0] else baseline),
            f"{n_equal} of {n_points}",
            f"{run.points[-1].n_curated:,}",
            f"{max(map(_surplus_percent, run.points)):.1f} %",
            _number(max(point.provisional.total_variation for point in run.points)),
            _number(max(point.exact.total_variation for point in run.points)),
            style="" if run.is_equal else "bold red",
        )
    return table


def _prefixes_table(run: Run) -> Table:
    table = _table("The first run, prefix by prefix")
    for heading in ("read", "kept by\noffline", "settled\ntable", "before\nsettling", "surplus", "Jaccard", "TV", "KL"):
        table.add_column(heading, justify="right", no_wrap=True)
    for point in run.points:
        table.add_row(
            f"{point.n_read:,}",
            f"{point.n_offline:,}",
            f"{point.n_curated:,}",
            f"{point.n_provisional:,}",
            f"{_surplus_percent(point):.1f} %",
            *_agreement_cells(point.whole),
        )
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0), pad_edge=False)


def _verdict(report: ReplayReport) -> str:
    n_points = sum(len(run.points) for run in report.runs)
    n_equal = sum(point.is_equal for run in report.runs for point in run.points)
    if n_equal == n_points:
        return f"All {n_points} settled prefixes of {len(report.runs)} runs hold exactly what offline gives for them"
    return f"{n_points - n_equal} of {n_points} settled prefixes do NOT hold what offline gives for them"


def _headline(report: ReplayReport) -> str:
    if report.is_equal:
        return "Whatever the order, the stream ends in the offline subset"
    return "The stream does not give the offline subset"


def _differences(report: ReplayReport) -> Iterator[str]:
    """The first prefixes that differ from offline."""
    different = [(run.variation, point) for run in report.runs for point in run.points if not point.is_equal]
    for variation, point in different[:_N_DIFFERENCES_SHOWN]:
        yield (
            f"  {_in_words(variation)}: after {point.n_read:,} pairs {point.n_curated:,} in place of "
            f"{point.n_offline:,}, Jaccard {_number(point.settled.jaccard)}"
        )
    if len(different) > _N_DIFFERENCES_SHOWN:
        yield f"  and {len(different) - _N_DIFFERENCES_SHOWN:,} more"


def _explanations(report: ReplayReport) -> Iterator[str]:
    yield (
        f"Read: {report.n_records:,} records, {report.n_pairs:,} valid pairs ({report.n_unique:,} distinct, "
        f"{report.n_matched:,} with matches); {report.n_head:,} head and {report.n_tail:,} tail entries at "
        f"t = {report.rule.threshold:,}."
    )
    if report.noise:
        jaccard, total_variation, kl_divergence = (
            _number(fmean(getattr(agreement, name) for agreement in report.noise))
            for name in ("jaccard", "total_variation", "kl_divergence")
        )
        yield (
            "Noise floor, between offline runs for the whole stream that differ in the seed alone: "
            f"Jaccard {jaccard}, TV {total_variation}, KL {kl_divergence}."
        )
    yield "Surplus: pairs in the table beyond those that offline keeps, before it is settled."
    yield (
        "TV, KL: total variation and Kullback-Leibler divergence (nats) of the entry distribution; in the upper table "
        "the largest to offline for the same prefix, unsettled, and settled to offline with exact counts; in the lower "
        "one (with Jaccard) of the settled prefix to offline for the whole stream."
    )


def _runs_by_order(report: ReplayReport) -> list[Run]:
    """The runs that are the first with nothing but another order, itself included."""
    baseline = report.runs[0].variation
    return [run for run in report.runs if replace(run.variation, order=baseline.order) == baseline]


def _in_words(variation: Variation, baseline: Variation | None = None) -> str:
    """The variation, or with `baseline` what is different from it."""
    pieces = [
        ("order", _order_in_words(variation.order)),
        ("batch_size", f"batches of {variation.batch_size:,}"),
        ("counter", f"{variation.counter.kind} counts"),
        ("n_interruptions", f"interrupted {variation.n_interruptions} times" if variation.n_interruptions else ""),
    ]
    shown = [
        words
        for name, words in pieces
        if words and (baseline is None or getattr(variation, name) != getattr(baseline, name))
    ]
    return ", ".join(shown)


def _order_in_words(order: str) -> str:
    """How an order is called in a table or picture.

    >>> _order_in_words("by-text"), _order_in_words("shuffled-2")
    ('sorted by text', 'shuffled (2)')
    """
    if order.startswith("shuffled-"):
        return f"shuffled ({order.removeprefix('shuffled-')})"
    return {"given": "as given", "by-text": "sorted by text", "by-url": "sorted by url"}.get(order, order)


def _surplus_percent(point: Point) -> float:
    return 100 * (point.over_admission - 1)


def _agreement_cells(agreement: Agreement) -> tuple[str, str, str]:
    return _number(agreement.jaccard), _number(agreement.total_variation), _number(agreement.kl_divergence)


def _number(value: float) -> str:
    """Two significant digits of what is near 0, three of what is near 1, and no rounding to 0 or to 1.

    >>> _number(0.00383), _number(0.4372), _number(1.0), _number(0.99999)
    ('0.0038', '0.437', '1', '0.99999')
    """
    if value >= 0.9995 and value < 1:
        return f"{value:.6g}"
    return f"{value:.2g}" if value < 0.01 else f"{value:.3g}"
