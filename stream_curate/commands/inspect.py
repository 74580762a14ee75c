"""`stream-curate inspect`: what a table holds."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import numpy as np
import typer

from stream_curate.commands import options
from stream_curate.commands.output import console, print_json, show_numbers
from stream_curate.commands.setup import seed_for
from stream_curate.errors import UsageError
from stream_curate.final_rule import FinalDecisions
from stream_curate.page.card import cut_of
from stream_curate.printable import printable
from stream_curate.settings import load_settings
from stream_curate.table.view import TableView

N_TOP = 10
N_SOURCES_SHOWN = 10


def inspect(
    table: options.TableDir,
    what_if: Annotated[
        str | None,
        typer.Option(
            metavar="N,N", help="Also: how many pairs lower thresholds would keep, exactly. Needs the table's seed."
        ),
    ] = None,
    seed: options.Seed = None,
    seed_file: options.SeedFile = None,
    config: options.Config = None,
    json: options.Json = False,
) -> None:
    """What a curated table holds: its rule, its cut, its numbers, its head and tail, its digest."""
    view = TableView(table)
    sizes: dict[int, int] = {}
    if what_if is not None:
        view.check_settles("--what-if")  # before a seed is asked for
        settings = load_settings(config, options.given(seed=seed, seed_file=seed_file))
        sizes = view.sizes_at(_thresholds(what_if), seed_for(view, settings))
    report = _report(view, sizes)
    if json:
        print_json(report)
    else:
        _show(view, report)


def _thresholds(text: str) -> list[int]:
    try:
        return [int(piece) for piece in text.split(",")]
    except ValueError:
        raise UsageError(f"--what-if takes thresholds with commas between, such as 10000,5000; not {text!r}") from None


def _report(view: TableView, sizes: dict[int, int]) -> dict[str, Any]:
    numbers, settled = view.state.numbers, view.state.settled
    counts, tail_count = view.entry_counts, view.chances.tail_count
    curated = view.curated_entry_counts if settled is not None else np.zeros_like(counts)
    threshold = settled.threshold if settled is not None else view.rule.threshold
    bound, probability = view.rule.counter.error_bound(numbers.n_matches)
    top = [int(row) for row in np.argsort(-counts, kind="stable")[:N_TOP] if counts[row]]
    return {
        "n_read": numbers.n_read,
        "n_unique": numbers.n_unique,
        "n_matched": numbers.n_matched,
        "n_admitted": numbers.n_admitted,
        "n_evicted": numbers.n_evicted,
        "n_curated": settled.n_curated if settled is not None else 0,
        "n_pending": view.n_pending,
        "n_duplicate": numbers.n_duplicate,
        "n_forwarded": numbers.n_forwarded,
        "n_rejected": numbers.n_rejected,
        "rejected": numbers.rejected,
        "dropped": numbers.dropped,
        "origin": view.identity.origin,
        "digest": view.digest() if settled is not None else None,
        "settled_version": settled.version if settled is not None else None,
        "settled_n_read": settled.n_read if settled is not None else 0,
        "cut": settled.cut if settled is not None else {},
        **view.rule.as_dict(),
        "decisions": view.rule.decisions,
        "pool_size": view.rule.final.pool_size if view.rule.final is not None else None,
        "horizon": view.rule.final.horizon if view.rule.final is not None else None,
        "threshold": threshold,
        "tail_count": tail_count,
        "n_entries": len(view.metadata),
        "n_matches": numbers.n_matches,
        "counter_error_bound": bound,
        "counter_error_probability": probability,
        "n_head": int(np.count_nonzero(counts > tail_count)),
        "n_tail": int(np.count_nonzero((counts > 0) & (counts <= tail_count))),
        "tail_share_before": _share(counts, counts <= tail_count),
        "tail_share_after": _share(curated, counts <= tail_count),
        "top_entries": [
            {"entry": view.metadata.entry(row), "count": int(counts[row]), "curated": int(curated[row])} for row in top
        ],
        "what_if": {str(threshold): size for threshold, size in sizes.items()},
        "sources": [asdict(source) for source in view.state.sources],
    }


def _share(counts: np.ndarray, chosen: np.ndarray) -> float:
    total = int(counts.sum())
    return float(counts[chosen].sum() / total) if total else 0.0


def _show(view: TableView, report: dict[str, Any]) -> None:
    counter, final = report["counter"], view.rule.final
    sketch = (
        "8 bytes an entry"
        if counter["kind"] == "exact"
        else f"{counter['num_hashes']} x {counter['num_buckets']:,} cells; a count is too high by more than "
        f"{report['counter_error_bound']:,.1f} with probability below {report['counter_error_probability']:.3f}"
    )
    console.print(f"Curated table {printable(str(view.folder.root))}", style="bold")
    rule: list[tuple[str, int | str, str]] = [
        ("threshold t", report["threshold"], "entries matched more often are cut to about that many pairs"),
        *_about_decisions(final),
        ("entries", report["n_entries"], "in the metadata"),
        ("seed", report["seed_fingerprint"], "its fingerprint"),
        ("counter", counter["kind"], sketch),
        ("dedup", report["dedup"], "pairs that came before count nothing" if report["dedup"] == "exact" else ""),
    ]
    show_numbers("Rule", rule)
    forwarded: list[tuple[str, int | str, str]] = []
    if report["n_forwarded"]:
        forwarded.append(
            ("forwarded", report["n_forwarded"], "passed on to their home partition, and read again there")
        )
    numbers: list[tuple[str, int | str, str]] = [
        ("read", report["n_read"], "= unique + duplicates + " + ("forwarded + " if forwarded else "") + "rejected"),
        ("unique", report["n_unique"], ""),
        ("duplicates", report["n_duplicate"], ""),
        *forwarded,
        ("rejected", report["n_rejected"], ", ".join(f"{k} {v:,}" for k, v in sorted(report["rejected"].items()))),
        ("matched", report["n_matched"], f"with {report['n_matches']:,} matches"),
    ]
    if final is not None:
        numbers.append(("accepted", report["n_admitted"], f"for good; version {report['settled_version']} holds them"))
    else:
        numbers += _about_settling(view, report)
    show_numbers("Numbers", numbers)
    tail = f"matched 1 to {'t' if final is None else format(report['tail_count'], ',')} times"
    balance: list[tuple[str, int | str, str]] = [
        ("head entries", report["n_head"], "matched more than t times" if final is None else _head_in_words(report)),
        ("tail entries", report["n_tail"], f"{tail}: {'all' if final is None else 'nearly all'} their pairs are kept"),
        ("tail share", f"{report['tail_share_before']:.1%}", f"of all matches; {report['tail_share_after']:.1%} after"),
    ]
    show_numbers("Balance", balance)
    top: list[tuple[str, int | str, str]] = [
        (printable(row["entry"], 40), row["count"], f"{row['curated']:,} curated") for row in report["top_entries"]
    ]
    show_numbers("Entries matched most", top)
    if report["what_if"]:
        rows: list[tuple[str, int | str, str]] = [(f"t = {int(t):,}", n, "pairs") for t, n in report["what_if"].items()]
        show_numbers("What if t were lower", rows)
    cut = cut_of(view, report["cut"])
    show_numbers(
        f"{'Settled cut' if final is None else 'Cut'}: {report['settled_n_read']:,} records read", cut[:N_SOURCES_SHOWN]
    )
    if len(cut) > N_SOURCES_SHOWN:
        console.print(f"and {len(cut) - N_SOURCES_SHOWN:,} more sources; --json lists all")
    console.print(f"\nmetadata {report['metadata_sha256']}\ndigest   {report['digest'] or '(never settled)'}")


def _about_decisions(final: FinalDecisions | None) -> list[tuple[str, int | str, str]]:
    if final is None:
        return [("decisions", "provisional", "until the table is settled: then it equals offline")]
    words = "steered to its end" if final.horizon == "known" else "the accepted part stays in proportion beyond it"
    return [
        ("decisions", "final", "no pair is taken back; near offline's distribution, and equal to no offline run"),
        ("pool size N", final.pool_size, f"pairs that t belongs to; horizon {final.horizon}: {words}"),
    ]


def _head_in_words(report: dict[str, Any]) -> str:
    return f"matched more than {report['tail_count']:,} times, which is t x {report['n_unique']:,} pairs / N"


def _about_settling(view: TableView, report: dict[str, Any]) -> list[tuple[str, int | str, str]]:
    return [
        ("admitted", report["n_admitted"], ""),
        ("evicted", report["n_evicted"], ""),
        (
            "curated",
            report["n_curated"],
            f"never settled yet: {view.to_settle}"
            if report["settled_version"] is None
            else f"in the settled version {report['settled_version']}",
        ),
        ("pending", report["n_pending"], "admitted since, not settled yet"),
    ]
