"""The uniform draw of each (pair, entry), fixed for ever by the seed.

    base    = SipHash-2-4(key = seed, message = pair_id)
    draw(e) = (mix(base + xxh3_64(entry) + 0x9E3779B97F4A7C15) >> 11) * 2^-53     in [0, 1)

The hash is keyed so that nobody who does not know the seed can search for urls that are always admitted. Sources:
SipHash (Aumasson and Bernstein, 2012), the finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
"""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa

from stream_curate.errors import ConfigError
from stream_curate.kernels import kernel

MAX_SEED = 2**128 - 1


def parse_seed(text: str) -> int:
    """The seed written as a decimal number or as hexadecimal with 0x.

    Raises:
        ConfigError: when it is neither, or not in [0, 2^128). The text itself is not repeated: a seed is a secret.
    """
    try:
        seed = int(text.strip(), 16 if text.strip().lower().startswith("0x") else 10)
    except ValueError:
        raise ConfigError("the seed is not a number: give it as decimal digits, or as 0x and hex digits") from None
    return check_seed(seed)


def check_seed(seed: int) -> int:
    """`seed` itself if it is in [0, 2^128), else a ConfigError."""
    if not 0 <= seed <= MAX_SEED:
        raise ConfigError("the seed is out of range: it must be at least 0 and below 2^128")
    return seed


def seed_fingerprint(seed: int) -> str:
    """16 hex digits that tell seeds apart without giving them away: all that is ever stored, logged or shown."""
    return hashlib.sha256(b"stream-curate seed" + seed.to_bytes(16, "little")).hexdigest()[:16]


def bases(pair_ids: pa.FixedSizeBinaryArray, seed: int) -> np.ndarray:
    """The keyed hash of each pair_id: uint64[n]. Also what is remembered of a pair to know it again."""
    if len(pair_ids) == 0:
        return np.zeros(0, np.uint64)
    words = np.frombuffer(pair_ids.buffers()[1], "<u8", 2 * len(pair_ids), 16 * pair_ids.offset)
    key = seed.to_bytes(16, "little")
    out = np.empty(len(pair_ids), np.uint64)
    _siphash_2_4(words, np.uint64(int.from_bytes(key[:8], "little")), np.uint64(int.from_bytes(key[8:], "little")), out)
    return out


def draws(base: np.ndarray, entry_keys: np.ndarray) -> np.ndarray:
    """The draws float64[n] of pairs with hash `base` (uint64[n]) for entries with key `entry_keys` (uint64[n])."""
    out = np.empty(len(base), np.float64)
    _draw_all(base, entry_keys, out)
    return out


@kernel
def draw(base: np.uint64, entry_key: np.uint64) -> float:
    """One draw; for use inside other kernels."""
    z = base + entry_key + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return np.float64(z >> np.uint64(11)) * 2.0**-53


@kernel
def _draw_all(base: np.ndarray, entry_keys: np.ndarray, out: np.ndarray) -> None:
    for i in range(len(out)):
        out[i] = draw(base[i], entry_keys[i])


@kernel
def _rotate_left(x: np.uint64, n_bits: int) -> np.uint64:
    return (x << np.uint64(n_bits)) | (x >> np.uint64(64 - n_bits))


@kernel
def _sip_round(v0: np.uint64, v1: np.uint64, v2: np.uint64, v3: np.uint64) -> tuple:  # type: ignore[type-arg]
    v0 = v0 + v1
    v1 = _rotate_left(v1, 13) ^ v0
    v0 = _rotate_left(v0, 32)
    v2 = v2 + v3
    v3 = _rotate_left(v3, 16) ^ v2
    v0 = v0 + v3
    v3 = _rotate_left(v3, 21) ^ v0
    v2 = v2 + v1
    v1 = _rotate_left(v1, 17) ^ v2
    v2 = _rotate_left(v2, 32)
    return v0, v1, v2, v3


@kernel
def _siphash_2_4(words: np.ndarray, key_low: np.uint64, key_high: np.uint64, out: np.ndarray) -> None:
    """SipHash-2-4 of 16-byte messages; `words` holds two little-endian words a message."""
    for i in range(len(out)):
        v0 = key_low ^ np.uint64(0x736F6D6570736575)
        v1 = key_high ^ np.uint64(0x646F72616E646F6D)
        v2 = key_low ^ np.uint64(0x6C7967656E657261)
        v3 = key_high ^ np.uint64(0x7465646279746573)
        for block in range(3):
            # the last block of a 16-byte message holds nothing but its length
            message = words[2 * i + block] if block < 2 else np.uint64(16 << 56)
            v3 ^= message
            for _ in range(2):
                v0, v1, v2, v3 = _sip_round(v0, v1, v2, v3)
            v0 ^= message
        v2 ^= np.uint64(0xFF)
        for _ in range(4):
            v0, v1, v2, v3 = _sip_round(v0, v1, v2, v3)
        out[i] = v0 ^ v1 ^ v2 ^ v3
