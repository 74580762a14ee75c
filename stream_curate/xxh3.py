"""XXH3-128 of many byte strings at once, for less than what one call of the xxhash library costs for each.

Source: the specification of XXH3 (Yann Collet, xxHash 0.8) with seed 0 and its default secret. Strings of up to 16
bytes have rules of their own there, and are left to the library.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pyarrow as pa
import xxhash
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from stream_curate.arrow_buffers import string_buffers
from stream_curate.kernels import kernel

_MIN_BYTES = 17
"""The shortest string that `_hash` is for."""

_PRIME32_1 = np.uint64(0x9E3779B1)
_PRIME32_2 = np.uint64(0x85EBCA77)
_PRIME32_3 = np.uint64(0xC2B2AE3D)
_PRIME64_1 = np.uint64(0x9E3779B185EBCA87)
_PRIME64_2 = np.uint64(0xC2B2AE3D27D4EB4F)
_PRIME64_3 = np.uint64(0x165667B19E3779F9)
_PRIME64_4 = np.uint64(0x85EBCA77C2B2AE63)
_PRIME64_5 = np.uint64(0x27D4EB2F165667C5)

_SECRET = np.frombuffer(
    bytes.fromhex(
        "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
        "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
        "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
        "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
    ),
    np.uint8,
)
# np.int64, as numba compiles a function once more for each plain constant that it is called with
_MIX_LAST, _ACCUMULATE_LAST, _MERGE_UPPER, _MERGE_LOWER = map(np.int64, (103, 121, 117, 11))  # places in the secret
_STRIPE = 64
_STRIPES_A_BLOCK = 16
_SECRET_STEP = 8


def _read64(typing_context: Any, data: Any, at: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        index = context.cast(builder, arguments[1], signature.args[1], types.intp)
        pointer = builder.bitcast(builder.gep(array.data, [index]), ir.IntType(64).as_pointer())
        return builder.load(pointer, align=1)

    return types.uint64(data, at), generate


read64 = cast(Callable[[np.ndarray, int | np.int64], np.uint64], intrinsic(_read64))
"""In a kernel: the little-endian uint64 that stands in `data[at:at + 8]`, uint8; `at` need not be a multiple of 8."""


def _memcpy(typing_context: Any, target: Any, to: Any, source: Any, at: Any, n: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def pointer(array: int, index: int) -> Any:
            data = context.make_array(signature.args[array])(context, builder, arguments[array]).data
            return builder.gep(data, [context.cast(builder, arguments[index], signature.args[index], types.intp)])

        n_bytes = context.cast(builder, arguments[4], signature.args[4], types.intp)
        cgutils.raw_memcpy(builder, pointer(0, 1), pointer(2, 3), n_bytes, 1)  # type: ignore[no-untyped-call]
        return context.get_dummy_value()

    return types.void(target, to, source, at, n), generate


_copy = cast(Callable[[np.ndarray, int, np.ndarray, int, int], None], intrinsic(_memcpy))
"""In a kernel: `target[to:to + n] = source[at:at + n]`, both uint8, without a look at whether they overlap."""


def _fold(typing_context: Any, a: Any, b: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(*(builder.zext(argument, wide) for argument in arguments))
        upper = builder.lshr(product, ir.Constant(wide, 64))
        return builder.trunc(builder.xor(product, upper), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), generate


_folded_product = cast(Callable[[np.uint64, np.uint64], np.uint64], intrinsic(_fold))
"""In a kernel: the lower and the upper half of the 128-bit product, xored."""


def xxh3_128_of_both(heads: pa.BinaryArray, tails: pa.BinaryArray) -> np.ndarray:
    """The hash of each head, a zero byte and the tail beside it, as one string.

    Args:
        heads: n strings or bytes, none of them null.
        tails: likewise.

    Returns:
        uint8[n, 16], in canonical (big-endian) order.
    """
    offsets, data = string_buffers(heads)
    tail_offsets, tail_data = string_buffers(tails)
    lengths = np.diff(offsets).astype(np.int64) + np.diff(tail_offsets) + 1
    halves = np.empty((len(heads), 2), np.uint64)
    # one after the other in the same few bytes, which stay in a near cache
    _hash_both(offsets, data, tail_offsets, tail_data, np.empty(lengths.max(initial=0), np.uint8), halves)
    digests = halves.astype(">u8").view(np.uint8)
    for row in np.flatnonzero(lengths < _MIN_BYTES).tolist():
        value = b"\x00".join(each[row].as_buffer().to_pybytes() for each in (heads, tails))
        digests[row] = np.frombuffer(xxhash.xxh3_128_digest(value), np.uint8)
    return digests


@kernel
def _hash(data: np.ndarray, n: int) -> tuple[np.uint64, np.uint64]:
    """The upper and the lower 64 bits of the hash of `n` bytes, at least `_MIN_BYTES`."""
    if n > 240:
        return _hash_long(data, n)
    low = np.uint64(n) * _PRIME64_1
    high = np.uint64(0)
    if n <= 128:
        for i in range((n - 1) // 32, -1, -1):
            low, high = _mix(low, high, data, 16 * i, n - 16 * (i + 1), 32 * i)
    else:
        for i in range(4):
            low, high = _mix(low, high, data, 32 * i, 32 * i + 16, 32 * i)
        low, high = _avalanche(low), _avalanche(high)
        for i in range(4, n // 32):
            low, high = _mix(low, high, data, 32 * i, 32 * i + 16, 32 * i - 125)
        low, high = _mix(low, high, data, n - 16, n - 32, _MIX_LAST)
    upper = low * _PRIME64_1 + high * _PRIME64_4 + np.uint64(n) * _PRIME64_2
    return np.uint64(0) - _avalanche(upper), _avalanche(low + high)


@kernel
def _mix(
    low: np.uint64, high: np.uint64, data: np.ndarray, first: int, second: int, secret: int | np.int64
) -> tuple[np.uint64, np.uint64]:
    """Take 16 bytes at `first` and 16 at `second` into the two halves."""
    first_0, first_1 = read64(data, first), read64(data, first + 8)
    second_0, second_1 = read64(data, second), read64(data, second + 8)
    low += _folded_product(first_0 ^ read64(_SECRET, secret), first_1 ^ read64(_SECRET, secret + 8))
    high += _folded_product(second_0 ^ read64(_SECRET, secret + 16), second_1 ^ read64(_SECRET, secret + 24))
    return low ^ (second_0 + second_1), high ^ (first_0 + first_1)


@kernel
def _avalanche(h: np.uint64) -> np.uint64:
    h ^= h >> np.uint64(37)
    h *= np.uint64(0x165667919E3779F9)
    return h ^ (h >> np.uint64(32))


@kernel
def _hash_long(data: np.ndarray, n: int) -> tuple[np.uint64, np.uint64]:
    lanes = np.array(
        [_PRIME32_3, _PRIME64_1, _PRIME64_2, _PRIME64_3, _PRIME64_4, _PRIME32_2, _PRIME64_5, _PRIME32_1], np.uint64
    )
    n_stripes = (n - 1) // _STRIPE
    for i in range(n_stripes):
        _accumulate(lanes, data, i * _STRIPE, i % _STRIPES_A_BLOCK * _SECRET_STEP)
        if i % _STRIPES_A_BLOCK == _STRIPES_A_BLOCK - 1:
            for k in range(8):
                lanes[k] = (lanes[k] ^ (lanes[k] >> np.uint64(47)) ^ read64(_SECRET, 128 + 8 * k)) * _PRIME32_1
    _accumulate(lanes, data, n - _STRIPE, _ACCUMULATE_LAST)
    length = np.uint64(n)
    return _merge(lanes, _MERGE_UPPER, ~(length * _PRIME64_2)), _merge(lanes, _MERGE_LOWER, length * _PRIME64_1)


@kernel
def _accumulate(lanes: np.ndarray, data: np.ndarray, at: int, secret: int | np.int64) -> None:
    """Take one stripe into the lanes."""
    for k in range(8):
        value = read64(data, at + 8 * k)
        key = value ^ read64(_SECRET, secret + 8 * k)
        lanes[k ^ 1] += value
        lanes[k] += (key & np.uint64(0xFFFFFFFF)) * (key >> np.uint64(32))


@kernel
def _merge(lanes: np.ndarray, secret: int | np.int64, start: np.uint64) -> np.uint64:
    merged = start
    for k in range(0, 8, 2):
        merged += _folded_product(
            lanes[k] ^ read64(_SECRET, secret + 8 * k), lanes[k + 1] ^ read64(_SECRET, secret + 8 * k + 8)
        )
    return _avalanche(merged)


@kernel
def _hash_both(
    offsets: np.ndarray,
    data: np.ndarray,
    tail_offsets: np.ndarray,
    tail_data: np.ndarray,
    scratch: np.ndarray,
    out: np.ndarray,
) -> None:
    for i in range(len(out)):
        n_head = offsets[i + 1] - offsets[i]
        n_tail = tail_offsets[i + 1] - tail_offsets[i]
        n = n_head + 1 + n_tail
        if n >= _MIN_BYTES:
            _copy(scratch, 0, data, offsets[i], n_head)
            scratch[n_head] = 0
            _copy(scratch, n_head + 1, tail_data, tail_offsets[i], n_tail)
            out[i, 0], out[i, 1] = _hash(scratch, n)
