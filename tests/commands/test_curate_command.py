"""`stream-curate curate`, as it is typed: what it does, says, refuses, and survives."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import (
    GOLDEN_METADATA,
    N_SHARD_ROWS,
    SHARDS,
    crawl,
    curate_shards,
    inspect_json,
    newest_version,
    offline_digest,
    outcome_of,
    run,
    small_table,
    start,
    wait_until,
    write_csv,
    write_metadata,
)

from stream_curate.draws import seed_fingerprint

GOLDEN_RULE = ["--metadata", GOLDEN_METADATA, "-t", 20, "--seed", 7]
COLUMNS = ["--columns", "caption,url"]
MANY_COMMITS = ["--batch-size", 100, "--checkpoint-interval", 0]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shards, curated without a disturbance: to be read only."""
    out = tmp_path_factory.mktemp("shards") / "t"
    curate_shards(out)
    return out


@pytest.fixture(scope="module")
def shards_digest(shards: Path) -> str:
    return str(inspect_json(shards)["digest"])


def curate(folder: Path, *sources: object, out: str = "t", rule: bool = True) -> list[object]:
    """The arguments of a run with a small list of entries, at t=5 with seed 7 and exact counts."""
    metadata = write_metadata(folder / "entries.txt")
    flags = ["--metadata", metadata, "-t", 5, "--seed", 7, "--counter", "exact"] if rule else []
    return ["curate", *sources, "--out", folder / out, *flags]


# what it does


def test_the_shipped_metadata_on_the_shards_gives_what_offline_gives(tmp_path: Path) -> None:
    rule = ["-t", 20, "--seed", 7]
    report = run("curate", SHARDS, *COLUMNS, "--out", tmp_path / "t", *rule, "--counter", "exact", "--json").ended(0)
    assert (report.json["n_read"], report.json["n_unique"]) == (N_SHARD_ROWS, N_SHARD_ROWS - 1)
    expected = offline_digest([SHARDS], *COLUMNS, *rule, out=tmp_path / "offline.parquet")
    assert inspect_json(tmp_path / "t")["digest"] == expected


def test_the_closing_table_tells_what_became_of_every_record(tmp_path: Path) -> None:
    pairs = [*crawl(40), *crawl(10), ("ftp://x.org/1", "a dog"), ("", "a dog"), ("", "a cat")]
    done = run(*curate(tmp_path, write_csv(tmp_path / "in.csv", pairs))).ended(0)
    numbers: dict[str, str] = {}
    for line in done.out.splitlines():
        numbers.setdefault(*[*line.split(), "", ""][:2])
    assert numbers["read"] == "53"
    assert numbers["unique"] == "40"
    assert numbers["duplicates"] == "10"
    assert numbers["rejected"] == "3"
    assert numbers["url_missing"] == "2"
    assert numbers["url_scheme"] == "1"
    assert {"matched", "admitted", "evicted", "curated", "seconds", "pairs/s"} <= numbers.keys()
    assert f"rejected records are listed in {tmp_path / 't' / '_rejects.jsonl'}" in done.words


def test_json_has_the_documented_keys_and_the_numbers_add_up(tmp_path: Path) -> None:
    pairs = [*crawl(40), *crawl(10), ("ftp://x.org/1", "a dog")]
    done = run(*curate(tmp_path, write_csv(tmp_path / "in.csv", pairs)), "--json").ended(0)
    report = done.json
    assert report["n_read"] == report["n_unique"] + report["n_duplicate"] + report["n_rejected"] == 51
    assert report["rejected"] == {"url_scheme": 1}
    assert report["n_curated"] == report["n_admitted"] - report["n_evicted"]
    assert report["ending"] == "done"
    assert report["n_read_now"] == 51
    assert {"n_matched", "seconds", "pairs_per_second", "threshold", "skipped", "finished_before"} <= report.keys()


def test_profile_shows_the_stages(tmp_path: Path) -> None:
    done = run(*curate(tmp_path, write_csv(tmp_path / "in.csv", crawl(40))), "--profile").ended(0)
    assert "Where the time went" in done.out
    for stage in ("read", "hash", "seen", "match", "count", "decide", "write", "settle", "commit"):
        assert any(line.split()[:1] == [stage] and "µs a pair" in line for line in done.out.splitlines()), stage


def test_when_nothing_is_balanced_that_is_said_with_the_largest_counts(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", [*crawl(50), ("http://y.org", "zebra")])
    metadata = write_metadata(tmp_path / "entries.txt")
    arguments = ["curate", source, "--metadata", metadata, "--counter", "exact", "--seed", 7]
    done = run(*arguments, "--out", tmp_path / "t").ended(0)
    assert "No entry was matched more than t=20,000 times, so nothing is balanced" in done.words
    report = run(*arguments, "--out", tmp_path / "u", "--json").ended(0).json
    assert report["balanced"] is False
    largest = report["largest_counts"]
    assert [row["count"] for row in largest] == sorted((row["count"] for row in largest), reverse=True)
    assert f"The largest counts: {largest[0]['entry']} {largest[0]['count']}" in done.words
    balanced = run(*arguments, "--out", tmp_path / "v", "-t", 5).ended(0)
    assert "nothing is balanced" not in balanced.words


def test_a_run_with_nothing_new_says_what_it_skipped(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", crawl(40))
    run(*curate(tmp_path, source)).ended(0)
    version = newest_version(tmp_path / "t")
    done = run(*curate(tmp_path, source)).ended(0)
    assert f"already read to its end, skipped: {source.as_uri()}" in done.words
    report = run(*curate(tmp_path, source), "--json").ended(0).json
    assert (report["n_read"], report["n_read_now"], report["finished_before"]) == (40, 0, [source.as_uri()])
    assert newest_version(tmp_path / "t") == version


def test_what_is_listed_twice_is_read_once(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", crawl(40))
    report = run(*curate(tmp_path, source, tmp_path / "*.csv", tmp_path, source.as_uri()), "--json").ended(0).json
    assert (report["n_read"], report["n_duplicate"]) == (40, 0)


def test_directories_and_globs_are_read_in_the_order_of_the_bytes_of_their_names(tmp_path: Path) -> None:
    names = ["b.csv", "a.csv", "B.csv", "é.csv", "a-1.csv", "a/z.csv", "_hidden.csv", ".hidden.csv"]
    for i, name in enumerate(names):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        write_csv(tmp_path / "in" / name, crawl(3, first=3 * i))
    visible = ["B.csv", "a-1.csv", "a.csv", "a/z.csv", "b.csv", "é.csv"]
    run(*curate(tmp_path, tmp_path / "in", out="t")).ended(0)
    uris = [source["uri"] for source in inspect_json(tmp_path / "t")["sources"]]
    assert uris == [(tmp_path / "in" / name).as_uri() for name in visible]
    run(*curate(tmp_path, tmp_path / "in" / "b.csv", tmp_path / "in" / "[a-z]*.csv", out="u")).ended(0)
    uris = [source["uri"] for source in inspect_json(tmp_path / "u")["sources"]]
    assert uris == [(tmp_path / "in" / name).as_uri() for name in ["b.csv", "a-1.csv", "a.csv"]]


def test_a_source_that_changed_its_size_is_refused(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", crawl(40))
    run(*curate(tmp_path, source)).ended(0)
    write_csv(source, crawl(41))
    refused = run(*curate(tmp_path, source)).ended(3)
    assert "A source must not change: give what is new as a file of its own" in refused.words
    shutil.copy(source, tmp_path / "new.csv")
    report = run(*curate(tmp_path, tmp_path / "new.csv"), "--json").ended(0).json
    assert (report["n_unique"], report["n_duplicate"]) == (41, 40)


def test_more_sources_later_continue_the_stream(tmp_path: Path, shards_digest: str) -> None:
    for name in ("laion-10k.parquet", "gcc-validation.tsv", "gcc-validation.jsonl"):
        curate_shards(tmp_path / "t", sources=[SHARDS / name])
    assert inspect_json(tmp_path / "t")["digest"] == shards_digest


# standard input


def test_standard_input_is_a_source_and_fed_again_is_all_duplicates(tmp_path: Path) -> None:
    """A real pipe, into a real process."""
    source = write_csv(tmp_path / "in.csv", crawl(400))
    content = source.read_bytes()
    process = start(*curate(tmp_path, "-"), "--json", stdin=subprocess.PIPE)
    out, err = process.communicate(content, timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["n_unique"] == 400
    report = run(*curate(tmp_path, "-"), "--json", stdin=content).ended(0).json
    assert (report["n_unique"], report["n_duplicate"], report["n_read_now"]) == (400, 400, 400)
    run(*curate(tmp_path, source, out="u")).ended(0)
    piped, read = inspect_json(tmp_path / "t"), inspect_json(tmp_path / "u")
    assert piped["digest"] == read["digest"]
    assert sum(piped["cut"].values()) == piped["settled_n_read"] == 800, "the cut must name what was fed first, too"


def test_standard_input_fed_again_without_dedup_is_refused(tmp_path: Path) -> None:
    content = write_csv(tmp_path / "in.csv", crawl(40)).read_bytes()
    run(*curate(tmp_path, "-"), "--dedup", "none", stdin=content).ended(0)
    refused = run(*curate(tmp_path, "-"), "--dedup", "none", stdin=content).ended(3)
    assert "standard input was read into this table before and cannot be continued" in refused.words
    assert inspect_json(tmp_path / "t")["n_read"] == 40


# stopping and going on


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_everything_and_the_same_command_goes_on(
    tmp_path: Path, shards_digest: str, number: signal.Signals
) -> None:
    out = tmp_path / "t"
    arguments = ["curate", SHARDS, *COLUMNS, "--out", out, *GOLDEN_RULE, "--counter", "exact", *MANY_COMMITS]
    process = start(*arguments)
    wait_until(lambda: newest_version(out) >= 3, process)
    process.send_signal(number)
    stopped = outcome_of(process)
    assert stopped.code == 8, stopped
    assert "interrupted, with everything saved: the same command continues" in stopped.err
    assert "Traceback" not in stopped.err
    position = 100 * (newest_version(out) - 1)
    done = run(*arguments[:-4], "--json").ended(0)
    assert "going on inside a source" in done.err
    assert done.json["n_read"] == N_SHARD_ROWS
    assert N_SHARD_ROWS - position - 300 <= done.json["n_read_now"] < N_SHARD_ROWS - 100
    assert inspect_json(out)["digest"] == shards_digest


def catches(process: subprocess.Popen[bytes], number: signal.Signals) -> bool:
    """Whether the process has a handler for this signal."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return False
    caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt:")).split()[1], 16)
    return bool(caught >> (number - 1) & 1)


def test_a_run_that_waits_for_standard_input_can_be_stopped(tmp_path: Path) -> None:
    content = write_csv(tmp_path / "in.csv", crawl(400)).read_bytes()
    process = start(*curate(tmp_path, "-"), *MANY_COMMITS, stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(content)
    process.stdin.flush()
    wait_until(lambda: catches(process, signal.SIGTERM), process)
    wait_until(lambda: newest_version(tmp_path / "t") > 0, process)  # what came is committed, and nothing more comes
    process.send_signal(signal.SIGINT)
    start_s = time.monotonic()
    assert process.wait(timeout=20) == 8
    assert time.monotonic() - start_s < 10
    assert b"the same command continues" in process.stderr.read()  # type: ignore[union-attr]
    for pipe in (process.stdin, process.stdout, process.stderr):
        pipe.close()  # type: ignore[union-attr]
    run(*curate(tmp_path, "-"), stdin=content).ended(0)
    run(*curate(tmp_path, tmp_path / "in.csv", out="u")).ended(0)
    assert inspect_json(tmp_path / "t")["digest"] == inspect_json(tmp_path / "u")["digest"]


def test_after_an_interrupted_run_the_settled_version_is_still_the_one_told(tmp_path: Path) -> None:
    table, _ = small_table(tmp_path, 10)
    before = inspect_json(table)
    for part in range(20):
        write_csv(tmp_path / f"more-{part:02d}.csv", crawl(200, first=1_000 * part))
    more = sorted(tmp_path.glob("more-*.csv"))
    process = start("curate", *more, "--out", table, "--seed", 7, "--batch-size", 5, "--checkpoint-interval", 0)
    version = newest_version(table)
    wait_until(lambda: newest_version(table) > version + 2, process)
    process.send_signal(signal.SIGTERM)
    stopped = outcome_of(process)
    assert stopped.code == 8, stopped
    after = inspect_json(table)
    assert after["n_read"] > before["n_read"]
    assert after["n_pending"] > 0
    same = ("digest", "n_curated", "settled_version", "settled_n_read", "cut")
    assert {key: after[key] for key in same} == {key: before[key] for key in same}
    run("curate", *more, "--out", table, "--seed", 7).ended(0)
    assert inspect_json(table)["n_pending"] == 0


@pytest.mark.slow
def test_a_run_killed_20_times_ends_with_the_same_table(
    tmp_path: Path, shards_digest: str, rng: np.random.Generator
) -> None:
    """`kill -9` at random moments, each after this process has committed something new.

    The second file is a copy of the first, so that a pair forgotten at a kill would be counted again.
    """
    out = tmp_path / "t"
    copy = shutil.copy(SHARDS / "gcc-validation.jsonl", tmp_path / "copy.jsonl")
    sources = [SHARDS / "gcc-validation.jsonl", copy, SHARDS]
    arguments = ["curate", *sources, *COLUMNS, "--out", out, *GOLDEN_RULE, "--counter", "exact", *MANY_COMMITS]
    kills: list[int] = []
    for _ in range(20):
        process = start(*arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wanted = newest_version(out) + int(rng.integers(1, 9)) + (newest_version(out) < 0)
        wait_until(lambda wanted=wanted: newest_version(out) >= wanted, process)
        time.sleep(float(rng.uniform(0, 0.03)))
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            kills.append(newest_version(out))
    report = run(*arguments, "--json").ended(0).json
    between = [version for version in kills if 1 <= version < newest_version(out) - 1]
    print(f"killed at versions {kills} of {newest_version(out)}")
    assert len(between) >= 10
    assert len(kills) == 20
    assert (report["n_unique"], report["n_duplicate"], report["n_rejected"]) == (N_SHARD_ROWS - 1, 5_833, 1)
    assert inspect_json(out)["digest"] == shards_digest
    assert len((out / "_rejects.jsonl").read_bytes().splitlines()) == 1
    verified = run("verify", out, *sources, *COLUMNS, "--seed", 7, "--json").ended(0).json
    assert verified["equal"] is True


# settings


def conflicting(folder: Path, name: str) -> tuple[list[object], list[str]]:
    """Flags that contradict a small table, and words that the refusal must have."""
    other = write_metadata(folder / "other.txt", ["one", "two"])
    return {
        "metadata": (["--metadata", other], ["metadata: the table has", "given was"]),
        "seed": (["--seed", 99887766], [seed_fingerprint(7), seed_fingerprint(99887766)]),
        "dedup": (["--dedup", "none"], ["dedup: the table has exact, given was none"]),
        "counter": (["--counter", "count-min"], ["counter: the table has exact, given was count-min"]),
        "keep_columns": (["--keep-columns", "lang"], ["keep_columns: the table has none, given was lang"]),
        "threshold": (["--threshold", 6], ["threshold 5, which cannot be raised to 6"]),
    }[name]


@pytest.mark.parametrize("name", ["metadata", "seed", "dedup", "counter", "keep_columns", "threshold"])
def test_settings_that_contradict_the_table_exit_with_3_naming_both(tmp_path: Path, name: str) -> None:
    table, source = small_table(tmp_path)
    flags, words = conflicting(tmp_path, name)
    seed = [] if name == "seed" else ["--seed", 7]
    refused = run("curate", source, "--out", table, *seed, *flags).ended(3)
    for piece in words:
        assert piece in refused.words
    assert "99887766" not in refused.words


def test_the_seed_must_be_given_again_and_nothing_else(tmp_path: Path) -> None:
    table, _ = small_table(tmp_path)
    more = write_csv(tmp_path / "more.csv", crawl(20, first=900))
    refused = run("curate", more, "--out", table).ended(3)
    assert f"seed: the table has one with fingerprint {seed_fingerprint(7)}, no seed was given" in refused.words
    run("curate", more, "--out", table, "--seed", "0x7").ended(0)
    (tmp_path / "seed").write_text("7\n")
    run("curate", more, "--out", table, "--seed-file", tmp_path / "seed").ended(0)


def test_a_lowered_threshold_equals_offline_also_midway(tmp_path: Path) -> None:
    one, two = (write_csv(tmp_path / f"{i}.csv", crawl(300, first=300 * i)) for i in range(2))
    run(*curate(tmp_path, one)).ended(0)
    run("curate", one, two, "--out", tmp_path / "t", "--seed", 7, "-t", 2).ended(0)
    rule = ["--metadata", tmp_path / "entries.txt", "--seed", 7, "-t", 2]
    assert inspect_json(tmp_path / "t")["digest"] == offline_digest([one, two], *rule, out=tmp_path / "o.parquet")
    run("curate", one, two, "--out", tmp_path / "t", "--seed", 7, "-t", 1).ended(0)  # and with nothing new to read
    rule[-1] = 1
    assert inspect_json(tmp_path / "t")["digest"] == offline_digest([one, two], *rule, out=tmp_path / "o.parquet")


def test_settings_come_from_flag_environment_file_table_and_default_in_this_order(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", crawl(100))
    metadata = write_metadata(tmp_path / "entries.txt")
    config = tmp_path / "settings.yaml"
    config.write_text(
        f"metadata: {metadata}\nthreshold: 30\ncount_min:\n  num_buckets: 512\nseed: 1\ncounter: count-min\n"
    )
    environment = {
        "STREAM_CURATE_THRESHOLD": "20",
        "STREAM_CURATE_SEED": "2",
        "STREAM_CURATE_COUNT_MIN__NUM_HASHES": "3",
    }
    arguments = ["curate", source, "--out", tmp_path / "t", "--config", config]
    run(*arguments, "--seed", 7, environment=environment).ended(0)
    report = inspect_json(tmp_path / "t")
    assert report["threshold"] == 20
    assert report["counter"] == {"kind": "count-min", "num_hashes": 3, "num_buckets": 512}
    assert report["seed_fingerprint"] == seed_fingerprint(7)
    run("curate", source, "--out", tmp_path / "t", "--seed", 7).ended(0)  # the table's own
    refused = run(*arguments, "--seed", 7).ended(3)  # the file's 30 is given too
    assert "threshold 20, which cannot be raised to 30" in refused.words


def test_columns_can_be_named_in_the_environment_and_the_file(tmp_path: Path) -> None:
    (tmp_path / "in.tsv").write_text("a dog\thttp://x.org/1\n")
    (tmp_path / "settings.yaml").write_text("columns: [caption, url]\n")
    by_file = run(*curate(tmp_path, tmp_path / "in.tsv"), "--config", tmp_path / "settings.yaml", "--json").ended(0)
    environment = {"STREAM_CURATE_COLUMNS": "caption,url"}
    by_environment = run(*curate(tmp_path, tmp_path / "in.tsv", out="u"), "--json", environment=environment).ended(0)
    assert by_file.json["n_matched"] == by_environment.json["n_matched"] == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("treshold: 5\n", "treshold: there is no such setting; the files in config/ list them all"),
        ("count_min: {size: 5}\n", "count_min.size: there is no such setting"),
        ("threshold: many\n", "threshold: "),
        ("threshold: 0\n", "threshold: "),
        ("[1, 2]\n", "holds no keys"),
        ("a: b: c\n", "is not YAML"),
        ("1: 2\n", "there is no such setting"),
        ("counter: exakt\n", "counter: "),
    ],
)
def test_a_settings_file_that_cannot_be_used_is_refused_naming_the_key(
    tmp_path: Path, content: str, words: str
) -> None:
    (tmp_path / "settings.yaml").write_text(content)
    source = write_csv(tmp_path / "in.csv", crawl(10))
    refused = run(*curate(tmp_path, source, rule=False), "--config", tmp_path / "settings.yaml").ended(3)
    assert words in refused.words
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("THRESHOLD", "many", "threshold: "),
        ("COUNT_MIN", "many", "count_min"),
        ("COUNT_MIN__NUM_BUCKETS", "0", "count_min.num_buckets: "),
        ("COUNT_MIN__SIZE", "5", "count_min.size: there is no such setting"),
    ],
)
def test_an_environment_that_cannot_be_used_is_refused_naming_the_key(
    tmp_path: Path, key: str, value: str, words: str
) -> None:
    source = write_csv(tmp_path / "in.csv", crawl(10))
    arguments = ["curate", source, "--out", tmp_path / "t"]
    refused = run(*arguments, environment={f"STREAM_CURATE_{key}": value}).ended(3)
    assert words in refused.words


SECRET = "170141183460469231731687303715884105727"


@pytest.mark.parametrize(
    "content",
    [
        f"seed: {SECRET}: 5\n",
        f"seed: {SECRET}0000000\n",
        f"seed: [{SECRET}]\n",
        f"seed: {SECRET}x\n",
        f"seed: '{SECRET}\n",
    ],
)
def test_a_seed_in_a_settings_file_that_cannot_be_used_is_not_shown(tmp_path: Path, content: str) -> None:
    (tmp_path / "settings.yaml").write_text(content)
    source = write_csv(tmp_path / "in.csv", crawl(10))
    refused = run("curate", source, "--out", tmp_path / "t", "--config", tmp_path / "settings.yaml").ended(3)
    assert SECRET not in refused.words


def test_the_seed_is_in_no_output(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", crawl(50))
    rule = ["--metadata", write_metadata(tmp_path / "entries.txt"), "--seed", SECRET, "-t", 5]
    done = run("--verbose", "curate", source, "--out", tmp_path / "t", *rule, "--profile").ended(0)
    assert SECRET not in done.words
    assert f"{int(SECRET):x}" not in done.words
    wrong = run("inspect", tmp_path / "t", "--what-if", "3", "--seed", int(SECRET) - 1).ended(3)
    assert str(int(SECRET) - 1) not in wrong.words


def test_without_a_seed_a_warning_says_that_it_is_public(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", crawl(10))
    arguments = ["curate", source, "--metadata", write_metadata(tmp_path / "entries.txt"), "--out", tmp_path / "t"]
    assert "the seed is the public default, 0" in run(*arguments).ended(0).err


# bad input


def bad_parquet(path: Path) -> Path:
    path.write_bytes((SHARDS / "laion-10k.parquet").read_bytes()[:100_000])
    return path


def test_a_bad_file_stops_the_run_and_what_was_read_before_is_saved(tmp_path: Path) -> None:
    good = write_csv(tmp_path / "a.csv", crawl(40))
    bad = bad_parquet(tmp_path / "b.parquet")
    stopped = run(*curate(tmp_path, good, bad)).ended(3)
    assert str(bad) in stopped.err
    assert "what was read before is saved" in stopped.err
    report = run(*curate(tmp_path, good), "--json").ended(0).json
    assert (report["n_read"], report["n_read_now"]) == (40, 0)


def test_a_bad_file_that_was_mended_is_read(tmp_path: Path) -> None:
    """Nothing had been read of it, so that it may have another size now: the advice was to mend it."""
    good = write_csv(tmp_path / "a.csv", crawl(40))
    bad = bad_parquet(tmp_path / "b.parquet")
    run(*curate(tmp_path, good, bad)).ended(3)
    shutil.copy(SHARDS / "laion-10k.parquet", bad)
    report = run(*curate(tmp_path, good, bad), "--json").ended(0).json
    assert report["n_read"] == 10_040


def test_a_file_without_the_columns_says_which_it_has_and_which_were_looked_for(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("address,title\nhttp://x.org/1,a dog\n")
    stopped = run(*curate(tmp_path, tmp_path / "in.csv")).ended(3)
    for word in ("in.csv", "address", "title", "image_url", "--url-column"):
        assert word in stopped.words
    named = ["--url-column", "address", "--text-column", "title"]
    assert run(*curate(tmp_path, tmp_path / "in.csv", out="u"), *named, "--json").ended(0).json["n_matched"] == 1


def test_a_bad_file_can_be_skipped_and_is_told_at_the_end(tmp_path: Path) -> None:
    good = [write_csv(tmp_path / f"{name}.csv", crawl(40, first)) for name, first in (("a", 0), ("c", 40))]
    bad = bad_parquet(tmp_path / "b.parquet")
    skipped = run(*curate(tmp_path, good[0], bad, good[1]), "--on-bad-file", "skip").ended(4)
    assert f"skipped, not read to its end: {bad.as_uri()}" in skipped.words
    report = run(*curate(tmp_path, good[0], bad, good[1], out="u"), "--on-bad-file", "skip", "--json").ended(4).json
    assert report["n_read"] == 80
    assert [row["source"] for row in report["skipped"]] == [bad.as_uri()]
    assert inspect_json(tmp_path / "t")["settled_n_read"] == 80
    run("verify", tmp_path / "t", *good, "--seed", 7).ended(0)


def test_a_file_that_is_missing_or_unknown_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "notes.doc").write_text("")
    for name in ("none.csv", "*.tsv", "notes.doc"):
        refused = run(*curate(tmp_path, tmp_path / name)).ended(3)
        assert name in refused.words
    assert not (tmp_path / "t").exists()


HOSTILE = {
    "escape": "a dog \x1b[31m\x1b]0;owned\x07",
    "c1": "a dog \x9b31m",
    "bidi": "a dog \u202egnp.exe",
    "zero_width": "a dog \u200b\ufeff\u2028",
}


def test_rejected_records_are_listed_once_and_escaped(tmp_path: Path) -> None:
    pairs = [*crawl(5), *((f"javascript:{i}\x1b[31m\u202e", text) for i, text in enumerate(HOSTILE.values()))]
    source = write_csv(tmp_path / "in.csv", pairs)
    for _ in range(2):
        run(*curate(tmp_path, source)).ended(0)
    lines = (tmp_path / "t" / "_rejects.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["row"] for row in rows] == [5, 6, 7, 8]
    assert {row["source"] for row in rows} == {source.as_uri()}
    assert {row["reason"] for row in rows} == {"url_malformed"}
    assert all(line.isprintable() for line in lines)
    assert all(row["preview"].isprintable() and len(row["sha256"]) == 64 for row in rows)


def test_hostile_texts_are_kept_as_they_are_and_never_shown(tmp_path: Path) -> None:
    pairs = [(f"http://x.org/{name}", text) for name, text in HOSTILE.items()]
    source = write_csv(tmp_path / "in\x1b[31m.csv", pairs)
    done = run("-v", *curate(tmp_path, source)).ended(0)
    again = run("-v", *curate(tmp_path, source)).ended(0)
    for shown in (done, again):
        assert all(line.isprintable() for line in (shown.out + shown.err).splitlines())
    assert inspect_json(tmp_path / "t")["n_curated"] == len(HOSTILE)
    run("export", tmp_path / "t", "--out", tmp_path / "out.parquet").ended(0)
    assert sorted(pq.read_table(tmp_path / "out.parquet")["caption"].to_pylist()) == sorted(HOSTILE.values())


def test_credentials_are_in_no_line_that_is_shown(tmp_path: Path) -> None:
    pairs = [(f"http://user:hunter2@x.org/{i}", "a dog") for i in range(5)]
    pairs += [(f"ftp://user:hunter2@x.org/{i}", "a dog") for i in range(5)]
    done = run("-v", *curate(tmp_path, write_csv(tmp_path / "in.csv", pairs))).ended(0)
    shown = [done, run("inspect", tmp_path / "t").ended(0), run("inspect", tmp_path / "t", "--json").ended(0)]
    shown.append(run(*curate(tmp_path, "ftp://user:hunter2@127.0.0.1:9/in.csv", out="u")))
    assert shown[-1].code == 3
    explain = ["explain", tmp_path / "t", "--text", "a dog"]
    shown.append(run(*explain, "--url", "ftp://user:hunter2@x.org/1"))
    assert shown[-1].code == 2
    assert not [outcome for outcome in shown if "hunter2" in outcome.words]


# the output folder


def test_a_folder_that_is_not_ours_or_in_use_is_refused(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", crawl(10))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_text("")
    assert "did not make" in run(*curate(tmp_path, source, out="photos")).ended(3).words
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["1.jpg"]
    assert "is a file" in run(*curate(tmp_path, source, out="in.csv")).ended(3).words


def test_an_idle_pipe_is_committed_within_the_checkpoint_interval(tmp_path: Path) -> None:
    """The records have been read before a checkpoint is due, and nothing comes after them."""
    content = write_csv(tmp_path / "in.csv", crawl(10)).read_bytes()
    process = start(*curate(tmp_path, "-"), "--checkpoint-interval", 2, "--json", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(content)
    process.stdin.flush()
    wait_until(lambda: newest_version(tmp_path / "t") >= 1, process)
    assert inspect_json(tmp_path / "t")["n_read"] == 10
    assert outcome_of(process).ended(0).json["n_read"] == 10


def test_a_table_in_use_is_refused_with_7(tmp_path: Path) -> None:
    content = write_csv(tmp_path / "in.csv", crawl(10)).read_bytes()
    process = start(*curate(tmp_path, "-"), stdin=subprocess.PIPE)
    wait_until(lambda: newest_version(tmp_path / "t") == 0, process)
    refused = run(*curate(tmp_path, tmp_path / "in.csv")).ended(7)
    assert "is in use: another stream-curate writes to it" in refused.words
    process.communicate(content, timeout=30)
    run(*curate(tmp_path, tmp_path / "in.csv")).ended(0)


@pytest.mark.parametrize("name", ["in.csv/t", "x" * 300])
def test_a_place_where_no_folder_can_be_made_is_told_in_words(tmp_path: Path, name: str) -> None:
    source = write_csv(tmp_path / "in.csv", crawl(10))
    refused = run(*curate(tmp_path, source, out=name))
    assert refused.code in (3, 7), refused
    assert "error: " in refused.err
    assert run("inspect", tmp_path / name).code in (3, 7)


@pytest.mark.parametrize("name", ["t[/b]", "t[red]", ":dog:"])
def test_a_folder_of_any_name_is_shown_as_it_is(tmp_path: Path, name: str) -> None:
    source = write_csv(tmp_path / "in.csv", crawl(10))
    done = run(*curate(tmp_path, source, out=name)).ended(0)
    assert name in done.out
    assert name in run("inspect", tmp_path / name).ended(0).out


def test_a_second_interrupt_ends_the_process_at_once_and_loses_nothing(tmp_path: Path, shards_digest: str) -> None:
    out = tmp_path / "t"
    arguments = ["curate", SHARDS, *COLUMNS, "--out", out, *GOLDEN_RULE, "--counter", "exact", *MANY_COMMITS]
    process = start(*arguments)
    wait_until(lambda: newest_version(out) >= 2, process)
    os.kill(process.pid, signal.SIGTERM)
    os.kill(process.pid, signal.SIGINT)
    assert outcome_of(process).code in (8, 130, -signal.SIGINT, -signal.SIGTERM)
    run(*arguments[:-4]).ended(0)
    assert inspect_json(out)["digest"] == shards_digest


@pytest.mark.parametrize("torn", [b"", b'{"commitInfo":{"time', bytes(300)], ids=["empty", "cut", "zeros"])
def test_after_a_power_cut_tore_the_newest_commit_the_same_command_continues(tmp_path: Path, torn: bytes) -> None:
    source, later = write_csv(tmp_path / "in.csv", crawl(60)), write_csv(tmp_path / "later.csv", crawl(90))
    run(*curate(tmp_path, source)).ended(0)
    digest = inspect_json(tmp_path / "t")["digest"]
    run(*curate(tmp_path, later)).ended(0)
    newest = max((tmp_path / "t" / "_delta_log").glob("*.json"))
    newest.write_bytes(torn)
    done = run(*curate(tmp_path, source), later).ended(0)
    assert "torn by a crash" in done.words
    run(*curate(tmp_path, source, out="u"), later).ended(0)
    assert inspect_json(tmp_path / "t")["digest"] == inspect_json(tmp_path / "u")["digest"] != digest
