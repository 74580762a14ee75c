"""The fast matcher: a trie over tokens, walked directly over the bytes of an Arrow array.

A *token* is what stands between two neighbouring spaces of a spaced text (`spacing.py`). It may be empty: `"a, b"` is
spaced to `" a ,  b "`, whose tokens are `a`, `,`, an empty one and `b`. An entry is cut at its single spaces alone. It
matches a text if and only if its tokens stand in the text's, one behind the other. The text need not be spaced for
that: a blank ends a token, a mark ends one and is one.

Two tables with open addressing hold the trie:

- `tokens` has every distinct token of the entries. The slot's index serves as the token's number, and its entry and
  child are those of the trie's root. So each token of a text is looked up by its bytes once, however many entries go on
  with it.
- `edges` leads from a node other than the root, by the number of a token, to an entry and a child.

An entry of -1 says that none ends here; a child of -1, that no longer entry begins like this: a leaf costs no look-up.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream_curate.arrow_buffers import string_buffers
from stream_curate.kernels import kernel
from stream_curate.matching.matcher import Matches, Strings, check_entries, check_texts
from stream_curate.spacing import BLANKS, MARKS

Array = npt.NDArray[Any]

TOKEN_SLOT: Final = np.dtype([("front", np.uint64), ("rest", np.uint64), ("entry", np.int32), ("child", np.int32)])
TOKEN: Final = np.dtype(
    [("start", np.int64), ("end", np.int64), ("front", np.uint64), ("rest", np.uint64), ("slot", np.int64)]
)
EDGE_SLOT: Final = np.dtype([("key", np.uint64), ("entry", np.int32), ("child", np.int32)])

ALL_BITS: Final = 2**64 - 1
FREE: Final = np.uint64(ALL_BITS)
"""The `rest` or `key` of a slot that holds nothing."""

LONG: Final = np.uint64(1 << 63)
"""The bit of `rest` that marks a token of 16 bytes or more."""

END_OF_TEXT: Final = np.uint64(16 << 56)
"""The `rest` of what stands in a block of tokens behind the last token of a text. No token has it."""

ODD: Final = np.uint64(0x9E3779B97F4A7C15)
HALF: Final = np.uint64(32)
BYTE: Final = np.uint64(8)
N_BYTES_AT: Final = np.uint64(56)
SPACE: Final = ord(" ")

N_BLOCK: Final = 64
N_FEW: Final = 64

ENDS: Final = 1
ENDS_AND_IS: Final = 2


def _kinds(blanks: str, marks: str) -> Array:
    """For each of the 256 bytes, what it does to the token before it: 0, ENDS it, or ENDS_AND_IS a token itself."""
    kinds = np.zeros(256, np.uint8)
    kinds[list(blanks.encode())] = ENDS
    kinds[list(marks.encode())] = ENDS_AND_IS
    return kinds


ENTRY_KINDS: Final = _kinds(" ", "")
TEXT_KINDS: Final = _kinds(" " + BLANKS, MARKS)


class TrieMatcher:
    """A `Matcher` that reads Arrow's buffers in one compiled kernel, without the interpreter lock.

    The tables are never written to once they are made, and all scratch belongs to one call of `match`, so threads may
    match with one matcher at the same time. Whatever is in a text, it costs time linear in n_tokens * max_depth, and
    n log n for its n matches.

    Args:
        entries: of type string or large_string; an entry's row is its id.
        hash_bits: a mask of the bits of a hash that count. With fewer than all, tokens collide, which makes matching
            slow and must not make it wrong. For tests.

    Raises:
        ValueError: `entries` is of another type, holds a null or an empty entry, or the same entry twice.

    >>> import pyarrow as pa
    >>> matches = TrieMatcher(pa.array(["cat", "a cat"])).match(pa.array(["a cat, asleep", "cats"]))
    >>> matches.offsets.tolist(), matches.entry_ids.tolist()
    ([0, 2, 2], [0, 1])
    """

    def __init__(self, entries: Strings, hash_bits: int = ALL_BITS) -> None:
        check_entries(entries)
        offsets, data = _buffers(entries)
        self._n_entries = len(entries)
        self._hash_bits = np.uint64(hash_bits)
        long_bytes = np.empty(offsets[-1] - offsets[0] + len(entries), np.uint8)
        # How many distinct tokens and edges there are is known when they are in: too small a table is made anew.
        n_long_bytes = -1
        n_slots = max(16, 1 << (len(entries) // 2).bit_length())
        while n_long_bytes < 0:
            self._tokens = np.empty(n_slots, TOKEN_SLOT)
            self._tokens[:] = (0, FREE, -1, -1)
            n_long_bytes = _add_tokens(offsets, data, self._hash_bits, self._tokens, long_bytes)
            n_slots *= 2
        self._long_bytes = long_bytes[:n_long_bytes].copy()
        self._max_depth = -1
        n_slots = max(16, 1 << (len(entries) // 4).bit_length())
        while self._max_depth < 0:
            self._edges = np.empty(n_slots, EDGE_SLOT)
            self._edges[:] = (FREE, -1, -1)
            self._tokens["entry"] = self._tokens["child"] = -1
            self._max_depth = _add_entries(offsets, data, self._hash_bits, self._tokens, self._long_bytes, self._edges)
            n_slots *= 2

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the matcher holds between calls."""
        return self._tokens.nbytes + self._long_bytes.nbytes + self._edges.nbytes

    def match(self, texts: Strings) -> Matches:
        """See `Matcher.match`."""
        check_texts(texts)
        offsets, data = _buffers(texts)
        ends, entry_ids, _ = _match(
            offsets,
            data,
            self._hash_bits,
            self._tokens,
            self._long_bytes,
            self._edges,
            self._n_entries,
            self._max_depth,
        )
        return Matches(offsets=ends, entry_ids=entry_ids)


def _buffers(strings: Strings) -> tuple[Array, Array]:
    """The offsets, as int64, and the bytes: always the same kinds of array, so that a kernel is compiled once."""
    offsets, data = string_buffers(strings)
    offsets = offsets.astype(np.int64)
    if offsets[0] < 0 or offsets[-1] > len(data) or np.any(offsets[1:] < offsets[:-1]):
        raise ValueError("the Arrow array is damaged: its offsets do not lie in its data (see its validate method)")
    data.flags.writeable = False
    return offsets, data


@kernel
def _mixed(word: Any) -> Any:
    """A bijection of uint64 that takes 0 to 0."""
    word = (word ^ (word >> HALF)) * ODD
    return word ^ (word >> HALF)


@kernel
def _read_token(data: Array, start: int, end: int, kinds: Array, hash_bits: Any) -> Any:
    """Read a token on from `start`: where it ends, and the two halves of its key.

    Of up to 15 bytes, `front` is the first 8 (0 if there are fewer), and `rest` the bytes behind these, with the number
    of all of them on top: the key says which token it is. Of more, `front` is a hash and `rest` is LONG.
    """
    front = np.uint64(0)
    rest = np.uint64(0)
    at = start
    while at < end and kinds[data[at]] == 0:
        rest = (rest << BYTE) | np.uint64(data[at])
        at += 1
        if (at - start) & 7 == 0:
            front = _mixed(front) ^ rest
            rest = np.uint64(0)
    rest |= np.uint64(at - start) << N_BYTES_AT
    if at - start < 16:
        return at, front, rest
    return at, _mixed(_mixed(front) ^ rest) & hash_bits, LONG


@kernel
def _token_home(front: Any, rest: Any, hash_bits: Any, n_slots: int) -> Any:
    """The slot where the search for a token begins."""
    return np.int64(_mixed(front ^ (rest * ODD)) & hash_bits) & (n_slots - 1)


@kernel
def _find_token(
    tokens: Array, long_bytes: Array, front: Any, rest: Any, data: Array, start: int, end: int, hash_bits: Any
) -> Any:
    """The slot of the token `data[start:end]`, or the free one where it belongs.

    In the table, the `rest` of a long token also says where in `long_bytes` it stands, with a space behind it, and it
    is compared byte by byte: tokens with equal hashes can be made on purpose.
    """
    slot = _token_home(front, rest, hash_bits, len(tokens))
    while tokens[slot]["rest"] != FREE:
        if tokens[slot]["front"] == front:
            if tokens[slot]["rest"] == rest and rest != LONG:
                return slot
            if rest == LONG and tokens[slot]["rest"] >= LONG:
                here = start
                there = np.int64(tokens[slot]["rest"] ^ LONG)
                while here < end and data[here] == long_bytes[there]:  # no token has the space that ends this one
                    here += 1
                    there += 1
                if here == end and long_bytes[there] == SPACE:
                    return slot
        slot = (slot + 1) & (len(tokens) - 1)
    return slot


@kernel
def _edge_key(node: int, token: int) -> Any:
    return (np.uint64(node) << HALF) | np.uint64(token)


@kernel
def _edge_home(key: Any, hash_bits: Any, n_slots: int) -> Any:
    """The slot where the search for an edge begins."""
    return np.int64(_mixed(key) & hash_bits) & (n_slots - 1)


@kernel
def _find_edge(edges: Array, key: Any, hash_bits: Any) -> Any:
    """The slot of an edge, or the free one where it belongs."""
    slot = _edge_home(key, hash_bits, len(edges))
    while edges[slot]["key"] != key and edges[slot]["key"] != FREE:
        slot = (slot + 1) & (len(edges) - 1)
    return slot


@kernel
def _add_tokens(offsets: Array, data: Array, hash_bits: Any, tokens: Array, long_bytes: Array) -> int:
    """Give every token of the entries a slot; the number of `long_bytes` used, or -1 if `tokens` is too small."""
    n_taken = 0
    n_long_bytes = 0
    for entry in range(len(offsets) - 1):
        start = offsets[entry]
        while start <= offsets[entry + 1]:
            end, front, rest = _read_token(data, start, offsets[entry + 1], ENTRY_KINDS, hash_bits)
            slot = _find_token(tokens, long_bytes, front, rest, data, start, end, hash_bits)
            if tokens[slot]["rest"] == FREE:
                n_taken += 1
                if 2 * n_taken > len(tokens):
                    return -1
                if rest == LONG:
                    rest |= np.uint64(n_long_bytes)
                    for at in range(start, end):
                        long_bytes[n_long_bytes] = data[at]
                        n_long_bytes += 1
                    long_bytes[n_long_bytes] = SPACE
                    n_long_bytes += 1
                tokens[slot]["front"] = front
                tokens[slot]["rest"] = rest
            start = end + 1
    return n_long_bytes


@kernel
def _add_entries(offsets: Array, data: Array, hash_bits: Any, tokens: Array, long_bytes: Array, edges: Array) -> int:
    """Put every entry into the trie; the number of tokens of the longest, or -1 if `edges` is too small."""
    n_taken = 0
    n_nodes = 0
    max_depth = 0
    for entry in range(len(offsets) - 1):
        entry_end = offsets[entry + 1]
        end, front, rest = _read_token(data, offsets[entry], entry_end, ENTRY_KINDS, hash_bits)
        token = _find_token(tokens, long_bytes, front, rest, data, offsets[entry], end, hash_bits)
        if end == entry_end:
            tokens[token]["entry"] = entry
            max_depth = max(max_depth, 1)
            continue
        if tokens[token]["child"] < 0:
            tokens[token]["child"] = n_nodes
            n_nodes += 1
        node = tokens[token]["child"]
        depth = 1
        while end < entry_end:
            start = end + 1
            end, front, rest = _read_token(data, start, entry_end, ENTRY_KINDS, hash_bits)
            token = _find_token(tokens, long_bytes, front, rest, data, start, end, hash_bits)
            depth += 1
            key = _edge_key(node, token)
            slot = _find_edge(edges, key, hash_bits)
            if edges[slot]["key"] == FREE:
                n_taken += 1
                if 2 * n_taken > len(edges):
                    return -1
                edges[slot]["key"] = key
            if end < entry_end:
                if edges[slot]["child"] < 0:
                    edges[slot]["child"] = n_nodes
                    n_nodes += 1
                node = edges[slot]["child"]
            else:
                edges[slot]["entry"] = entry
        max_depth = max(max_depth, depth)
    return max_depth


@kernel
def _read_block(offsets: Array, data: Array, hash_bits: Any, text: int, start: int, at_mark: bool, block: Array) -> Any:
    """Fill `block` with the tokens on from `start` in `text`, an END_OF_TEXT behind each text.

    Returns how many there are, and the `text`, `start` and `at_mark` to go on with: `at_mark` says that the byte at
    `start` is a mark that has ended the token before it and is now a token itself.
    """
    n_block = 0
    while n_block < len(block) and text < len(offsets) - 1:
        end = start
        front = np.uint64(0)
        rest = END_OF_TEXT
        block[n_block]["start"] = start
        if at_mark:
            rest = (np.uint64(1) << N_BYTES_AT) | np.uint64(data[start])
            end = start + 1
            start = end
            at_mark = False
        elif start <= offsets[text + 1]:
            end, front, rest = _read_token(data, start, offsets[text + 1], TEXT_KINDS, hash_bits)
            at_mark = end < offsets[text + 1] and TEXT_KINDS[data[end]] == ENDS_AND_IS
            start = end if at_mark else end + 1
        else:
            text += 1
            start = offsets[text]
        block[n_block]["end"] = end
        block[n_block]["front"] = front
        block[n_block]["rest"] = rest
        n_block += 1
    return n_block, text, start, at_mark


@kernel
def _look_up(data: Array, hash_bits: Any, tokens: Array, long_bytes: Array, edges: Array, block: Array, n: int) -> Any:
    """Put the slot of each of the first `n` tokens of `block` into it.

    Most of the time goes into waiting for slots that are in no near cache. So all slots that the block needs, and those
    of the edges between neighbours, are first touched, one behind the other with nothing to decide between them: then
    the processor waits for many at once. What was touched is returned, lest the compiler leave it out.
    """
    touched = np.uint64(0)
    for i in range(n):
        touched ^= tokens[_token_home(block[i]["front"], block[i]["rest"], hash_bits, len(tokens))]["front"]
    for i in range(n):
        item = block[i]
        block[i]["slot"] = _find_token(
            tokens, long_bytes, item["front"], item["rest"], data, item["start"], item["end"], hash_bits
        )
    for i in range(1, n):
        key = _edge_key(tokens[block[i - 1]["slot"]]["child"], block[i]["slot"])
        touched ^= edges[_edge_home(key, hash_bits, len(edges))]["key"]
    return touched


@kernel
def _match(
    offsets: Array,
    data: Array,
    hash_bits: Any,
    tokens: Array,
    long_bytes: Array,
    edges: Array,
    n_entries: int,
    max_depth: int,
) -> Any:
    """The offsets and entry ids of `Matches`, and what `_look_up` has touched."""
    n_texts = len(offsets) - 1
    ends = np.zeros(n_texts + 1, np.int64)
    entry_ids = np.empty(4 * n_texts + N_FEW + max_depth, np.int32)
    few = np.empty(N_FEW + max_depth, np.int32)  # one token adds max_depth at most
    matched_in = np.zeros(0, np.int32)
    nodes = np.empty(max_depth + 1, np.int64)  # where the tokens so far have led to, each at another depth
    n_ids = n_few = n_nodes = 0
    block = np.empty(N_BLOCK, TOKEN)
    touched = np.uint64(0)
    text = walked = 0
    start = offsets[0]
    at_mark = False
    while text < n_texts:
        n_block, text, start, at_mark = _read_block(offsets, data, hash_bits, text, start, at_mark, block)
        touched ^= _look_up(data, hash_bits, tokens, long_bytes, edges, block, n_block)
        for i in range(n_block):
            at_end = block[i]["rest"] == END_OF_TEXT
            if not at_end:
                # Written whether or not there is one, then counted: a branch could not be foreseen, and cost more.
                token = block[i]["slot"]
                n_kept = 0
                for k in range(n_nodes):
                    slot = _find_edge(edges, _edge_key(nodes[k], token), hash_bits)
                    entry = edges[slot]["entry"]
                    child = edges[slot]["child"]
                    few[n_few] = entry
                    n_few += entry >= 0
                    nodes[n_kept] = child
                    n_kept += child >= 0
                entry = tokens[token]["entry"]
                child = tokens[token]["child"]
                few[n_few] = entry
                n_few += entry >= 0
                nodes[n_kept] = child
                n_nodes = n_kept + (child >= 0)
                if n_few < N_FEW:
                    continue
            if len(entry_ids) < n_ids + n_few:
                entry_ids = _longer(entry_ids)
            if at_end and n_ids == ends[walked]:
                n_ids += _add_few(few, n_few, entry_ids, n_ids)
            else:
                if len(matched_in) == 0:
                    matched_in = np.zeros(n_entries, np.int32)
                n_ids += _add_new(few, n_few, entry_ids, n_ids, matched_in, walked + 1)
                if at_end:
                    _sort(entry_ids[ends[walked] : n_ids])
            n_few = 0
            if at_end:
                n_nodes = 0
                walked += 1
                ends[walked] = n_ids
    return ends, entry_ids[:n_ids], touched


@kernel
def _longer(ids: Array) -> Array:
    longer = np.empty(2 * len(ids), np.int32)
    longer[: len(ids)] = ids
    return longer


@kernel
def _add_few(few: Array, n_few: int, entry_ids: Array, n_ids: int) -> int:
    """Put the distinct ones of a text's few matches behind `entry_ids[:n_ids]`, ascending; how many they are.

    Each is put where it belongs by counting the smaller ones: for so few this is the fastest, as no step waits for
    another. Equal ones are put in one place and leave holes behind it, which are closed.
    """
    for at in range(n_ids, n_ids + n_few):
        entry_ids[at] = -1
    for i in range(n_few):
        rank = n_ids
        for j in range(n_few):
            rank += few[j] < few[i]
        entry_ids[rank] = few[i]
    end = n_ids
    for at in range(n_ids, n_ids + n_few):
        entry_ids[end] = entry_ids[at]
        end += entry_ids[at] >= 0
    return end - n_ids


@kernel
def _add_new(few: Array, n_few: int, entry_ids: Array, n_ids: int, matched_in: Array, text: int) -> int:
    """Put those of the matches behind `entry_ids[:n_ids]` that the text has not had; how many they are.

    `matched_in` holds for each entry the number, from 1, of the last text for which it came through here.
    """
    end = n_ids
    for i in range(n_few):
        if matched_in[few[i]] != text:
            matched_in[few[i]] = text
            entry_ids[end] = few[i]
            end += 1
    return end - n_ids


@kernel
def _sort(ids: Array) -> None:
    """Sort in place by heap, which takes n log n steps in whatever order a text brings its matches."""
    for root in range(len(ids) // 2 - 1, -1, -1):
        _sift(ids, root, len(ids))
    for last in range(len(ids) - 1, 0, -1):
        ids[0], ids[last] = ids[last], ids[0]
        _sift(ids, 0, last)


@kernel
def _sift(ids: Array, root: int, n_ids: int) -> None:
    """Let `ids[root]` sink until no id below it in the heap `ids[:n_ids]` is larger."""
    while 2 * root + 1 < n_ids:
        child = 2 * root + 1
        if child + 1 < n_ids and ids[child] < ids[child + 1]:
            child += 1
        if ids[root] >= ids[child]:
            return
        ids[root], ids[child] = ids[child], ids[root]
        root = child
