"""Rows that say nearly the same: pairs whose tasks' vectors have a cosine of at least a threshold, found block by block.

A product of two blocks is all that is held beside the vectors, and of its pairs only the nearest are kept as examples: a threshold that
is far too low costs time, not memory. Rows that are the same after folding are the business of overlaps.py and left out here.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from semievol.algorithm.semievol import embedding_text
from semievol.data.intake import DataSet, Role
from semievol.data.overlaps import crosses_held_out, folded, place
from semievol.ports import Embedder, FloatMatrix

EXAMPLES = 10  # of each pair of data sets
_BLOCK_ROWS = 2048  # 16 MiB for a block's cosines
_EMBEDDED_ROWS = 256  # at once; progress is told after each

Progress = Callable[[int, int], None]  # rows embedded, of all


@dataclass(frozen=True, slots=True)
class NearPair:
    """Places as `file:line`."""

    first: str
    second: str
    cosine: float

    def __str__(self) -> str:
        return f"{self.first} ~ {self.second} {self.cosine:.2f}"


@dataclass(frozen=True, slots=True)
class NearOverlap:
    """`count` rows of `second` are near a row of `first` (or near an earlier one in it, where both are the same). `pairs`: the nearest.
    `warning`: held-out rows near rows that are trained on or answered."""

    first: Role
    second: Role
    count: int
    pairs: tuple[NearPair, ...]
    warning: bool

    def __str__(self) -> str:
        where = f"each other in {self.first}" if self.first == self.second else f"rows of {self.first}, being in {self.second}"
        return f"{self.count} rows are near {where}: {', '.join(map(str, self.pairs[:3]))}"


def near_overlaps(
    datasets: Sequence[DataSet], embedder: Embedder, threshold: float, progress: Progress = lambda done, total: None
) -> list[NearOverlap]:
    """Within and between the data sets of a run, in their order; nothing where there are none. `threshold`: above 0, at most 1."""
    count = _Count(progress, sum(len(data.rows) for data in datasets))
    sets = [_Vectors(data, _embedded(data, embedder, count)) for data in datasets]
    pairs = [(one, one) for one in sets] + list(combinations(sets, 2))
    found = [_near(first, second, threshold) for first, second in pairs]
    return [overlap for overlap in found if overlap.count]


class _Count:
    """Rows embedded so far, over all data sets."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def add(self, rows: int) -> None:
        self._done += rows
        self._progress(self._done, self._total)


class _Vectors:
    """A data set with its rows' vectors, and a number for each row's folded content."""

    def __init__(self, data: DataSet, vectors: FloatMatrix) -> None:
        self.data = data
        self.vectors = vectors
        self.contents = np.array([hash(folded(row)) for row in data.rows], dtype=np.int64)

    def place(self, index: int) -> str:
        return place(self.data, self.data.rows[index].id)


def _embedded(data: DataSet, embedder: Embedder, count: _Count) -> FloatMatrix:
    pages = []
    for start in range(0, len(data.rows), _EMBEDDED_ROWS):
        rows = data.rows[start : start + _EMBEDDED_ROWS]
        pages.append(embedder.embed([embedding_text(row) for row in rows]))
        count.add(len(rows))
    return np.concatenate(pages) if pages else np.zeros((0, 1), np.float32)


def _near(first: _Vectors, second: _Vectors, threshold: float) -> NearOverlap:
    same = first is second
    nearest: list[tuple[float, int, int]] = []  # a heap: the least near of the examples on top
    rows = np.zeros(len(second.vectors), dtype=bool)
    for a in range(0, len(first.vectors), _BLOCK_ROWS):
        for b in range(a if same else 0, len(second.vectors), _BLOCK_ROWS):
            one, other = slice(a, a + _BLOCK_ROWS), slice(b, b + _BLOCK_ROWS)
            cosines = first.vectors[one] @ second.vectors[other].T
            hits = cosines >= threshold
            if same and a == b:
                hits = np.triu(hits, 1)
            if not hits.any():
                continue
            hits &= first.contents[one, None] != second.contents[None, other]
            rows[other] |= hits.any(axis=0)
            _keep(nearest, cosines, hits, a, b)
    pairs = [NearPair(first.place(-i), second.place(-j), round(cosine, 4)) for cosine, i, j in sorted(nearest, reverse=True)]
    roles = first.data.role, second.data.role
    return NearOverlap(*roles, int(rows.sum()), tuple(pairs), crosses_held_out(*roles))


def _keep(nearest: list[tuple[float, int, int]], cosines: FloatMatrix, hits: npt.NDArray[np.bool_], a: int, b: int) -> None:
    """Puts a block's nearest pairs among the nearest so far; of equally near ones the first in file order stay."""
    found = np.flatnonzero(hits)
    values = cosines.ravel()[found]
    for at in np.argsort(-values, kind="stable")[:EXAMPLES]:
        i, j = divmod(int(found[at]), cosines.shape[1])
        entry = (min(1.0, float(values[at])), -(a + i), -(b + j))  # rounding may pass 1
        if len(nearest) < EXAMPLES:
            heapq.heappush(nearest, entry)
        else:
            heapq.heappushpop(nearest, entry)
