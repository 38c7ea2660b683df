"""Vectors on the wire: little-endian float32, packed. One bytes object encodes about ten times faster than a repeated float."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from semievol.common import errors
from semievol.ports import Vector

FloatVector = npt.NDArray[np.float32]

_WIRE = np.dtype("<f4")


def pack(vector: Vector) -> bytes:
    """[d] -> 4 * d bytes."""
    return np.asarray(vector, dtype=_WIRE).tobytes()


def unpack(data: bytes, *, field: str) -> FloatVector:
    """4 * d bytes -> [d] float32, read-only. Raises InvalidInput(field=) where the length is no multiple of four."""
    if len(data) % _WIRE.itemsize:
        raise errors.InvalidInput(f"{field} has {len(data)} bytes; float32 values take four bytes each.", field=field)
    return np.frombuffer(data, dtype=_WIRE).astype(np.float32, copy=False)
