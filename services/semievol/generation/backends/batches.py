"""Prompts as padded batches, with what they share computed once.

    B  rows of a batch        T  padded length        P  tokens that all rows begin with

Rows are laid out as prefix, padding, rest: [P][T - len][len - P]. The rest ends at the right edge, where the next token is predicted;
the prefix has one place in all rows, so its keys and values are computed once for the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Below this the extra pass over the prefix costs about what it saves.
_MIN_SHARED = 16


@dataclass(frozen=True, slots=True)
class Batch:
    """`ids`, `mask` [B, T] int64; `cache`: keys and values of the first `cached` columns, or None."""

    ids: Any
    mask: Any
    cache: Any
    cached: int

    def positions(self) -> Any:
        """[B, T - cached]: places in the row without padding."""
        return (self.mask.cumsum(-1) - 1).clamp(min=0)[:, self.cached :]


def shared_prefix(rows: Sequence[list[int]], limits: Sequence[int]) -> int:
    """How many tokens all rows begin with, at most the least of `limits`; 0 where it is not worth a pass of its own."""
    if len(rows) < 2:
        return 0
    first, last, most = min(rows), max(rows), min(limits)  # what the extremes share, all share
    shared = 0
    while shared < most and first[shared] == last[shared]:
        shared += 1
    return shared if shared >= _MIN_SHARED else 0


def can_share(config: Any) -> bool:
    """Whether padding between prefix and rest is invisible: not where layers see a window of the last columns."""
    layers = getattr(config, "layer_types", None) or ["full_attention"]
    return not getattr(config, "sliding_window", None) and all(kind == "full_attention" for kind in layers)


def lay_out(model: Any, rows: Sequence[Sequence[int]], shared: int, padding: int) -> Batch:
    """The batch on the model's device, its prefix computed."""
    import torch

    width = max(len(row) for row in rows)
    ids = [[*row[:shared], *[padding] * (width - len(row)), *row[shared:]] for row in rows]
    mask = [[*[1] * shared, *[0] * (width - len(row)), *[1] * (len(row) - shared)] for row in rows]
    tensors = torch.tensor([ids, mask], device=model.device)
    if not shared:
        return Batch(tensors[0], tensors[1], None, 0)
    prefix = tensors[0][:1, :shared]
    cache = model(input_ids=prefix, use_cache=True, logits_to_keep=1).past_key_values
    cache.batch_repeat_interleave(len(rows))
    return Batch(tensors[0], tensors[1], cache, shared)


def multiply(model: Any, batch: Batch, n: int) -> Batch:
    """[B, T] -> [B * n, T], each row n times in a row, all columns but the last computed before: for n samples of a prompt."""
    import torch

    if n == 1:
        return batch
    end, cache = batch.ids.shape[1] - 1, batch.cache
    if end > batch.cached:
        ids, positions = batch.ids[:, batch.cached : end], batch.positions()[:, : end - batch.cached]
        output = model(
            input_ids=ids,
            attention_mask=batch.mask[:, :end],
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = output.past_key_values
    if cache is not None:
        cache.batch_repeat_interleave(n)
    ids, mask = (torch.repeat_interleave(one, n, dim=0) for one in (batch.ids, batch.mask))
    return Batch(ids, mask, cache, end)
