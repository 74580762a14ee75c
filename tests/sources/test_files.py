"""Stored bytes: archives whole, cut short, damaged, and meant to fill the memory."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from stream_curate.errors import InputError

HEADER = b"url\ttext\n"


def zstd(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data, asbytes=True)


PACKERS = {".gz": gzip.compress, ".zst": zstd}


@pytest.fixture(params=PACKERS)
def extension(request):
    return request.param


@pytest.mark.parametrize("format", ["tsv", "csv", "jsonl", "ndjson"])
def test_archives_are_unpacked(format, extension, tmp_path, open_one, rows_of, write):
    lines = {"tsv": HEADER + b"u\tt\n", "csv": b"url,text\nu,t\n"}
    path = write(tmp_path / f"pairs.{format}{extension}", lines.get(format, b'{"url": "u", "text": "t"}\n'))
    source = open_one(path)
    assert source.size == path.stat().st_size
    assert [row[1:3] for row in rows_of(source)] == [(b"u", b"t")]


def test_all_members_or_frames_are_read(extension, tmp_path, open_one, rows_of):
    pack = PACKERS[extension]
    path = tmp_path / f"pairs.tsv{extension}"
    path.write_bytes(pack(HEADER + b"u\tt\nv") + pack(b"\tw\n") + pack(b"") + pack(b"x\ty\n"))
    assert [row[1:3] for row in rows_of(open_one(path))] == [(b"u", b"t"), (b"v", b"w"), (b"x", b"y")]


def _read_until_error(source):
    rows = []
    try:
        for records in source.read(0, 1_000):
            rows += records.texts.to_pylist()
    except InputError as refusal:
        return rows, str(refusal)
    raise AssertionError("nothing was refused")


def _noise(n_rows: int) -> list[bytes]:
    """Texts that do not pack well, so that half an archive holds about half of them."""
    return [b"%x" % (pow(7, 5 * i + 3, (1 << 255) - 19)) for i in range(n_rows)]


@pytest.mark.parametrize("kept", [0.5, 0.999])
def test_a_truncated_archive_gives_the_rows_before_its_end(kept, extension, tmp_path, open_one):
    texts = _noise(20_000)
    packed = PACKERS[extension](HEADER + b"".join(b"u\t%s\n" % text for text in texts))
    path = tmp_path / f"pairs.tsv{extension}"
    path.write_bytes(packed[: int(len(packed) * kept)])
    rows, words = _read_until_error(open_one(path))
    assert rows == texts[: len(rows)]
    assert len(rows) > (kept - 0.15) * len(texts)  # zstd gives a block of 128 KiB or nothing
    assert f"pairs.tsv{extension}: reading failed" in words


def test_a_damaged_archive_gives_rows_from_before_the_damage(extension, tmp_path, open_one):
    texts = _noise(20_000)
    pack = PACKERS[extension]
    packed = pack(HEADER + b"".join(b"u\t%s\n" % text for text in texts))
    path = tmp_path / f"pairs.tsv{extension}"
    path.write_bytes(packed + b"this is no archive" + packed)
    rows, words = _read_until_error(open_one(path))
    assert rows == texts[: len(rows)]
    assert len(rows) > 0.95 * len(texts)
    assert "reading failed" in words


def test_a_record_cut_by_the_damage_is_not_given(tmp_path, open_one):
    member = gzip.compress(HEADER + b"u\ta dog\nv\tan unfin")
    path = tmp_path / "pairs.tsv.gz"
    path.write_bytes(member + gzip.compress(b"ished row\n")[:-9])
    rows, _ = _read_until_error(open_one(path))
    assert set(rows) <= {b"a dog"}


@pytest.mark.parametrize("data", [b"", b"url\ttext\nu\tt\n"])
def test_what_is_no_archive_is_refused(data, extension, tmp_path, open_one):
    path = tmp_path / f"pairs.tsv{extension}"
    path.write_bytes(data)
    rows, words = _read_until_error(open_one(path))
    assert rows == []
    assert f"pairs.tsv{extension}" in words


def test_a_file_that_opens_but_cannot_be_read_is_an_error_in_words(open_one):
    rows, words = _read_until_error(open_one("/proc/self/mem", format="tsv"))
    assert rows == []
    assert "reading failed" in words


MEASURE = """
import resource, sys
from stream_curate.sources import ColumnChoice, open_sources

def read(path):
    return [r for b in open_sources([path], ColumnChoice())[0].read(0, 65_536) for r in b.rejected.values()]

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

read(sys.argv[1])
before = peak()
print(*read(sys.argv[2]), peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "header", "opening"),
    [("tsv", HEADER, b""), ("csv", b"url,text\n", b'"'), ("jsonl", b"", b'{"url": "')],
)
def test_a_bomb_of_one_endless_line_does_not_fill_the_memory(format, header, opening, extension, tmp_path, write):
    n_bytes = 400 << 20
    small = write(tmp_path / f"small.{format}{extension}", header)
    piece = PACKERS[extension](b"x" * (16 << 20))
    bomb = tmp_path / f"bomb.{format}{extension}"
    bomb.write_bytes(PACKERS[extension](header + opening) + piece * (n_bytes // (16 << 20)))
    assert bomb.stat().st_size < n_bytes / 500
    measured = subprocess.run(
        [sys.executable, "-c", MEASURE, str(small), str(bomb)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    reason, grown_bytes = measured.stdout.split()
    assert reason == "too_large"
    assert int(grown_bytes) < 64 << 20
