"""Have every kernel compiled, as a step of the image's build: what NUMBA_CACHE_DIR keeps is then part of the image."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from kafka import TopicPartition
from kafka.record import MemoryRecords, MemoryRecordsBuilder

from consumers.clients import FetchedRecords

ENTRIES = ["dog", "cat", "park", "hot dog", "New York"]
TEXTS = ["a dog in the park", "hot dog, hot dog", "a cat in New York and a dog", "nothing", "dog " * 40]
N_PAIRS = 3_000


def main() -> None:
    """Curate a few pairs of each format with each counter, and unpack what a consumer would have fetched."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "entries.txt").write_text("\n".join(ENTRIES) + "\n")
        pairs = [(f"http://example.org/{i}.jpg", TEXTS[i % len(TEXTS)]) for i in range(N_PAIRS)]
        (folder / "pairs.tsv").write_text("url\tcaption\n" + "".join(f"{url}\t{text}\n" for url, text in pairs))
        (folder / "pairs.csv").write_text("url,caption\n" + "".join(f'{url},"{text}"\n' for url, text in pairs))
        (folder / "pairs.jsonl").write_text(
            "".join(json.dumps({"url": url, "caption": text}) + "\n" for url, text in pairs) + '{"url": [[1]]}\n'
        )
        urls, texts = zip(*pairs, strict=True)
        pq.write_table(pa.table({"url": urls, "caption": texts}), folder / "pairs.parquet")
        for number, (kind, counter) in enumerate(
            [("tsv", "exact"), ("csv", "exact"), ("jsonl", "count-min"), ("parquet", "count-min")]
        ):
            rule = ["--metadata", "entries.txt", "--counter", counter, "-t", "20", "--seed", "1"]
            run("curate", f"pairs.{kind}", "--out", f"table-{number}", *rule, folder=folder)
        run("curate", "pairs.tsv", "--out", "table-0", "--seed", "1", folder=folder)  # goes on with a table
        final = ["--metadata", "entries.txt", "-t", "20", "--seed", "1", "--decisions", "final", "--pool-size", "3000"]
        run("curate", "pairs.tsv", "--out", "table-final", *final, folder=folder)
        run("explain", "table-0", "--text", TEXTS[0], folder=folder)
    unpack()


def run(*words: str, folder: Path) -> None:
    """One command of stream-curate."""
    subprocess.run([sys.executable, "-m", "stream_curate", *words], cwd=folder, check=True)  # noqa: S603 - our own words


def unpack() -> None:
    """Read a batch of messages as it comes from a broker."""
    builder = MemoryRecordsBuilder(magic=2, compression_type=0, batch_size=1 << 16)
    for i in range(3):
        builder.append(timestamp=0, key=None, value=b"{}", headers=[("a", b"b")][: i % 2])
    builder.close()
    FetchedRecords(0, TopicPartition("pairs", 0), MemoryRecords(bytes(builder.buffer()))).take()


if __name__ == "__main__":
    main()
