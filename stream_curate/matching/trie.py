"""The fast matcher: a trie over tokens, walked directly over the bytes of an Arrow array.

A *token* is what stands between two neighbouring spaces of a spaced text (`spacing.py`). It may be empty: `"a, b"` is
spaced to `" a ,  b "`, whose tokens are `a`, `,`, an empty one and `b`. An entry is cut at its single spaces alone. It
matches a text if and only if its tokens stand in the text's, one behind the other. The text need not be spaced for
that: a blank ends a token, a mark ends one and is one.

Two tables with open addressing hold the trie:

- `tokens` has every distinct token of the entries. The slot's index serves as the token's number, and its entry and
  child are those of the trie's root. So each token of a text is looked up by its bytes once, however many entries go on
  with it. `below` is a small filter: it tells most tokens that no entry goes on with, and these cost no look-up.
- `edges` leads from a node other than the root, by the number of a token, to an entry and a child.

An entry of -1 says that none ends here; a child of -1, that no longer entry begins like this: a leaf costs no look-up.

Texts are matched some at a time, in steps that each go through all their tokens: read (`_read_texts`), look up
(`_look_up`), collect (`_collect`). Each is a kernel of its own for two reasons. A loop that does one thing keeps the
processor busy while it waits for slots that are in no near cache. And numba counts the references to an array in every
turn of a loop of a function that also puts a new array in its place, which takes longer than the work in it: only
`_match` makes arrays, and it has no loop over tokens.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream_curate.arrow_buffers import string_buffers
from stream_curate.kernels import kernel
from stream_curate.matching.matcher import Matches, Strings, check_entries, check_texts
from stream_curate.spacing import BLANKS, MARKS

Array = npt.NDArray[Any]

# numba makes a float of a uint64 and an int, and looks at each signed index whether it is below 0: in kernels, all that
# is an index or part of a hash is a uint64, and so are the constants.
U64: Final = np.uint64

TOKEN_SLOT: Final = np.dtype(
    [("front", U64), ("rest", U64), ("entry", np.int32), ("child", np.int32), ("below", U64)]
)  # half a line of the cache
EDGE_SLOT: Final = np.dtype([("key", U64), ("entry", np.int32), ("child", np.int32)])

TOKEN: Final = np.dtype(
    [
        ("front", U64),
        ("rest", U64),
        ("slot", U64),  # where the search for it begins, then where it has ended
        ("entry", np.int32),
        ("pair_entry", np.int32),  # the entry and child of the token before it and this one
        ("pair_child", np.int32),
        ("", np.int32),
    ]
)
PAIR: Final = np.dtype([("key", U64), ("second", U64)])

ALL_BITS: Final = 2**64 - 1
FREE: Final = U64(ALL_BITS)
"""The `rest` or `key` of a slot that holds nothing."""

LONG: Final = U64(1 << 63)
"""The bit of `rest` that marks a token of 16 bytes or more."""

NO_TOKEN: Final = U64(16 << 56)
"""The `rest` of what stands behind the last token of a text, and of long tokens of no entry. No slot has it."""

ODD: Final = U64(0x9E3779B97F4A7C15)
ODD_TOO: Final = U64(0xC2B2AE3D27D4EB4F)
ZERO: Final = U64(0)
ONE: Final = U64(1)
BYTE: Final = U64(8)
N_SHORT: Final = U64(16)
HALF: Final = U64(32)
N_BYTES_AT: Final = U64(56)
IN_WORD: Final = U64(63)
CHUNK: Final = U64(64)
SPACE: Final = ord(" ")

FRONT_BYTES: Final = np.array([2 ** (8 * min(n_bytes, 8)) - 1 for n_bytes in range(16)], U64)
REST_BYTES: Final = np.array([2 ** (8 * max(n_bytes - 8, 0)) - 1 for n_bytes in range(16)], U64)
"""Which bits of a token's first 8 bytes, and of the 8 behind them, are its own, by its number of bytes."""

N_PADDING: Final = 64 + 16
"""Bytes behind a text that may be read: a chunk begins at its end at the latest, a token's 16 bytes in the chunk."""

N_BLOCK: Final = 128
N_FEW: Final = 64

BLANK_1, BLANK_2, BLANK_3, BLANK_4 = (np.uint8(byte) for byte in (" " + BLANKS).encode())
MARK_1, MARK_2, MARK_3, MARK_4, MARK_5, MARK_6, MARK_7 = (np.uint8(byte) for byte in MARKS.encode())


class TrieMatcher:
    """A `Matcher` that reads Arrow's buffers in compiled kernels, without the interpreter lock.

    The tables are never written to once they are made, and all scratch belongs to one call of `match`, so threads may
    match with one matcher at the same time. Whatever is in a text, it costs time linear in n_tokens * max_depth, and
    n log n for its n matches. The scratch is about 100 bytes for each byte of the batch's longest text.

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
        self._hash_bits = U64(hash_bits)
        long_bytes = np.empty(offsets[-1] - offsets[0] + len(entries), np.uint8)
        # How many distinct tokens and edges there are is known when they are in: too small a table is made anew.
        n_long_bytes = -1
        n_slots = max(16, 1 << (len(entries) // 2).bit_length())
        while n_long_bytes < 0:
            self._tokens = _table(n_slots, TOKEN_SLOT, (0, FREE, -1, -1, 0))
            n_long_bytes = _add_tokens(offsets, data, self._hash_bits, self._tokens, long_bytes)
            n_slots *= 2
        self._long_bytes = long_bytes[:n_long_bytes].copy()
        self._max_depth = -1
        n_slots = max(16, 1 << (len(entries) // 4).bit_length())
        while self._max_depth < 0:
            self._edges = _table(n_slots, EDGE_SLOT, (FREE, -1, -1))
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
            int(np.diff(offsets).max(initial=0)),
        )
        return Matches(offsets=ends, entry_ids=entry_ids)


def _buffers(strings: Strings) -> tuple[Array, Array]:
    """The offsets, as int64, and the bytes, with N_PADDING of them behind the last string.

    They are always the same kinds of array, so that a kernel is compiled once.
    """
    offsets, data = string_buffers(strings)
    offsets = offsets.astype(np.int64)
    first, last = offsets[0], offsets[-1]
    if first < 0 or last > len(data) or np.any(offsets[1:] < offsets[:-1]):
        raise ValueError("the Arrow array is damaged: its offsets do not lie in its data (see its validate method)")
    if last + N_PADDING > len(data):
        padded = np.zeros(last - first + N_PADDING, np.uint8)
        padded[: last - first] = data[first:last]
        data = padded
        offsets -= first
    data.flags.writeable = False
    return offsets, data


def _table(n_slots: int, slot: np.dtype[Any], empty: tuple[Any, ...]) -> Array:
    """An empty table whose slots lie across no two lines of the cache, if they are a power of two bytes long."""
    memory = np.empty(n_slots * slot.itemsize + 64, np.uint8)
    first = -memory.ctypes.data % 64
    table = memory[first : first + n_slots * slot.itemsize].view(slot)
    table[:] = empty
    return table


@kernel
def _mixed(word: Any) -> Any:
    """A bijection of uint64 that takes 0 to 0."""
    word = (word ^ (word >> HALF)) * ODD
    return word ^ (word >> HALF)


@kernel
def _word(data: Array, at: Any) -> Any:
    """`data[at:at + 8]` as one number, the first byte lowest. Written like this, the compiler makes one load of it."""
    return (
        U64(data[at])
        | (U64(data[at + ONE]) << BYTE)
        | (U64(data[at + U64(2)]) << U64(16))
        | (U64(data[at + U64(3)]) << U64(24))
        | (U64(data[at + U64(4)]) << U64(32))
        | (U64(data[at + U64(5)]) << U64(40))
        | (U64(data[at + U64(6)]) << U64(48))
        | (U64(data[at + U64(7)]) << U64(56))
    )


@kernel
def _short_key(data: Array, start: Any, n_bytes: Any) -> Any:
    """The key of a token of up to 15 bytes, which says which token it is.

    `front` is the first 8 bytes, `rest` those behind them, both filled up with zeros, with the number of all on top.
    """
    front = _word(data, start) & FRONT_BYTES[n_bytes]
    rest = _word(data, start + BYTE) & REST_BYTES[n_bytes]
    return front, rest | (n_bytes << N_BYTES_AT)


@kernel
def _token_home(front: Any, rest: Any, hash_bits: Any, n_slots: int) -> Any:
    """The slot where the search for a token begins."""
    home = (front ^ (front >> HALF)) * ODD + rest * ODD_TOO
    return (home ^ (home >> HALF)) & hash_bits & U64(n_slots - 1)


@kernel
def _find_short(tokens: Array, slot: Any, front: Any, rest: Any) -> Any:
    """The slot, on from `slot`, of the token with that key, or the free one where it belongs."""
    while (tokens[slot]["front"] != front or tokens[slot]["rest"] != rest) and tokens[slot]["rest"] != FREE:
        slot = (slot + ONE) & U64(len(tokens) - 1)
    return slot


@kernel
def _find_long(data: Array, start: Any, end: Any, hash_bits: Any, tokens: Array, long_bytes: Array) -> Any:
    """The slot of a token of 16 bytes or more, or the free one where it belongs, and its hash.

    In the table, `front` is the hash, and `rest` is LONG with the token's place in `long_bytes`, where a space stands
    behind it. The bytes are compared one by one: tokens with equal hashes can be made on purpose.
    """
    front = ZERO
    for at in range(start, end):
        front = _mixed(front ^ U64(data[at])) + ODD
    front &= hash_bits
    slot = _token_home(front, LONG, hash_bits, len(tokens))
    while tokens[slot]["rest"] != FREE:
        if tokens[slot]["front"] == front and tokens[slot]["rest"] >= LONG:
            here = start
            there = tokens[slot]["rest"] ^ LONG
            while here < end and data[here] == long_bytes[there]:  # no token has the space that ends this one
                here += ONE
                there += ONE
            if here == end and long_bytes[there] == SPACE:
                break
        slot = (slot + ONE) & U64(len(tokens) - 1)
    return slot, front


@kernel
def _find_token(data: Array, start: Any, end: Any, hash_bits: Any, tokens: Array, long_bytes: Array) -> Any:
    """The slot of the token `data[start:end]`, or the free one where it belongs, and its `front` and `rest`."""
    if end - start < N_SHORT:
        front, rest = _short_key(data, start, end - start)
        return _find_short(tokens, _token_home(front, rest, hash_bits, len(tokens)), front, rest), front, rest
    slot, front = _find_long(data, start, end, hash_bits, tokens, long_bytes)
    return slot, front, LONG


@kernel
def _edge_key(node: Any, token: Any) -> Any:
    return (U64(node) << HALF) | token


@kernel
def _edge_home(key: Any, hash_bits: Any, n_slots: int) -> Any:
    """The slot where the search for an edge begins."""
    return _mixed(key) & hash_bits & U64(n_slots - 1)


@kernel
def _find_edge(edges: Array, key: Any, hash_bits: Any) -> Any:
    """The slot of an edge, or the free one where it belongs."""
    slot = _edge_home(key, hash_bits, len(edges))
    while edges[slot]["key"] != key and edges[slot]["key"] != FREE:
        slot = (slot + ONE) & U64(len(edges) - 1)
    return slot


@kernel
def _below(token: Any, hash_bits: Any) -> Any:
    """The number of the bit of `below` that stands for a token behind."""
    return token & hash_bits & IN_WORD


@kernel
def _space_from(data: Array, at: Any, end: Any) -> Any:
    """Where the first space on from `at` stands, or `end`."""
    while at < end and data[at] != SPACE:
        at += ONE
    return at


@kernel
def _add_tokens(offsets: Array, data: Array, hash_bits: Any, tokens: Array, long_bytes: Array) -> Any:
    """Give every token of the entries a slot; the number of `long_bytes` used, or -1 if `tokens` is too small."""
    n_taken = 0
    n_long_bytes = ZERO
    for entry in range(len(offsets) - 1):
        start = U64(offsets[entry])
        entry_end = U64(offsets[entry + 1])
        while start <= entry_end:
            end = _space_from(data, start, entry_end)
            slot, front, rest = _find_token(data, start, end, hash_bits, tokens, long_bytes)
            if tokens[slot]["rest"] == FREE:
                n_taken += 1
                if 2 * n_taken > len(tokens):
                    return -1
                if rest == LONG:
                    rest |= n_long_bytes
                    for at in range(start, end):
                        long_bytes[n_long_bytes] = data[at]
                        n_long_bytes += ONE
                    long_bytes[n_long_bytes] = SPACE
                    n_long_bytes += ONE
                tokens[slot]["front"] = front
                tokens[slot]["rest"] = rest
            start = end + ONE
    return np.int64(n_long_bytes)  # lest it become a float with the -1


@kernel
def _add_entries(offsets: Array, data: Array, hash_bits: Any, tokens: Array, long_bytes: Array, edges: Array) -> int:
    """Put every entry into the trie; the number of tokens of the longest, or -1 if `edges` is too small."""
    n_taken = 0
    n_nodes = 0
    max_depth = 0
    for entry in range(len(offsets) - 1):
        entry_end = U64(offsets[entry + 1])
        end = _space_from(data, U64(offsets[entry]), entry_end)
        first, _, _ = _find_token(data, U64(offsets[entry]), end, hash_bits, tokens, long_bytes)
        if end == entry_end:
            tokens[first]["entry"] = entry
            max_depth = max(max_depth, 1)
            continue
        if tokens[first]["child"] < 0:
            tokens[first]["child"] = n_nodes
            n_nodes += 1
        node = tokens[first]["child"]
        depth = 1
        while end < entry_end:
            start = end + ONE
            end = _space_from(data, start, entry_end)
            token, _, _ = _find_token(data, start, end, hash_bits, tokens, long_bytes)
            if depth == 1:
                tokens[first]["below"] |= ONE << _below(token, hash_bits)
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
def _classify(data: Array, at: Any, kinds: Array) -> None:
    """For each byte of a chunk, 1 if it is a mark and 0 if not; then, for each, whether it is a mark or a blank.

    Comparisons without a branch, as the compiler then does 16 to 64 bytes at once.
    """
    for i in range(CHUNK):
        byte = data[at + i]
        mark = (
            (byte == MARK_1)
            | (byte == MARK_2)
            | (byte == MARK_3)
            | (byte == MARK_4)
            | (byte == MARK_5)
            | (byte == MARK_6)
            | (byte == MARK_7)
        )
        blank = (byte == BLANK_1) | (byte == BLANK_2) | (byte == BLANK_3) | (byte == BLANK_4)
        kinds[i] = np.uint8(mark)
        kinds[i + CHUNK] = np.uint8(mark | blank)


@kernel
def _bits(kinds: Array, first: Any) -> Any:
    """64 bytes of 0 or 1 as the bits of one number, the first byte lowest."""
    bits = ZERO
    for at in range(ZERO, CHUNK, BYTE):
        # The product has each of the 8 bytes once at another bit of its highest byte, and no sum carries into it.
        bits |= ((_word(kinds, first + at) * U64(0x0102040810204080)) >> N_BYTES_AT) << at
    return bits


@kernel
def _lowest(bits: Any) -> Any:
    """The number of the lowest bit set: the bits below it are counted. The compiler makes one instruction of it."""
    bits = ~bits & (bits - ONE)
    bits -= (bits >> ONE) & U64(0x5555555555555555)
    bits = (bits & U64(0x3333333333333333)) + ((bits >> U64(2)) & U64(0x3333333333333333))
    bits = (bits + (bits >> U64(4))) & U64(0x0F0F0F0F0F0F0F0F)
    return (bits * U64(0x0101010101010101)) >> N_BYTES_AT


@kernel
def _read_texts(
    offsets: Array,
    data: Array,
    hash_bits: Any,
    tokens: Array,
    long_bytes: Array,
    kinds: Array,
    block: Array,
    text_ends: Array,
) -> Any:
    """Fill `block` with the tokens of the first texts, until it has N_BLOCK, and a NO_TOKEN behind each text.

    Puts into `text_ends` where each text ends in `block`, and returns how many texts there are. The slots where the
    search for the tokens begins are touched, so that they are near when `_look_up` comes; what was touched is returned
    too, lest the compiler leave it out.
    """
    n_block = ZERO
    n_texts = 0
    touched = ZERO
    while n_texts < len(offsets) - 1 and n_block < N_BLOCK:
        start = U64(offsets[n_texts])
        text_end = U64(offsets[n_texts + 1])
        for chunk in range(start, text_end + ONE, CHUNK):
            _classify(data, chunk, kinds)
            marks = _bits(kinds, ZERO)
            ends = _bits(kinds, CHUNK)
            if text_end - chunk < CHUNK:  # the text's end ends a token too
                end_bit = ONE << (text_end - chunk)
                marks &= end_bit - ONE
                ends = (ends & (end_bit - ONE)) | end_bit
            while ends != ZERO:
                bit = _lowest(ends)
                ends &= ends - ONE
                end = chunk + bit
                if end - start < N_SHORT:
                    front, rest = _short_key(data, start, end - start)
                    slot = _token_home(front, rest, hash_bits, len(tokens))
                    touched ^= tokens[slot]["front"]
                else:
                    slot, front = _find_long(data, start, end, hash_bits, tokens, long_bytes)
                    rest = tokens[slot]["rest"] if tokens[slot]["rest"] != FREE else NO_TOKEN
                block[n_block]["front"] = front
                block[n_block]["rest"] = rest
                block[n_block]["slot"] = slot
                n_block += ONE
                # Written whether or not it is a mark, then counted: a branch could not be foreseen, and cost more.
                front = U64(data[end])
                rest = ONE << N_BYTES_AT
                block[n_block]["front"] = front
                block[n_block]["rest"] = rest
                block[n_block]["slot"] = _token_home(front, rest, hash_bits, len(tokens))
                n_block += (marks >> bit) & ONE
                start = end + ONE
        block[n_block]["front"] = ZERO
        block[n_block]["rest"] = NO_TOKEN
        block[n_block]["slot"] = _token_home(ZERO, NO_TOKEN, hash_bits, len(tokens))
        n_block += ONE
        text_ends[n_texts] = n_block
        n_texts += 1
    return n_texts, touched


@kernel
def _look_up(n_block: Any, hash_bits: Any, tokens: Array, edges: Array, block: Array, pairs: Array) -> Any:
    """Put into `block` the slot and entry of each token, and the entry and child of each with the one before it.

    Only pairs that `below` lets pass are looked up. Their slots are touched first, one behind the other with nothing to
    decide between them: then the processor waits for many at once. What was touched is returned.
    """
    n_pairs = ZERO
    child = np.int32(-1)
    below = ZERO
    for i in range(n_block):
        slot = _find_short(tokens, block[i]["slot"], block[i]["front"], block[i]["rest"])
        block[i]["slot"] = slot
        block[i]["entry"] = tokens[slot]["entry"]
        block[i]["pair_entry"] = -1
        block[i]["pair_child"] = -1
        pairs[n_pairs]["key"] = _edge_key(child, slot)
        pairs[n_pairs]["second"] = i
        n_pairs += (below >> _below(slot, hash_bits)) & ONE
        child = tokens[slot]["child"]
        below = tokens[slot]["below"]
    touched = ZERO
    for i in range(n_pairs):
        touched ^= edges[_edge_home(pairs[i]["key"], hash_bits, len(edges))]["key"]
    for i in range(n_pairs):
        slot = _find_edge(edges, pairs[i]["key"], hash_bits)
        block[pairs[i]["second"]]["pair_entry"] = edges[slot]["entry"]
        block[pairs[i]["second"]]["pair_child"] = edges[slot]["child"]
    return touched


@kernel
def _collect(
    n_texts: int,
    text_ends: Array,
    block: Array,
    hash_bits: Any,
    edges: Array,
    max_ids: Any,
    entry_ids: Array,
    n_ids: Any,
    ends: Array,
) -> Any:
    """Put the matches of the block's texts behind `entry_ids[:n_ids]`, and where each text's end into `ends`.

    A text that has `max_ids` matches or more is rid of repeats in between, so that it takes no more room than that and
    one token's.
    """
    few = np.empty(N_FEW, np.int32)
    i = ZERO
    for text in range(n_texts):
        first = n_ids
        text_end = U64(text_ends[text])
        while i < text_end:
            entry = block[i]["entry"]
            entry_ids[n_ids] = entry
            n_ids += U64(entry >= 0)
            entry = block[i]["pair_entry"]
            entry_ids[n_ids] = entry
            n_ids += U64(entry >= 0)
            node = block[i]["pair_child"]
            i += ONE
            behind = i
            while node >= 0:
                slot = _find_edge(edges, _edge_key(node, block[behind]["slot"]), hash_bits)
                entry = edges[slot]["entry"]
                entry_ids[n_ids] = entry
                n_ids += U64(entry >= 0)
                node = edges[slot]["child"]
                behind += ONE
            if n_ids - first >= max_ids:
                n_ids = _sort_many(entry_ids, first, n_ids)
        n_ids = (
            _sort_few(few, entry_ids, first, n_ids) if n_ids - first <= N_FEW else _sort_many(entry_ids, first, n_ids)
        )
        ends[text] = n_ids
    return n_ids


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
    max_bytes: int,
) -> Any:
    """The offsets and entry ids of `Matches`, and what was touched."""
    n_texts = len(offsets) - 1
    max_block = N_BLOCK + 2 * max_bytes + 3  # of a text's bytes each may be a mark, with an empty token before it
    block = np.empty(max_block, TOKEN)
    pairs = np.empty(max_block, PAIR)
    kinds = np.empty(2 * 64, np.uint8)
    text_ends = np.empty(N_BLOCK, np.int64)
    ends = np.zeros(n_texts + 1, np.int64)
    entry_ids = np.empty(16 * n_texts, np.int32)
    max_ids = 2 * n_entries + N_FEW
    n_ids: Any = 0
    text = 0
    touched = ZERO
    while text < n_texts:
        n_read, touched_tokens = _read_texts(
            offsets[text:], data, hash_bits, tokens, long_bytes, kinds, block, text_ends
        )
        touched_edges = _look_up(U64(text_ends[n_read - 1]), hash_bits, tokens, edges, block, pairs)
        touched ^= touched_tokens ^ touched_edges
        max_n_ids = n_ids + 1
        n_before = 0
        for i in range(n_read):
            max_n_ids += min(max_ids, (text_ends[i] - n_before) * max_depth) + max_depth
            n_before = text_ends[i]
        if len(entry_ids) < max_n_ids:
            longer = np.empty(2 * max_n_ids, np.int32)
            for i in range(n_ids):  # numba compiles for 2 s what copies a slice
                longer[i] = entry_ids[i]
            entry_ids = longer
        n_ids = np.int64(
            _collect(n_read, text_ends, block, hash_bits, edges, U64(max_ids), entry_ids, U64(n_ids), ends[text + 1 :])
        )
        text += n_read
    return ends, entry_ids[:n_ids], touched


@kernel
def _sort_few(few: Array, entry_ids: Array, first: Any, end: Any) -> Any:
    """Sort up to N_FEW ids, `entry_ids[first:end]`, without repeats; where they end then.

    Each is put where it belongs by counting the smaller ones: for so few this is the fastest, as no step waits for
    another. Equal ones are put in one place and leave holes behind it, which are closed.
    """
    for i in range(end - first):
        few[i] = entry_ids[first + i]
        entry_ids[first + i] = -1
    for i in range(end - first):
        rank = first
        for k in range(end - first):
            rank += U64(few[k] < few[i])
        entry_ids[rank] = few[i]
    kept = first
    for at in range(first, end):
        entry_ids[kept] = entry_ids[at]
        kept += U64(entry_ids[at] >= 0)
    return kept


@kernel
def _sort_many(entry_ids: Array, first: Any, end: Any) -> Any:
    """Sort `entry_ids[first:end]` without repeats; where they end then.

    By heap, which takes n log n steps in whatever order a text brings its matches.
    """
    heap = entry_ids[first:end]
    for root in range(len(heap) // 2 - 1, -1, -1):
        _sift(heap, root, len(heap))
    for last in range(len(heap) - 1, 0, -1):
        heap[0], heap[last] = heap[last], heap[0]
        _sift(heap, 0, last)
    kept = first
    for at in range(first, end):
        if at == first or entry_ids[at] != entry_ids[kept - ONE]:
            entry_ids[kept] = entry_ids[at]
            kept += ONE
    return kept


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
