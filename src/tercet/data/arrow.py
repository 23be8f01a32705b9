"""Whole numbers between NumPy and Arrow, without the import of pandas that Arrow's own ways bring, some 45 MB."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa


def as_arrow(values: np.ndarray) -> Any:
    """Whole numbers of shape (N,) as an Arrow array over the same memory."""
    values = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


def as_numpy(values: Any) -> np.ndarray:
    """An Arrow array of N whole numbers, none missing, as NumPy, read-only over the same memory."""
    return np.from_dlpack(values)
