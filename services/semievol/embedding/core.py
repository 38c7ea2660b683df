"""Rules for texts and vectors that hold for every backend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from semievol.common import errors
from semievol.ports import FloatMatrix


def check_texts(texts: Sequence[str]) -> None:
    """Raises InvalidInput naming `texts[i]` where a text is empty, blank or not encodable as UTF-8."""
    for i, text in enumerate(texts):
        field = f"texts[{i}]"
        if not text.strip():
            raise errors.InvalidInput(f"{field} is empty; there is nothing to embed.", field=field)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise errors.InvalidInput(f"{field} is no valid Unicode text: {error.reason}.", field=field) from error


def check_page(texts: Sequence[str], max_batch_count: int) -> Sequence[str]:
    """The texts themselves. Raises InvalidInput where one call brings too many."""
    if len(texts) > max_batch_count:
        raise errors.InvalidInput(
            f"{len(texts)} texts in one call; at most {max_batch_count} are taken. Send them in pages.", field="texts"
        )
    return texts


def longest_first(texts: Sequence[str]) -> list[int]:
    """The order in which batches waste least on padding. Ties keep the input order, so it is deterministic."""
    return sorted(range(len(texts)), key=lambda i: -len(texts[i]))


def unit_rows(matrix: FloatMatrix) -> FloatMatrix:
    """[n, d] -> the same with rows of L2 norm 1. Raises InternalError for a row that has no direction."""
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    if not (np.isfinite(norms).all() and (norms > 0).all()):
        raise errors.InternalError("The embedding model returned a vector that is zero or not finite.")
    unit: FloatMatrix = (matrix / norms).astype(np.float32, copy=False)
    return unit
