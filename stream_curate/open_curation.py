"""From settings and a folder to a curation that is ready to go on.

Settings that were given must agree with what the table was made with; those that were not are taken from it. The
threshold alone may change, and only downwards; where decisions are final not even that.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import structlog

from stream_curate.curate import Curation, Pace
from stream_curate.curator import Curator, MatcherName
from stream_curate.errors import ConfigError
from stream_curate.final_curator import FinalCurator
from stream_curate.final_rule import FINAL_RULE_VERSION, FinalDecisions
from stream_curate.metadata import Metadata
from stream_curate.rule import Rule
from stream_curate.settings import Settings
from stream_curate.table.curated_table import CuratedTable
from stream_curate.table.folder import FROM_FILES, Identity, TableFolder
from stream_curate.warm_up import warm_up

PUBLIC_SEED = 0

log = structlog.get_logger()


def open_curation(out: Path, settings: Settings) -> Curation:
    """Open or make the table in `out`, and a curator that stands where its last checkpoint was.

    Raises:
        ConfigError: for settings that cannot be used, or that contradict the table.
        OutputError: for a table that is in use, damaged or cannot be written.
    """
    folder = TableFolder(out)
    identity = folder.identity() if folder.exists() and folder.was_committed_to() else None
    if identity is not None:
        identity.check_origin(out, FROM_FILES)
    metadata = load_metadata(settings, folder if identity is not None else None)
    seed = settings.read_seed()
    if identity is None:
        rule = make_rule(settings, metadata, seed, settings.final_decisions)
        identity = Identity(rule, settings.keep_columns)
    else:
        identity = _agree(out, settings, metadata, seed, identity)
    if seed is None:
        seed = public_seed()
    warm_up(identity.rule, settings.matcher)
    curator = _curator(identity.rule, metadata, seed, settings.matcher)
    table = CuratedTable.open(out, identity, metadata, keep_versions=settings.keep_versions)
    try:
        if table.state.rule.threshold < curator.rule.threshold:
            if settings.was_given("threshold"):
                raise ConfigError(
                    f"{out} was curated with threshold {table.state.rule.threshold}, which cannot be raised to "
                    f"{curator.rule.threshold}: pairs dropped meanwhile are gone. Curate again into a new folder"
                )
            curator.lower_threshold(table.state.rule.threshold)
        pace = Pace(
            settings.batch_size,
            settings.checkpoint_interval_s,
            settings.settle_growth,
            settings.first_settle_records,
            settings.settle_share,
            settings.n_threads,
        )
        return Curation(curator, table, pace)
    except BaseException:
        table.close()
        raise


def _curator(rule: Rule, metadata: Metadata, seed: int, matcher: MatcherName) -> Curator:
    if rule.final is not None:
        return FinalCurator(
            metadata, rule.final, threshold=rule.threshold, seed=seed, dedup=rule.dedup, matcher=matcher
        )
    return Curator(
        metadata, threshold=rule.threshold, seed=seed, counter=rule.counter, dedup=rule.dedup, matcher=matcher
    )


def public_seed() -> int:
    """The default seed, with the warning that belongs to it."""
    log.warning(
        "the seed is the public default, 0: with it anybody can make urls that are always admitted. "
        "For production give a secret one with --seed-file"
    )
    return PUBLIC_SEED


def load_metadata(settings: Settings, folder: TableFolder | None) -> Metadata:
    """The list that was given, else the one that lies with the table, else the shipped one."""
    if settings.metadata is not None:
        return Metadata.load(settings.metadata)
    return folder.metadata() if folder is not None else Metadata.default()


def make_rule(settings: Settings, metadata: Metadata, seed: int | None, final: FinalDecisions | None = None) -> Rule:
    """The rule of these settings alone, with provisional decisions unless `final` says otherwise."""
    return Rule.of(
        metadata,
        threshold=settings.threshold,
        seed=PUBLIC_SEED if seed is None else seed,
        counter=settings.counter_with_sizes,
        dedup=settings.dedup,
        final=final,
    )


def _agree(out: Path, settings: Settings, metadata: Metadata, seed: int | None, table: Identity) -> Identity:
    """The table's identity, with a threshold that was given; ConfigError naming all that contradicts it."""
    wanted = make_rule(settings, metadata, seed)
    found = table.rule
    problems = []
    if wanted.metadata_sha256 != found.metadata_sha256:
        problems.append(f"metadata: the table has {found.metadata_sha256}, given was {wanted.metadata_sha256}")
    if wanted.validator_version != found.validator_version:
        problems.append(
            f"validator: the table has version {found.validator_version}, this program {wanted.validator_version}"
        )
    if settings.was_given("counter") and wanted.counter.kind != found.counter.kind:
        problems.append(f"counter: the table has {found.counter.kind}, given was {wanted.counter.kind}")
    elif settings.was_given("count_min") and found.counter.kind == "count-min":
        sizes = settings.count_min.model_fields_set
        problems += [
            f"count_min.{key}: the table has {getattr(found.counter, key)}, given was {getattr(wanted.counter, key)}"
            for key in ("num_hashes", "num_buckets")
            if key in sizes and getattr(settings.count_min, key) != getattr(found.counter, key)
        ]
    if settings.was_given("dedup") and wanted.dedup != found.dedup:
        problems.append(f"dedup: the table has {found.dedup}, given was {wanted.dedup}")
    if settings.was_given("keep_columns") and settings.keep_columns != table.kept_columns:
        kept, given = ",".join(table.kept_columns) or "none", ",".join(settings.keep_columns) or "none"
        problems.append(f"keep_columns: the table has {kept}, given was {given}")
    problems += _disagreements_on_decisions(settings, found)
    if wanted.seed_fingerprint != found.seed_fingerprint:
        given = "no seed was given" if seed is None else f"given was one with fingerprint {wanted.seed_fingerprint}"
        problems.append(f"seed: the table has one with fingerprint {found.seed_fingerprint}, {given}")
    if problems:
        raise ConfigError(
            f"{out} was made with other settings:\n"
            + "\n".join(f"  {problem}" for problem in problems)
            + "\nGive the table's own (or leave them out; the seed must be given), or curate into a new folder"
        )
    threshold = settings.threshold if settings.was_given("threshold") else found.threshold
    return replace(table, rule=replace(found, threshold=threshold))


def _disagreements_on_decisions(settings: Settings, found: Rule) -> list[str]:
    """What contradicts the kind of decisions that a table was made with."""
    problems = []
    if settings.was_given("decisions") and settings.decisions != found.decisions:
        problems.append(f"decisions: the table's are {found.decisions}, given was {settings.decisions}")
    if found.final is None:
        if settings.was_given("pool_size"):
            problems.append("pool_size: the table's decisions are provisional, and take none")
        return problems
    if settings.was_given("pool_size") and settings.pool_size != found.final.pool_size:
        problems.append(f"pool_size: the table has {found.final.pool_size}, given was {settings.pool_size}")
    if settings.was_given("horizon") and settings.horizon != found.final.horizon:
        problems.append(f"horizon: the table has {found.final.horizon}, given was {settings.horizon}")
    if settings.was_given("threshold") and settings.threshold != found.threshold:
        problems.append(
            f"threshold: the table has {found.threshold} for good, as its decisions are final; given was "
            f"{settings.threshold}"
        )
    if found.final.version != FINAL_RULE_VERSION:
        problems.append(
            f"decisions: the table has version {found.final.version} of the rule, this program {FINAL_RULE_VERSION}"
        )
    return problems
