"""A test double: texts that share words get vectors that are near. No model, no download."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np

from semievol.common import errors
from semievol.common.keys import sha256_hex
from semievol.embedding import core
from semievol.ports import NEVER, Cancel, EmbedderInfo, FloatMatrix

_WORD = re.compile(r"\w+")


class FakeEmbedder:
    """A bag of words, each hashed to a random direction of its own, summed and normalised. Same text, same vector, on any machine."""

    def __init__(self, dimension: int = 64) -> None:
        self._info = EmbedderInfo("fake", sha256_hex(f"fake bag of words, {dimension}".encode()), dimension, 0)

    def info(self) -> EmbedderInfo:
        return self._info

    def embed(self, texts: Sequence[str], *, cancel: Cancel = NEVER) -> FloatMatrix:
        core.check_texts(texts)
        matrix = np.zeros((len(texts), self._info.dimension), dtype=np.float32)
        for row, text in zip(matrix, texts, strict=True):
            if cancel.is_set():
                raise errors.Cancelled("Embedding was cancelled.")
            for word in _WORD.findall(text.lower()) or [text]:
                row += self._direction(word)
        return core.unit_rows(matrix)

    def _direction(self, word: str) -> FloatMatrix:
        """[d] values in (-1, 1), never all zero."""
        data = hashlib.shake_256(word.encode()).digest(2 * self._info.dimension)
        return (np.frombuffer(data, dtype="<i2").astype(np.float32) + np.float32(0.5)) / np.float32(32768)
