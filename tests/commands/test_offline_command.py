"""`stream-curate offline`: the published two passes, with the flags of `curate`."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from command_line import GOLDEN_METADATA, SHARDS, crawl, inspect_json, run, write_csv, write_metadata

from stream_curate.offline import digest


def flags(folder: Path, *more: object) -> list[object]:
    metadata = write_metadata(folder / "entries.txt")
    return ["--out", folder / "o.parquet", "--metadata", metadata, "-t", 5, "--seed", 7, *more]


def test_it_writes_the_curated_pairs_with_their_entries(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", [*crawl(100), *crawl(10), ("ftp://x.org", "a dog")])
    report = run("offline", source, *flags(tmp_path), "--json").ended(0).json
    rows = pq.read_table(tmp_path / "o.parquet")
    assert rows.schema.names == ["pair_id", "url", "text", "entry_ids"]
    assert rows.schema.field("entry_ids").type.value_type == pa.int32()
    assert report["digest"] == digest(rows["pair_id"].to_pylist())
    assert report["n_curated"] == len(rows)
    assert (report["n_read"], report["n_unique"], report["n_duplicate"]) == (111, 100, 10)
    assert report["n_rejected"] == {"url_scheme": 1}
    shown = run("offline", source, *flags(tmp_path)).ended(0).words
    assert f"digest {report['digest']}" in shown


def test_it_counts_exactly_unless_told_otherwise(tmp_path: Path) -> None:
    """Also where a settings file or the environment gives only the size of a sketch."""
    source = write_csv(tmp_path / "in.csv", crawl(100))
    default = run("offline", source, *flags(tmp_path), "--json").ended(0).json
    exact = run("offline", source, *flags(tmp_path), "--counter", "exact", "--json").ended(0).json
    assert default["rule"]["counter"]["kind"] == "exact"
    assert default["digest"] == exact["digest"]
    environment = {"STREAM_CURATE_COUNT_MIN__NUM_BUCKETS": "3", "STREAM_CURATE_COUNT_MIN__NUM_HASHES": "1"}
    sized = run("offline", source, *flags(tmp_path), "--json", environment=environment).ended(0).json
    assert sized["digest"] == exact["digest"]
    sketch = run("offline", source, *flags(tmp_path), "--counter", "count-min", "--json", environment=environment)
    assert sketch.ended(0).json["rule"]["counter"] == {"kind": "count-min", "num_hashes": 1, "num_buckets": 3}
    assert sketch.json["digest"] != exact["digest"]


def test_curate_gives_the_same_with_either_counter_and_dedup(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", [*crawl(100), *crawl(30)])
    for counter in ("exact", "count-min"):
        for dedup in ("exact", "none"):
            out = tmp_path / f"{counter}-{dedup}"
            rule = flags(tmp_path, "--counter", counter, "--dedup", dedup)[2:]
            run("curate", source, "--out", out, *rule).ended(0)
            offline = run("offline", source, "--out", tmp_path / "o.parquet", *rule, "--json").ended(0).json
            assert inspect_json(out)["digest"] == offline["digest"], (counter, dedup)


def test_columns_of_files_without_a_header_are_named(tmp_path: Path) -> None:
    rule = ["--metadata", GOLDEN_METADATA, "-t", 20, "--seed", 7, "--out", tmp_path / "o.parquet"]
    tsv = SHARDS / "gcc-validation.tsv"
    report = run("offline", tsv, "--columns", "caption,url", *rule, "--json").ended(0).json
    assert report["n_unique"] == 10_000
    refused = run("offline", tsv, *rule).ended(3)
    assert "--columns" in refused.words


def test_standard_input_is_refused_as_it_cannot_be_read_twice(tmp_path: Path) -> None:
    refused = run("offline", "-", *flags(tmp_path), stdin=b"url,text\n").ended(2)
    assert "write it to a file first" in refused.words
    assert not (tmp_path / "o.parquet").exists()


def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", crawl(10))
    rule = flags(tmp_path)[2:]
    assert "make it first" in run("offline", source, *rule, "--out", tmp_path / "none" / "o.parquet").ended(7).words
    assert run("offline", source, *rule, "--out", tmp_path).ended(7).err.startswith("error: ")


def test_bad_input_is_refused_naming_the_file(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    assert "bad.parquet" in run("offline", tmp_path / "bad.parquet", *flags(tmp_path)).ended(3).words
    assert not (tmp_path / "o.parquet").exists()


def test_a_folder_of_any_name_is_shown_as_it_is(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", crawl(10))
    (tmp_path / "[").mkdir()
    out = tmp_path / "[" / "b].parquet"
    shown = run("offline", source, *flags(tmp_path)[2:], "--out", out).ended(0)
    assert "[/b].parquet" in shown.words.replace(" ", "")
