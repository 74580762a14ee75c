"""Matching alone: the published scan, two Aho-Corasick libraries, and ours, on the same texts.

    PYTHONPATH=tests python -m bench.matching --metadata FILE --pairs FILE [--n-pairs N] [--cores 1|2]

Each contestant gets the texts as it likes them best, Python strings or an Arrow array; bringing them into that form is
not timed, and neither is making the automaton or the trie (told apart). What is timed makes, for each text, the
set of the matched entries' ids. They take turns, and the first turn, untimed, sees that all give the same ids.

On two cores each is given half of the texts twice: ours two threads of one process, the libraries, which hold the
interpreter lock between two texts, two processes that each have an automaton of their own.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import ahocorasick
import ahocorasick_rs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from bench.measured import Rounds

from stream_curate.matching import TrieMatcher
from stream_curate.metadata import Metadata
from stream_curate.spacing import spacing

N_IN_BATCH = 65_536
N_NAIVE = 20
"""Texts for the published scan, which looks for each entry in each text."""


class Contestant(Protocol):
    """Made of the entries; then it matches batches of what `texts` has made of an Arrow array."""

    def texts(self, texts: pa.StringArray) -> Any: ...

    def match(self, texts: Any) -> Any: ...

    def ids(self, found: Any) -> list[list[int]]:
        """What `match` found, as ascending ids."""
        ...


class _OnStrings:
    def texts(self, texts: pa.StringArray) -> list[str]:
        return list(texts.to_pylist())

    def ids(self, found: list[list[int]]) -> list[list[int]]:
        return [sorted(each) for each in found]


class Naive(_OnStrings):
    """Each entry looked for in each text."""

    def __init__(self, entries: pa.StringArray) -> None:
        self._spaced = [f" {entry} " for entry in entries.to_pylist()]

    def match(self, texts: list[str]) -> list[list[int]]:
        spaced = map(spacing, texts)
        return [[row for row, entry in enumerate(self._spaced) if entry in text] for text in spaced]


class PyAhoCorasick(_OnStrings):
    """As MetaCLIP's scripts do it."""

    def __init__(self, entries: pa.StringArray) -> None:
        self._automaton = ahocorasick.Automaton(ahocorasick.STORE_INTS)
        for row, entry in enumerate(entries.to_pylist()):
            self._automaton.add_word(f" {entry} ", row)
        self._automaton.make_automaton()

    def match(self, texts: list[str]) -> list[list[int]]:
        search = self._automaton.iter
        return [list({row for _, row in search(spacing(text))}) for text in texts]


class AhoCorasickRs(_OnStrings):
    """The Rust library, which gives all matches of a text at once."""

    def __init__(self, entries: pa.StringArray) -> None:
        spaced = [f" {entry} " for entry in entries.to_pylist()]
        self._automaton = ahocorasick_rs.AhoCorasick(spaced, store_patterns=False)

    def match(self, texts: list[str]) -> list[list[int]]:
        search = self._automaton.find_matches_as_indexes
        return [list({row for row, _, _ in search(spacing(text), overlapping=True)}) for text in texts]


class Ours:
    """`TrieMatcher`, on Arrow arrays."""

    def __init__(self, entries: pa.StringArray) -> None:
        self._matcher = TrieMatcher(entries)

    def texts(self, texts: pa.StringArray) -> pa.StringArray:
        return texts

    def match(self, texts: pa.StringArray) -> Any:
        return self._matcher.match(texts)

    def ids(self, found: Any) -> list[list[int]]:
        return [each.tolist() for each in np.split(found.entry_ids, found.offsets[1:-1])] if len(found) else []


CONTESTANTS: dict[str, Callable[[pa.StringArray], Contestant]] = {
    "pyahocorasick": PyAhoCorasick,
    "ahocorasick_rs": AhoCorasickRs,
    "stream-curate": Ours,
}
OURS = "stream-curate"


def digest(ids: list[list[int]]) -> str:
    """What the matches of some texts are known by."""
    lengths = np.array([len(each) for each in ids], np.int64)
    flat = np.array([row for each in ids for row in each], np.int32)
    return hashlib.sha256(lengths.tobytes() + flat.tobytes()).hexdigest()


class Party:
    """A contestant with its texts, cut into batches."""

    def __init__(self, name: str, entries: pa.StringArray, texts: pa.StringArray) -> None:
        begin_s = time.perf_counter()
        self._contestant = CONTESTANTS[name](entries)
        self.start_s = time.perf_counter() - begin_s
        # a few for each core, of equal size
        step = min(N_IN_BATCH, max(1, len(texts) // 4))
        self._batches = [self._contestant.texts(texts[at : at + step]) for at in range(0, len(texts), step)]

    def close(self) -> None:
        """Let go of what it holds."""

    def match(self) -> float:
        """Match every batch; seconds of a core. What was found in a batch is let go before the next."""
        begin_s = time.process_time()
        for batch in self._batches:
            self._contestant.match(batch)
        return time.process_time() - begin_s

    def ids(self) -> list[list[int]]:
        """What is matched by each text, ascending."""
        return [ids for batch in self._batches for ids in self._contestant.ids(self._contestant.match(batch))]


class Threads(Party):
    """One contestant, its batches shared out to threads."""

    def __init__(self, name: str, entries: pa.StringArray, texts: pa.StringArray, n: int) -> None:
        super().__init__(name, entries, texts)
        self._pool = ThreadPoolExecutor(n)

    def close(self) -> None:
        self._pool.shutdown()

    def match(self) -> float:
        begin_s = time.process_time()
        for _ in self._pool.map(self._contestant.match, self._batches):
            pass
        return time.process_time() - begin_s


class Processes:
    """A contestant in several processes, each with a part of the texts. What they find stays with them."""

    def __init__(self, name: str, entries: pa.StringArray, texts: pa.StringArray, n: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        step = -(-len(texts) // n)
        self._parts: list[tuple[Any, Connection]] = []
        begin_s = time.perf_counter()
        for at in range(0, len(texts), step):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_serve, args=(theirs, name, entries, texts[at : at + step]))
            process.start()
            self._parts.append((process, ours))
        for _, pipe in self._parts:
            pipe.recv()
        self.start_s = time.perf_counter() - begin_s

    def close(self) -> None:
        for process, pipe in self._parts:
            pipe.send("end")
            process.join()

    def match(self) -> float:
        return float(sum(self._ask("match")))

    def ids(self) -> list[list[int]]:
        return [ids for part in self._ask("ids") for ids in part]

    def _ask(self, what: str) -> list[Any]:
        for _, pipe in self._parts:
            pipe.send(what)
        return [pipe.recv() for _, pipe in self._parts]


def _serve(pipe: Connection, name: str, entries: pa.StringArray, texts: pa.StringArray) -> None:
    party = Party(name, entries, texts)
    gc.freeze()
    pipe.send("ready")
    while (asked := pipe.recv()) != "end":
        pipe.send(party.match() if asked == "match" else party.ids())


def measure(entries: pa.StringArray, texts: pa.StringArray, cores: int, n_rounds: int) -> dict[str, Any]:
    """All contestants in turn; see the module.

    Raises:
        RuntimeError: two of them do not find the same.
    """
    parties: dict[str, Party | Processes] = {}
    for name in CONTESTANTS:
        if cores == 1:
            parties[name] = Party(name, entries, texts)
        else:
            parties[name] = (Threads if name == OURS else Processes)(name, entries, texts, cores)
    gc.freeze()  # what is there already is not looked through again and again while they are timed
    digests = {name: digest(party.ids()) for name, party in parties.items()}
    if len(set(digests.values())) > 1:
        raise RuntimeError(f"the matches differ: {digests}")
    rounds = {name: Rounds(len(texts)) for name in parties}
    for _ in range(n_rounds):
        for name, party in parties.items():
            begin_s = time.perf_counter()
            cpu_s = party.match()
            rounds[name].add(time.perf_counter() - begin_s, cpu_s)
    found = {name: each.as_dict() | {"start_s": round(parties[name].start_s, 3)} for name, each in rounds.items()}
    for party in parties.values():
        party.close()
    return {"cores": cores, "digest": digests[OURS], "contestants": found}


def measure_naive(entries: pa.StringArray, texts: pa.StringArray, n_texts: int = N_NAIVE) -> dict[str, Any]:
    """The published scan, on a sample.

    Raises:
        RuntimeError: it does not find what ours finds.
    """
    sample = texts[:n_texts]
    naive, ours = Naive(entries), Ours(entries)
    rounds = Rounds(len(sample))
    strings = naive.texts(sample)
    begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
    found = naive.match(strings)
    rounds.add(time.perf_counter() - begin_s, time.process_time() - begin_cpu_s)
    if naive.ids(found) != ours.ids(ours.match(sample)):
        raise RuntimeError("the published scan finds something else")
    return rounds.as_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metadata", type=Path, required=True, metavar="FILE")
    parser.add_argument("--pairs", type=Path, required=True, metavar="FILE", help="parquet with a column text")
    parser.add_argument("--n-pairs", type=int, default=300_000)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--naive", action="store_true", help="the published scan, too")
    given = parser.parse_args()
    entries = Metadata.load(given.metadata).entries
    texts = pq.read_table(given.pairs, columns=["text"])["text"].combine_chunks()[: given.n_pairs]
    report = measure(entries, texts, given.cores, given.rounds)
    if given.naive:
        report["contestants"] = {"naive": measure_naive(entries, texts)} | report["contestants"]
    print(json.dumps(report))


if __name__ == "__main__":
    main()
