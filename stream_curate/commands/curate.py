"""`stream-curate curate`: read pairs, keep a balanced table of them."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import structlog
import typer

from stream_curate import exit_codes
from stream_curate.commands import options
from stream_curate.commands.output import console, number_table, print_json
from stream_curate.commands.progress import RunProgress
from stream_curate.commands.setup import column_choice
from stream_curate.curate import Curation, Ending
from stream_curate.errors import InputError
from stream_curate.final_rule import FinalDecisions
from stream_curate.open_curation import open_curation
from stream_curate.printable import printable
from stream_curate.settings import load_settings
from stream_curate.sources import open_sources
from stream_curate.sources.source import display_name
from stream_curate.stop import StopRequest

N_LARGEST = 3

log = structlog.get_logger()


def curate(
    sources: options.Sources,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="DIR", help="The curated table: a new folder, or one to go on with."),
    ],
    metadata: options.Metadata = None,
    threshold: options.Threshold = None,
    seed: options.Seed = None,
    seed_file: options.SeedFile = None,
    counter: options.CounterChoice = None,
    dedup: options.DedupChoice = None,
    decisions: options.DecisionsChoice = None,
    pool_size: options.PoolSize = None,
    horizon: options.HorizonChoice = None,
    url_column: options.UrlColumn = None,
    text_column: options.TextColumn = None,
    columns: options.Columns = None,
    keep_columns: options.KeepColumns = None,
    format: options.Format = None,
    on_bad_file: options.BadFile = None,
    threads: options.Threads = None,
    batch_size: options.BatchSize = None,
    checkpoint_interval: options.CheckpointInterval = None,
    config: options.Config = None,
    profile: Annotated[bool, typer.Option("--profile", metavar="", help="Show where the time went, by stage.")] = False,
    json: options.Json = False,
) -> None:
    """Read pairs (url, caption) and keep a balanced table of them.

    Captions are matched against the metadata, a list of entries (concepts). Of entries that occur often, only about
    t pairs each are kept; everything rare is kept whole. When the command ends, DIR is a Delta table that holds
    exactly the pairs that MetaCLIP's two offline passes keep of everything read into it.

    With --decisions final no pair is taken back instead: DIR then holds pairs that follow the distribution of offline
    MetaCLIP nearly, and equals no offline run.

    Run it again with more sources to go on: those already read are skipped, pairs seen before count nothing. Stopped
    at any moment, by Ctrl-C or a crash, the same command continues.
    """
    settings = load_settings(
        config,
        options.given(
            metadata=metadata,
            threshold=threshold,
            seed=seed,
            seed_file=seed_file,
            counter=counter,
            dedup=dedup,
            decisions=decisions,
            pool_size=pool_size,
            horizon=horizon,
            url_column=url_column,
            text_column=text_column,
            columns=columns,
            keep_columns=keep_columns,
            format=format,
            on_bad_file=on_bad_file,
            threads=threads,
            batch_size=batch_size,
            checkpoint_interval_s=checkpoint_interval,
        ),
    )
    start_s = time.monotonic()
    stop = StopRequest()
    with stop.on_signals():
        opened = open_sources(sources, column_choice(settings), format=settings.format)
        curation = open_curation(out, settings)
        ready_s = time.monotonic() - start_s
        n_read_before = curation.numbers.n_read
        for source in curation.table.state.sources:
            if source.n_rows and not source.finished:
                log.info("going on inside a source", source=display_name(source.uri), from_row=source.n_rows)
        try:
            with RunProgress(opened, curation) as progress:
                ending = curation.run(
                    opened, skip_bad_files=settings.on_bad_file == "skip", stop=stop, on_batch=progress.show
                )
        except InputError:
            log.info(
                "what was read before is saved. To go on, leave the file out or use --on-bad-file skip; "
                "mended, give it under another name: pairs that were read already are known again"
            )
            raise
        finally:
            curation.table.close()
    n_read_now = curation.numbers.n_read - n_read_before
    run = _Run(curation, ending, out, n_read_now, time.monotonic() - start_s, ready_s, settings.n_threads)
    if json:
        print_json(run.as_dict())
    else:
        run.show(profile=profile)
    if ending is Ending.INTERRUPTED:
        print("interrupted, with everything saved: the same command continues", file=sys.stderr)
        raise typer.Exit(exit_codes.INTERRUPTED)
    if curation.skipped:
        raise typer.Exit(exit_codes.FILE_SKIPPED)


@dataclass(frozen=True)
class _Run:
    """What a run did. Its own are `n_read_now`, and the seconds, the first of which were for getting ready."""

    curation: Curation
    ending: Ending
    out: Path
    n_read_now: int
    seconds: float
    ready_seconds: float
    threads: int

    def as_dict(self) -> dict[str, Any]:
        numbers = self.curation.numbers
        settled = self.curation.table.state.settled
        return {
            "ending": str(self.ending),
            "n_read": numbers.n_read,
            "n_unique": numbers.n_unique,
            "n_matched": numbers.n_matched,
            "n_admitted": numbers.n_admitted,
            "n_evicted": numbers.n_evicted,
            "n_curated": settled.n_curated if settled is not None else 0,
            "n_duplicate": numbers.n_duplicate,
            "n_rejected": numbers.n_rejected,
            "rejected": numbers.rejected,
            "dropped": numbers.dropped,
            "n_read_now": self.n_read_now,
            "seconds": round(self.seconds, 3),
            "ready_seconds": round(self.ready_seconds, 3),
            "threads": self.threads,
            "pairs_per_second": round(self.n_read_now / self.seconds, 1),
            "stages_seconds": {name: round(s, 4) for name, s in self.curation.curator.clock.seconds.items()},
            "largest_counts": [{"entry": entry, "count": count} for entry, count in self._largest()],
            "balanced": self._is_balanced(),
            "threshold": self.curation.curator.rule.threshold,
            "decisions": self.curation.curator.rule.decisions,
            "finished_before": self.curation.finished_before,
            "skipped": [{"source": name, "error": error} for name, error in self.curation.skipped],
            "out": str(self.out),
        }

    def show(self, *, profile: bool) -> None:
        curation, numbers = self.curation, self.curation.numbers
        for name in curation.finished_before:
            console.print(f"already read to its end, skipped: {printable(name)}")
        rows: list[tuple[str, int | str, str]] = [
            ("read", numbers.n_read, "records read into this table so far"),
            ("unique", numbers.n_unique, "valid pairs, each once"),
            ("matched", numbers.n_matched, "of these, with at least one matched entry"),
            *self._admitted(),
        ]
        rows.append(("duplicates", numbers.n_duplicate, "came before, count nothing"))
        rows.append(("rejected", numbers.n_rejected, "no valid pairs" + (", by reason:" if numbers.rejected else "")))
        rows += [(f"  {reason}", n, "") for reason, n in sorted(numbers.rejected.items())]
        rows.append(("seconds", f"{self.seconds:.1f}", f"for the {self.n_read_now:,} records of this run"))
        rows.append(("pairs/s", f"{self.n_read_now / self.seconds:,.0f}", ""))
        console.print(number_table(f"Curated into {self.out}", rows))
        if numbers.n_rejected:
            console.print(f"rejected records are listed in {curation.table.folder.rejects_file}")
        if not self._is_balanced() and numbers.n_matched:
            console.print(self._nothing_balanced())
        if profile:
            console.print(self._profile())
        for _, error in curation.skipped:
            console.print(f"skipped, not read to its end: {error}")

    def _nothing_balanced(self) -> str:
        threshold = self.curation.curator.rule.threshold
        largest = ", ".join(f"{printable(entry)} {count:,}" for entry, count in self._largest())
        if self._final is not None:
            return (
                f"No entry was frequent enough for t={threshold:,} in a pool of {self._final.pool_size:,} pairs, so "
                f"every matched pair was accepted. The largest counts: {largest}. "
                "A lower --threshold balances, in a new folder."
            )
        return (
            f"No entry was matched more than t={threshold:,} times, so nothing is balanced "
            f"and every matched pair is kept. The largest counts: {largest}. "
            "A lower --threshold balances; it can be lowered here, and never raised again."
        )

    def _profile(self) -> Any:
        seconds = {"get ready": self.ready_seconds, **self.curation.curator.clock.seconds}
        title = "Where the time went"
        if self.threads == 1:
            seconds["rest"] = self.seconds - sum(seconds.values())
        else:
            title += f", that of {self.threads} threads and the one that decides added up"
        rows: list[tuple[str, int | str, str]] = [
            (stage, f"{s:.2f} s", f"{1e6 * s / max(self.n_read_now, 1):.3f} µs a pair, {100 * s / self.seconds:.0f}%")
            for stage, s in seconds.items()
        ]
        return number_table(title, rows)

    def _admitted(self) -> list[tuple[str, int | str, str]]:
        """What became of the matched pairs."""
        numbers, settled, final = self.curation.numbers, self.curation.table.state.settled, self._final
        if final is not None:
            part = f"{numbers.n_unique / final.pool_size:.1%} of the pool of {final.pool_size:,} was read"
            return [("accepted", numbers.n_admitted, f"of these, for good; {part}")]
        rows: list[tuple[str, int | str, str]] = [
            ("admitted", numbers.n_admitted, "of these, let in as they came"),
            ("evicted", numbers.n_evicted, "taken out again when the table was settled"),
        ]
        if settled is not None and self.ending is Ending.DONE:
            rows.append(("curated", settled.n_curated, "in the settled table"))
        return rows

    @property
    def _final(self) -> FinalDecisions | None:
        return self.curation.curator.rule.final

    def _is_balanced(self) -> bool:
        if self._final is not None:
            return self.curation.numbers.n_admitted < self.curation.numbers.n_matched
        return bool(self._entry_counts.max() > self.curation.curator.rule.threshold)

    def _largest(self) -> list[tuple[str, int]]:
        counts = self._entry_counts
        rows = np.argsort(-counts, kind="stable")[:N_LARGEST]
        return [(self.curation.curator.metadata.entry(int(row)), int(counts[row])) for row in rows if counts[row]]

    @cached_property
    def _entry_counts(self) -> np.ndarray:
        return self.curation.entry_counts()
