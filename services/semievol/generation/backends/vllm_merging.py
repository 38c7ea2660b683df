"""Weights with an adapter merged in, as a model directory that is made once and found again by what went into it."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semievol.common.chat_format import completion_ids, render
from semievol.common.cpu_lane import on_cpu_lane
from semievol.common.keys import content_key
from semievol.common.models import LocalModel
from semievol.generation.adapters import Adapter
from semievol.generation.backends import weights
from semievol.generation.backends.canary import REPLY, TURNS

_RECIPE = 1  # raise it when another directory comes of the same adapter
_CANARY = "canary.json"


@dataclass(frozen=True, slots=True)
class Merged:
    """A model directory, and the log-probabilities [L] (nats) that its weights give the canary's reply, by transformers in float32."""

    directory: Path
    canary: tuple[float, ...]


class Merger:
    """`cache`: where merged models lie; the `kept` used last stay there, since each is as large as the base model."""

    def __init__(self, base: LocalModel, cache: Path, precision: str, kept: int) -> None:
        self._base = base
        self._cache = cache
        self._precision = precision
        self._kept = kept

    def merged(self, adapter: Adapter) -> Merged:
        """Raises InvalidInput where the adapter does not fit the base model."""
        key = content_key(["merged", _RECIPE, self._base.sha256, *adapter.content, self._precision])
        directory = self._cache / key[:32]
        if not directory.is_dir():
            scratch = self._cache / f"{uuid.uuid4().hex}.tmp"
            try:
                on_cpu_lane(lambda: self._merge(adapter, scratch))
                if not directory.is_dir():  # or another process was quicker
                    scratch.rename(directory)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
            self._prune(directory)
        os.utime(directory)
        return Merged(directory, tuple(json.loads((directory / _CANARY).read_text())))

    def _merge(self, adapter: Adapter, scratch: Path) -> None:
        import torch

        model, tokenizer = weights.load(self._base, "cpu", "float32")  # added in float32, then rounded once
        merged = weights.attach(model, adapter).merge_and_unload(safe_merge=True)
        merged = merged.to(getattr(torch, self._precision))
        merged.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        canary = canary_logprobs(merged.float(), tokenizer)
        (scratch / _CANARY).write_text(json.dumps(canary))

    def _prune(self, newest: Path) -> None:
        found = sorted(
            (one for one in self._cache.iterdir() if one.is_dir() and one != newest), key=lambda one: -one.stat().st_mtime
        )
        for old in found[max(0, self._kept - 1) :]:
            if not old.name.endswith(".tmp"):
                shutil.rmtree(old, ignore_errors=True)


def canary_logprobs(model: Any, tokenizer: Any) -> list[float]:
    """[L] log-probabilities of the canary's reply under a transformers model."""
    import torch

    prompt, reply = render(tokenizer, TURNS), completion_ids(tokenizer, REPLY)
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *reply]])).logits[0, -len(reply) - 1 : -1].float()
    chosen = logits.gather(1, torch.tensor(reply)[:, None])[:, 0] - logits.logsumexp(-1)
    return [float(one) for one in chosen]


def difference(one: Sequence[float], other: Sequence[float]) -> float:
    """Mean absolute difference, nats per token."""
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / max(1, len(one))
