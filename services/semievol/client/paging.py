"""Cuts a long input into pages that fit one call (64 KiB to 1 MiB a message)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

PAGE_BYTES = 512 * 1024


def pages(items: Sequence[T], size: Callable[[T], int], max_items: int, max_bytes: int = PAGE_BYTES) -> Iterator[Sequence[T]]:
    """Consecutive slices of at most `max_items` items and `max_bytes` bytes by `size`; a larger item gets a page of its own."""
    start, filled = 0, 0
    for end, item in enumerate(items):
        item_bytes = size(item)
        if end > start and (end - start == max_items or filled + item_bytes > max_bytes):
            yield items[start:end]
            start, filled = end, 0
        filled += item_bytes
    if start < len(items):
        yield items[start:]
