"""What a replay of final decisions found, as a table, as Markdown and as a picture. (As JSON: see `replay_report`.)"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stream_curate.errors import OutputError
from stream_curate.replay_final import FinalReplayReport, FinalRun
from stream_curate.replay_report import GREY, STYLES

_BAND = "#D9D9D9"
_LEGEND: dict[str, Any] = {"frameon": False, "columnspacing": 1.4, "handletextpad": 0.5}
_HEADINGS = (
    "order of the stream",
    "TV / floor",
    "same seed",
    "accepted / offline",
    "head over",
    "head under",
    "tail lost",
)
_WORDS = {
    "given": "as it is",
    "shuffled": "shuffled",
    "by-domain": "sorted by domain",
    "by-length": "sorted by caption length",
}


def print_table(report: FinalReplayReport, console: Console) -> None:
    """Print how each order ends, for each threshold, and what the columns mean; readable from 80 columns on."""
    for threshold in report.thresholds:
        runs = _runs_at(report, threshold)
        table = Table(
            title=Text(f"t = {threshold:,}, noise floor TV {runs[0].points[-1].floor:.2g}"),
            title_justify="left",
            title_style="bold",
            box=None,
            padding=(0, 1, 0, 0),
            pad_edge=False,
        )
        table.add_column(_HEADINGS[0], no_wrap=True)
        for heading in _HEADINGS[1:]:
            table.add_column(heading.replace(" ", "\n", 1), justify="right", no_wrap=True)
        for run in runs:
            table.add_row(order_in_words(run.order), *_cells(run))
        console.print(table)
        console.print()
    for line in _explanations(report):
        console.print(Text(line, style="dim"))


def markdown_table(report: FinalReplayReport) -> str:
    """The same numbers as a table in Markdown."""
    lines = [f"| t | {' | '.join(_HEADINGS)} |", f"|---|---|{'---:|' * (len(_HEADINGS) - 1)}"]
    lines += [
        f"| {run.threshold:,} | {order_in_words(run.order)} | {' | '.join(_cells(run))} |"
        for threshold in report.thresholds
        for run in _runs_at(report, threshold)
    ]
    return "\n".join(lines) + "\n"


def write_markdown(report: FinalReplayReport, path: Path) -> None:
    """Write `markdown_table` to `path`.

    Raises:
        OutputError: when it cannot be written.
    """
    try:
        path.write_text(markdown_table(report), "utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


def plot_final(report: FinalReplayReport, path: Path) -> None:
    """Draw the distance to offline by prefix and order, one field for each threshold, to the PNG `path`.

    Raises:
        OutputError: when it cannot be written.
    """
    thresholds = report.thresholds
    figure = Figure(figsize=(11, 5.6), dpi=150)
    figure.subplots_adjust(left=0.075, right=0.985, top=0.8, bottom=0.2, wspace=0.08)
    fields = figure.subplots(1, len(thresholds), sharey=True, squeeze=False)[0]
    for axes, threshold in zip(fields, thresholds, strict=True):
        _plot_distance(axes, report, threshold)
    fields[0].set_ylabel("total variation of the entry distribution")
    end = "a known end" if report.final.horizon == "known" else "an endless horizon"
    figure.text(
        0.012, 0.975, "Final decisions: how near the accepted pairs come to offline", size=15, weight="bold", va="top"
    )
    about = (
        f"{report.n_pairs:,} pairs, {report.n_entries:,} entries, pool size N = {report.final.pool_size:,}, {end}. "
        "For the first n pairs offline has the threshold t·n/N, and another seed."
    )
    figure.text(0.012, 0.915, about, size=10.5, color=GREY, va="top")
    band, *lines = fields[0].get_legend_handles_labels()[0]
    figure.text(0.012, 0.05, "order of the pairs", size=10, color=GREY, va="center")
    figure.legend(handles=[*lines, band], loc="center left", bbox_to_anchor=(0.128, 0.05), ncols=6, **_LEGEND)
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


def order_in_words(order: str) -> str:
    """How an order is called in a table or picture.

    >>> order_in_words("by-length")
    'sorted by caption length'
    """
    return _WORDS[order]


def _plot_distance(axes: Axes, report: FinalReplayReport, threshold: int) -> None:
    runs = _runs_at(report, threshold)
    axes.set_title(f"t = {threshold:,}", loc="left", size=11.5)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(FixedLocator([1e-5, 1e-4, 1e-3, 0.01, 0.1, 1]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(FixedLocator([]))
    n_decided = [point.n_decided for point in runs[0].points]
    least = [min(run.points[i].floor_least for run in runs) for i in range(len(n_decided))]
    most = [max(run.points[i].floor_most for run in runs) for i in range(len(n_decided))]
    axes.fill_between(n_decided, least, most, color=_BAND, linewidth=0, label="noise floor: two offline runs")
    for run, (colour, marker) in zip(runs, cycle(STYLES), strict=False):
        distances = [point.distance for point in run.points]
        axes.plot(n_decided, distances, color=colour, marker=marker, label=order_in_words(run.order), zorder=3)
    axes.set_xlabel("pairs read")
    axes.set_xlim(0, report.n_pairs * 1.03)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.grid(color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _runs_at(report: FinalReplayReport, threshold: int) -> list[FinalRun]:
    return [run for run in report.runs if run.threshold == threshold]


def _cells(run: FinalRun) -> list[str]:
    last, admission = run.points[-1], run.admission
    return [
        f"{last.multiple:.2f}",
        f"{last.multiple_same_seed:.2f}",
        _percent(last.n_accepted / last.n_offline) if last.n_offline else "",
        _percent(admission.head_over),
        _percent(admission.head_under),
        _percent(admission.tail_loss),
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _explanations(report: FinalReplayReport) -> Iterator[str]:
    final = report.final
    yield (
        f"Read: {report.n_records:,} records, {report.n_pairs:,} distinct valid pairs ({report.n_matched:,} with "
        f"matches). Pool size N = {final.pool_size:,}, horizon {final.horizon}. Means over {report.n_seeds} seeds."
    )
    yield (
        "TV / floor: total variation between the entry distributions of the accepted pairs and of offline with other "
        "seeds, at the end of the stream, in multiples of the noise floor: that between two offline runs with "
        "different seeds. Same seed: to the offline run with the same draws."
    )
    yield (
        "Head over, under: matches of head entries (more than t x n / N) that were let in beyond those of offline, or "
        "are missing, as shares of offline's. Tail lost: pairs with a tail entry that were dropped; offline keeps all."
    )
