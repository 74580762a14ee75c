"""`stream-curate explain`: why a pair is, or would be, kept."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import typer

from stream_curate.commands import options
from stream_curate.commands.output import console, number_table, print_json
from stream_curate.commands.setup import known_seed
from stream_curate.draws import bases, draws
from stream_curate.errors import UsageError
from stream_curate.matching import make_matcher
from stream_curate.pairs import PAIR_ID, make_pairs
from stream_curate.printable import printable
from stream_curate.settings import load_settings
from stream_curate.table.view import TableView

_PAIR_ID = re.compile("[0-9a-fA-F]{32}")


@dataclass(frozen=True)
class _Pair:
    """What is asked about. `pair_id` is None for a text alone."""

    pair_id: bytes | None
    text: str
    entry_ids: np.ndarray
    is_in_table: bool


def explain(
    table: options.TableDir,
    pair_id: Annotated[
        str | None, typer.Option(metavar="HEX", help="A pair in the table, by its 32 hex digits.")
    ] = None,
    url: Annotated[str | None, typer.Option(metavar="URL", help="A pair by its url (and --text).")] = None,
    text: Annotated[str | None, typer.Option(metavar="TEXT", help="A caption: alone, or with --url.")] = None,
    seed: options.Seed = None,
    seed_file: options.SeedFile = None,
    config: options.Config = None,
    json: options.Json = False,
) -> None:
    """Why a pair is kept: its matched entries, their counts, and the probability to be kept.

    For a pair in the settled table also the draws and the verdict, which needs the table's seed. For any other pair
    neither is shown: it would tell a site which urls get in.

    In a table with final decisions the probability is that of such a pair if it came now.
    """
    view = TableView(table)
    settings = load_settings(config, options.given(seed=seed, seed_file=seed_file))
    pair = _find(view, pair_id, url, text)
    report = _report(view, pair, known_seed(view, settings) if pair.is_in_table else None)
    if json:
        print_json(report)
    else:
        _show(report)


def _find(view: TableView, pair_id: str | None, url: str | None, text: str | None) -> _Pair:
    if pair_id is not None and url is None and text is None:
        wanted = _parse_pair_id(pair_id)
        found = _look_up(view, wanted)
        if found is None:
            raise UsageError(f"{pair_id} is not in the settled table: give its --url and --text to see what it matches")
        return found
    if pair_id is not None or text is None:
        raise UsageError("give --pair-id, or --url and --text, or --text alone")
    wanted_id = None
    if url is not None:
        try:
            wanted_id = make_pairs([url], [text]).column("pair_id")[0].as_py()
        except ValueError as error:
            raise UsageError(f"this is not a valid pair: {error}") from None
        found = _look_up(view, wanted_id)
        if found is not None:
            return found
    try:
        texts = pa.array([text], pa.string())
    except UnicodeEncodeError:
        raise UsageError("the text is not UTF-8") from None
    matches = make_matcher("automaton", view.metadata.entries).match(texts)
    return _Pair(wanted_id, text, matches.entry_ids, is_in_table=False)


def _parse_pair_id(text: str) -> bytes:
    if not _PAIR_ID.fullmatch(text):
        raise UsageError(f"a pair_id is 32 hex digits, not {printable(text, 60)!r}")
    return bytes.fromhex(text)


def _look_up(view: TableView, pair_id: bytes) -> _Pair | None:
    for batch in view.read_settled(["pair_id", "text", "entry_ids"]):
        row = pc.index(batch.column("pair_id"), pa.scalar(pair_id, pa.binary())).as_py()
        if row >= 0:
            entry_ids = np.array(batch.column("entry_ids")[row].as_py(), np.int32)
            return _Pair(pair_id, batch.column("text")[row].as_py(), entry_ids, is_in_table=True)
    return None


def _report(view: TableView, pair: _Pair, seed: int | None) -> dict[str, Any]:
    counts, chances = view.settled_entry_counts[pair.entry_ids], view.chances
    threshold = view.settled.threshold
    entries = [
        {"entry": view.metadata.entry(int(row)), "entry_id": int(row), "count": int(count), "chance": chance}
        for row, count, chance in zip(pair.entry_ids, counts, chances.of_entries(pair.entry_ids).tolist(), strict=True)
    ]
    report: dict[str, Any] = {
        "text": pair.text,
        "pair_id": pair.pair_id.hex() if pair.pair_id is not None else None,
        "in_table": pair.is_in_table,
        "decisions": view.rule.decisions,
        "threshold": threshold,
        "matched_entries": entries,
        "keep_probability": chances.of_pair(pair.entry_ids),
    }
    if pair.is_in_table and seed is not None:
        base = bases(pa.array([pair.pair_id], PAIR_ID), seed)
        drawn = draws(np.repeat(base, len(entries)), view.metadata.keys[pair.entry_ids])
        for entry, draw in zip(entries, drawn.tolist(), strict=True):
            entry["draw"] = draw
            if view.rule.final is None:
                entry["keeps"] = draw * entry["count"] < threshold
        if view.rule.final is not None:
            report["verdict"] = "accepted for good when it came, by the counts of that time, which nobody wrote down"
            return report
        report["verdict"] = "kept by " + ", ".join(repr(e["entry"]) for e in entries if e["keeps"])
    return report


def _show(report: dict[str, Any]) -> None:
    is_final = report["decisions"] == "final"
    console.print(f"text {printable(report['text'], 400)}")
    if report["pair_id"]:
        where = f"{'' if report['in_table'] else 'not '}in the {'' if is_final else 'settled '}table"
        console.print(f"pair_id {report['pair_id']}, {where}")
    threshold = report["threshold"]
    rows: list[tuple[str, int | str, str]] = []
    for entry in report["matched_entries"]:
        words = f"{'accepts now' if is_final else 'keeps'} with probability {entry['chance']:.4f}"
        if is_final and "draw" in entry:
            words += f"; draw = {entry['draw']:.4f}"
        elif "draw" in entry:
            sign = "< t, keeps it" if entry["keeps"] else ">= t"
            words += f"; draw x count = {entry['draw'] * entry['count']:,.1f} {sign}"
        rows.append((printable(entry["entry"], 60), entry["count"], words))
    console.print(number_table(f"Matched entries, with their counts (t = {threshold:,})", rows))
    if not rows:
        console.print("no entry matches: such a pair is always dropped")
    console.print(f"{'P(accept) now' if is_final else 'P(keep)'} = {report['keep_probability']:.4f}")
    if "verdict" in report:
        console.print(printable(report["verdict"]))
    elif report["in_table"]:
        console.print("its draws are not shown: they need the table's seed, given with --seed-file")
