"""The cache of a ledger gives what was saved or nothing, whatever became of its files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from consumers.ledger import RuleHeader
from consumers.ledger_cache import Cached, LedgerCache, checksum_of
from consumers.view import Delta
from stream_curate.checked_file import DamagedFile, read_checked, write_checked
from stream_curate.counting import Counter
from stream_curate.rule import Rule

pytestmark = pytest.mark.slow

HEADER = RuleHeader(Rule(20, "0" * 16, "1" * 64, "exact", Counter("exact")), 8, ("lang",))
LEDGER = "some.ledger"
PARTITION = 3


@dataclass(frozen=True)
class Record:
    """What the cache is told of one ledger record."""

    offset: int
    checksum: str
    next: int
    first: int
    seen: np.ndarray
    entry_ids: np.ndarray
    increments: np.ndarray
    coins: np.ndarray
    n_unique: int

    @property
    def delta(self) -> Delta:
        return Delta(self.first, self.entry_ids, self.increments, self.coins, self.n_unique)


def ledger(n_records: int, n_seen: int = 4, incarnation: int = 0) -> list[Record]:
    """The first records of a ledger; with another `incarnation`, of one of that name which was made anew.

    Incarnations with odd numbers have coins.
    """
    rng = np.random.default_rng(incarnation)
    records: list[Record] = []
    for number in range(n_records):
        n = 1 + number % 4
        records.append(
            Record(
                offset=2 * number,
                checksum=checksum_of(b"%d of %d" % (number, incarnation)),
                next=100 * number + 100,
                first=100 * number,
                seen=rng.integers(0, 2**64, n_seen, np.uint64),
                entry_ids=rng.choice(1_000, n, replace=False).astype(np.int32),
                increments=rng.integers(1, 2**40, n),
                coins=rng.integers(0, 2**40, n if incarnation % 2 else 0),
                n_unique=incarnation % 2 * n_seen,
            )
        )
    return records


def opened(folder: Path, header: RuleHeader = HEADER, max_delta_bytes: int = 2**20) -> LedgerCache:
    cache = LedgerCache.open(folder, LEDGER, PARTITION, header, max_delta_bytes=max_delta_bytes)
    assert cache is not None
    _opened.append(cache)
    return cache


_opened: list[LedgerCache] = []


@pytest.fixture(autouse=True)
def _closed_at_the_end() -> Iterator[None]:
    yield
    while _opened:
        _opened.pop().close()


def loaded(folder: Path, header: RuleHeader = HEADER, max_delta_bytes: int = 2**20) -> Cached | None:
    """What a process would find that is started now."""
    cache = opened(folder, header, max_delta_bytes)
    cached = cache.load()
    cache.close()
    return cached


def add(cache: LedgerCache, records: list[Record]) -> None:
    for each in records:
        cache.add(each.offset, each.checksum, each.next, each.seen, each.delta)


def write(folder: Path, records: list[Record]) -> None:
    """A cache of these, by a process that ended well."""
    cache = opened(folder)
    add(cache, records)
    cache.close()


def files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / LEDGER / str(PARTITION)).iterdir() if path.name != "lock")


def holds(cached: Cached | None, records: list[Record], n_deltas: int | None = None) -> bool:
    """Whether it is what came of exactly these records, with the deltas of the last `n_deltas` of them, or of all."""
    if cached is None:
        return False
    last = records[-1]
    expected = records[len(records) - n_deltas :] if n_deltas is not None else records
    bases = list(cached.bases)
    return (
        (cached.offset, cached.checksum, cached.next) == (last.offset, last.checksum, last.next)
        and cached.n_seen == sum(len(each.seen) for each in records)
        and np.array_equal(np.concatenate([*bases, _NONE]), np.concatenate([each.seen for each in records]))
        and len(cached.deltas) == len(expected)
        and all(
            (delta.first, delta.n_unique) == (each.first, each.n_unique)
            and np.array_equal(delta.entry_ids, each.entry_ids)
            and np.array_equal(delta.increments, each.increments)
            and np.array_equal(delta.coins, each.coins)
            and delta.entry_ids.dtype == np.int32
            and delta.increments.dtype == delta.coins.dtype == np.int64
            and delta.increments.flags.aligned
            for delta, each in zip(cached.deltas, expected, strict=True)
        )
    )


_NONE = np.array([], np.uint64)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here cuts the power."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


# --- what it is for


def test_what_was_saved_is_there_again_and_goes_on(tmp_path: Path) -> None:
    records = ledger(7)
    cache = opened(tmp_path)
    assert cache.load() is None
    add(cache, records[:2])
    cache.save()
    add(cache, records[2:3])
    cache.close()

    cache = opened(tmp_path)
    assert holds(cache.load(), records[:3])
    add(cache, records[3:5])
    cache.close()

    cache = opened(tmp_path)
    assert holds(cache.load(), records[:5])
    cache.close()

    cache = opened(tmp_path)
    add(cache, records[5:])
    cache.save()
    cache.save()
    cache.close()
    assert holds(loaded(tmp_path), records)


def test_what_was_not_saved_does_not_count(tmp_path: Path) -> None:
    records = ledger(5)
    cache = opened(tmp_path)
    add(cache, records[:2])
    cache.save()
    add(cache, records[2:])
    _die(cache)

    cache = opened(tmp_path)
    assert holds(cache.load(), records[:2])
    add(cache, records[2:3])
    cache.close()
    assert holds(loaded(tmp_path), records[:3])


def test_coins_and_the_number_of_pairs_are_there_again(tmp_path: Path) -> None:
    records = ledger(9, incarnation=1)
    assert sum(each.coins.sum() for each in records) > 0
    write(tmp_path, records)
    assert holds(loaded(tmp_path), records)


def test_a_record_may_hold_nothing(tmp_path: Path) -> None:
    """As with `dedup: none`, or when a range had no pair that is matched."""
    records = [
        replace(each, seen=each.seen[:0], entry_ids=each.entry_ids[:0], increments=each.increments[:0])
        for each in ledger(3)
    ]
    write(tmp_path, records)
    assert holds(loaded(tmp_path), records)


def test_many_hashes_come_in_pieces(tmp_path: Path) -> None:
    records = ledger(5, n_seen=500_000)
    write(tmp_path, records)
    cached = loaded(tmp_path)
    assert cached is not None
    assert [len(base) for base in cached.bases] == [2**20, 2**20, 2_500_000 - 2**21]
    assert holds(loaded(tmp_path), records)


def test_partitions_and_ledgers_have_caches_of_their_own(tmp_path: Path) -> None:
    write(tmp_path, ledger(2))
    for name, partition in ((LEDGER, 4), ("other", PARTITION)):
        cache = LedgerCache.open(tmp_path, name, partition, HEADER)
        assert cache is not None
        assert cache.load() is None
        cache.close()
    longest = LedgerCache.open(tmp_path, "x" * 249, 9_999, HEADER)
    assert longest is not None
    add(longest, ledger(1))
    longest.close()


# --- whose it is


@pytest.mark.parametrize(
    "other",
    [
        replace(HEADER, n_partitions=9),
        replace(HEADER, kept_columns=()),
        replace(HEADER, rule=replace(HEADER.rule, seed_fingerprint="f" * 16)),
        replace(HEADER, rule=replace(HEADER.rule, validator_version=99)),
    ],
    ids=["partitions", "columns", "seed", "validator"],
)
def test_of_another_rule_it_begins_empty(tmp_path: Path, other: RuleHeader) -> None:
    write(tmp_path, ledger(2))
    with capture_logs() as logs:
        cache = opened(tmp_path, other)
    assert cache.load() is None
    assert "made with other settings" in logs[0]["reason"]
    again = ledger(3, incarnation=1)
    add(cache, again)
    cache.close()
    assert holds(loaded(tmp_path, other), again)


def test_with_another_threshold_it_is_the_same(tmp_path: Path) -> None:
    write(tmp_path, ledger(2))
    cache = opened(tmp_path, HEADER.replace_threshold(7))
    assert holds(cache.load(), ledger(2))


def test_of_another_ledger_it_is_cleared_by_whoever_finds_out(tmp_path: Path) -> None:
    write(tmp_path, ledger(4))
    cache = opened(tmp_path)
    cache.clear()
    assert cache.load() is None
    again = ledger(2, incarnation=1)
    add(cache, again)
    cache.close()
    assert holds(loaded(tmp_path), again)


def test_after_it_was_cleared_nothing_is_left(tmp_path: Path) -> None:
    write(tmp_path, ledger(4))
    cache = opened(tmp_path)
    cache.clear()
    cache.close()
    assert [(path.name, path.stat().st_size) for path in files(tmp_path)] == [("seen.u64", 0)]


@pytest.mark.parametrize("change", [{"first": 250}, {"offset": 2}, {"offset": 0}], ids=["gap", "again", "back"])
def test_a_record_that_does_not_go_on_turns_it_off_and_voids_it(tmp_path: Path, change: dict[str, int]) -> None:
    cache = opened(tmp_path)
    records = ledger(3)
    add(cache, records[:2])
    cache.save()
    with capture_logs() as logs:
        add(cache, [replace(records[2], **change)])
        add(cache, records[2:])
        cache.close()
    assert [entry["log_level"] for entry in logs] == ["warning"]
    assert loaded(tmp_path) is None


# --- deltas


def test_the_oldest_deltas_are_forgotten_when_they_are_many(tmp_path: Path) -> None:
    records = ledger(200)
    cache = opened(tmp_path, max_delta_bytes=1_000)
    for k in range(0, 200, 10):
        add(cache, records[k : k + 10])
        cache.save()
        n_bytes = sum(path.stat().st_size for path in files(tmp_path) if path.name.startswith("deltas"))
        assert n_bytes <= 1_000
    cache.close()
    cache = opened(tmp_path, max_delta_bytes=1_000)
    cached = cache.load()
    assert cached is not None
    assert len(cached.deltas) > 10
    assert holds(cached, records, n_deltas=len(cached.deltas))


def test_deltas_that_are_published_are_forgotten_sooner_or_later(tmp_path: Path) -> None:
    records = ledger(200)
    cache = opened(tmp_path, max_delta_bytes=20_000)
    add(cache, records)
    cache.save()
    cache.forget_deltas_before(records[150].first)
    add(cache, ledger(201)[200:])
    cache.close()
    cache = opened(tmp_path, max_delta_bytes=20_000)
    cached = cache.load()
    assert cached is not None
    assert 51 <= len(cached.deltas) < 150
    assert holds(cached, ledger(201), n_deltas=len(cached.deltas))


# --- damage


def damaged(path: Path) -> Iterator[bytes]:
    """The file with each of its bytes changed, cut short after each, and longer."""
    whole = path.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        yield bytes(changed)
        yield whole[:place]
    yield whole + b"x"
    yield whole + bytes(4_096)


def test_a_damaged_file_is_never_taken_for_right(tmp_path: Path) -> None:
    records = ledger(4, n_seen=2)
    cache = opened(tmp_path, max_delta_bytes=400)
    add(cache, records)
    cache.close()
    whole = {path: path.read_bytes() for path in files(tmp_path)}
    assert len(whole) > 3, "state, seen, and more than one file of deltas"
    n_tried = n_right = 0
    with capture_logs():
        for path in whole:
            for data in damaged(path):
                for each in files(tmp_path):
                    each.unlink()
                for each, content in whole.items():
                    each.write_bytes(data if each == path else content)
                cache = opened(tmp_path, max_delta_bytes=400)
                cached = cache.load()
                assert cached is None or holds(cached, records)
                n_tried += 1
                n_right += cached is not None
                if cached is None and n_tried % 100 == 0:
                    add(cache, records[:1])
                    cache.close()
                    assert holds(loaded(tmp_path), records[:1]), "it begins empty, and works"
                cache.close()
    assert n_right == 2 * (len(whole) - 1), "only what was added behind the marks"
    assert n_tried == sum(2 * len(content) + 2 for content in whole.values())


def test_a_missing_file_makes_it_empty(tmp_path: Path) -> None:
    write(tmp_path, ledger(3))
    whole = {path: path.read_bytes() for path in files(tmp_path)}
    for missing in whole:
        for path, content in whole.items():
            path.write_bytes(content)
        missing.unlink()
        cache = opened(tmp_path)
        assert cache.load() is None
        cache.close()


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    write(tmp_path, ledger(3))
    cache = opened(tmp_path)
    cached = cache.load()
    assert cached is not None
    (seen,) = (path for path in files(tmp_path) if path.name == "seen.u64")
    seen.write_bytes(bytes(seen.stat().st_size))
    with pytest.raises(DamagedFile):
        list(cached.bases)
    cache.clear()
    assert cache.load() is None


@pytest.mark.parametrize("change", [{"format": 99}, {"place": {}}, {"seen": None}, {"header": {}}], ids=str)
def test_a_state_of_another_version_makes_it_empty(tmp_path: Path, change: dict[str, object]) -> None:
    write(tmp_path, ledger(3))
    state = tmp_path / LEDGER / str(PARTITION) / "state.bin"
    header, payload = read_checked(state)
    write_checked(state, header | change, payload)
    cache = opened(tmp_path)
    assert cache.load() is None
    assert not cache.is_off


# --- other processes


HOLD = """
import sys
from pathlib import Path
import test_ledger_cache as shared
cache = shared.opened(Path(sys.argv[1]))
shared.add(cache, shared.ledger(2))
cache.save()
print("held", flush=True)
sys.stdin.readline()
shared.add(cache, shared.ledger(3)[2:])
cache.close()
"""


def python(program: str, *arguments: object) -> list[str]:
    """A command that runs `program`, which can import this module."""
    return [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n{program}"] + [
        str(each) for each in arguments
    ]


def test_only_one_process_has_it(tmp_path: Path) -> None:
    holder = subprocess.Popen(python(HOLD, tmp_path), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with capture_logs() as logs:
        assert LedgerCache.open(tmp_path, LEDGER, PARTITION, HEADER) is None
    assert [entry["log_level"] for entry in logs] == ["debug"]
    holder.communicate("\n", timeout=60)
    assert holder.returncode == 0
    assert holds(loaded(tmp_path), ledger(3))


def test_this_process_can_have_it_only_once(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    assert LedgerCache.open(tmp_path, LEDGER, PARTITION, HEADER) is None
    cache.close()
    cache.close()
    opened(tmp_path)


def test_a_process_that_is_killed_lets_go_of_it(tmp_path: Path) -> None:
    holder = subprocess.Popen(python(HOLD, tmp_path), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    holder.stdout.readline()
    holder.kill()
    holder.communicate(timeout=60)
    assert holds(loaded(tmp_path), ledger(2))


@pytest.mark.parametrize("incarnations", [(0, 0), (0, 1)], ids=["one ledger", "made anew"])
def test_two_that_write_at_once_make_it_useless_at_most(
    tmp_path: Path, rng: np.random.Generator, incarnations: tuple[int, int]
) -> None:
    """As when somebody deletes the lock, or a file system has locks that do not lock."""
    n_right = 0
    for trial in range(60):
        folder = tmp_path / str(trial)
        ledgers = [ledger(30, incarnation=each) for each in incarnations]
        writers = []
        places = []
        for records in ledgers:
            writer = opened(folder, max_delta_bytes=800)
            cached = writer.load()
            n_known = 0
            if cached is not None and cached.checksum in (each.checksum for each in records):
                n_known = 1 + [each.checksum for each in records].index(cached.checksum)
            elif cached is not None:
                writer.clear()
            writers.append(writer)
            places.append(n_known)
            (folder / LEDGER / str(PARTITION) / "lock").unlink()
            if len(writers) == 1:
                add(writer, records[:4])
                places[0] = 4
                writer.save()
        with capture_logs():
            for _ in range(int(rng.integers(1, 12))):
                who = int(rng.integers(2))
                n = int(rng.integers(3))
                add(writers[who], ledgers[who][places[who] : places[who] + n])
                places[who] += n
                if rng.integers(2):
                    writers[who].save()
            if rng.integers(2):
                writers[int(rng.integers(2))].close()
            for writer in writers:
                _die(writer)
            cached = loaded(folder, max_delta_bytes=800)
        if cached is None:
            continue
        n_right += 1
        (records,) = (each for each in ledgers[: len(set(incarnations))] if _knows(each, cached))
        n_records = 1 + [each.checksum for each in records].index(cached.checksum)
        assert holds(cached, records[:n_records], n_deltas=len(cached.deltas))
        if n_records < 8:
            assert len(cached.deltas) == n_records
    assert 0 < n_right < 60


def _knows(records: list[Record], cached: Cached) -> bool:
    return cached.checksum in (each.checksum for each in records)


def _die(cache: LedgerCache) -> None:
    """What is left of the object when the process is killed: the files as they are, and no lock."""
    for file in (cache._seen, cache._deltas._file):
        if file is not None:
            file._file.flush()  # whether the kernel had it or not makes no difference to what counts
    cache._close_files()
    cache.is_off = True
    cache.close()


# --- crashes and disks


STEPS = ["cache.save", "cache.seen", "cache.deltas", "cache.state", "cache.saved"]

SAVE = """
import sys
from pathlib import Path
import test_ledger_cache as shared
from stream_curate.failpoints import listen_to_environment
listen_to_environment()
cache = shared.opened(Path(sys.argv[1]), max_delta_bytes=800)
for k in range(0, 60, 10):
    shared.add(cache, shared.ledger(60)[k:k + 10])
    cache.save()
"""


@pytest.mark.slow
@pytest.mark.parametrize("nth", [1, 5])
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_of_saving_it_holds_the_old_or_the_new(tmp_path: Path, step: str, nth: int) -> None:
    environment = os.environ | {"STREAM_CURATE_FAILPOINT": f"{step}:{nth}"}
    done = subprocess.run(python(SAVE, tmp_path), env=environment, check=False, timeout=60, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    n_saved = nth if step in ("cache.state", "cache.saved") else nth - 1

    cache = opened(tmp_path, max_delta_bytes=800)
    cached = cache.load()
    records = ledger(60)
    if n_saved == 0:
        assert cached is None
    else:
        assert cached is not None
        assert holds(cached, records[: 10 * n_saved], n_deltas=len(cached.deltas))
    add(cache, records[10 * n_saved : 10 * n_saved + 10])
    cache.close()
    cached = loaded(tmp_path, max_delta_bytes=800)
    assert cached is not None
    assert holds(cached, records[: 10 * n_saved + 10], n_deltas=len(cached.deltas))
    n_bytes = sum(path.stat().st_size for path in files(tmp_path) if path.name.startswith("deltas"))
    assert n_bytes <= 800, "no file of deltas is left behind"


FILL = """
import sys
from pathlib import Path
import test_ledger_cache as shared
from stream_curate.logs import configure_logs
configure_logs()
cache = shared.opened(Path(sys.argv[1]))
records = shared.ledger(400, n_seen=500)
n_saved = 0
for k, record in enumerate(records):
    shared.add(cache, [record])
    if k % 7 == 6:
        cache.save()
        n_saved = n_saved if cache.is_off else k + 1
cache.save()
cache.clear()
print(cache.load(), cache.is_off, n_saved)
cache.close()
"""

FULL = """
set -eu
mount -t tmpfs -o size=512k tmpfs "$DISK"
"$@"
cp -r "$DISK" "$COPY"
"""


def test_a_full_disk_turns_it_off_and_leaves_what_was_saved(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    done = subprocess.run(
        [*namespace, "sh", "-c", FULL, "sh", *python(FILL, tmp_path / "disk")],
        env=os.environ | {"DISK": str(tmp_path / "disk"), "COPY": str(tmp_path / "copy")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    cached, is_off, n_saved = done.stdout.split()
    assert (cached, is_off) == ("None", "True")
    (line,) = done.stderr.splitlines()
    assert "the cache of the ledger is off" in line
    assert "No space left on device" in line
    assert 0 < int(n_saved) < 400
    assert holds(loaded(tmp_path / "copy"), ledger(400, n_seen=500)[: int(n_saved)])


def test_where_no_folder_can_be_it_goes_on_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with capture_logs() as logs:
        assert LedgerCache.open(tmp_path / "file", LEDGER, PARTITION, HEADER) is None
    assert [entry["log_level"] for entry in logs] == ["warning"]


@pytest.mark.parametrize("name", ["state.bin", "seen.u64"])
def test_something_else_in_the_place_of_a_file_turns_it_off(tmp_path: Path, name: str) -> None:
    (tmp_path / LEDGER / str(PARTITION) / name).mkdir(parents=True)
    with capture_logs() as logs:
        cache = opened(tmp_path)
        assert cache.load() is None
        add(cache, ledger(2))
        cache.save()
        cache.clear()
        cache.close()
    assert [entry["log_level"] for entry in logs] == ["warning"]


def test_the_log_names_the_folder(tmp_path: Path) -> None:
    write(tmp_path, ledger(2))
    (tmp_path / LEDGER / str(PARTITION) / "state.bin").write_bytes(b"x")
    with capture_logs() as logs:
        opened(tmp_path)
    assert logs[0]["folder"] == str(tmp_path / LEDGER / str(PARTITION))
