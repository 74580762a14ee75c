"""Arrow string columns as the numpy arrays that kernels read, without a copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa


def string_buffers(values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The offsets and the bytes of a string or binary column without nulls.

    Returns:
        offsets: int32[n + 1], or int64 for the large types; value i is `data[offsets[i]:offsets[i + 1]]`.
            A sliced column gives a slice of its offsets, so they need not start at 0.
        data: uint8[n_bytes].

    Raises:
        ValueError: for another type, or a column with nulls.
    """
    if pa.types.is_string(values.type) or pa.types.is_binary(values.type):
        width: np.dtype[Any] = np.dtype(np.int32)
    elif pa.types.is_large_string(values.type) or pa.types.is_large_binary(values.type):
        width = np.dtype(np.int64)
    else:
        raise ValueError(f"a string or binary column is needed, not {values.type}")
    if values.null_count:
        raise ValueError(f"{values.null_count} nulls in a column that may have none")
    _, offsets, data = values.buffers()
    if offsets is None or offsets.size == 0:
        return np.zeros(1, width), np.zeros(0, np.uint8)
    window = np.frombuffer(offsets, width, len(values) + 1, values.offset * width.itemsize)
    return window, np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
