"""transformers in this process, on a CPU or a GPU: the embedded default.

Prompts of a call form batches of like length. The same call gives the same bits on one machine; another composition of the batches
may change the last bits of the log-probabilities, never which random numbers a sample sees.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from semievol.common import errors
from semievol.common.artifacts import Artifacts
from semievol.common.chat_format import completion_ids, render
from semievol.common.cpu_lane import lane_of, on_cpu_lane
from semievol.common.models import resolve_model
from semievol.generation import core
from semievol.generation.adapters import Adapter, Adapters
from semievol.generation.backends import batches, canary, weights
from semievol.generation.backends.prompts import PromptReader
from semievol.generation.backends.replies import Reader, StreamReader, end_ids
from semievol.generation.backends.sampling import Likely, OnToken, Picker, Watch
from semievol.ports import (
    BASE_MODEL,
    NEVER,
    Cancel,
    ChatDelta,
    Completion,
    Generation,
    ModelInfo,
    Prompt,
    Sampling,
    Score,
    ScoreRequest,
)

# A row of logits counts as one batch token per this many vocabulary entries: one row per reply token when scoring, one per sample when
# generating. In float32 this keeps the logits of 8192 batch tokens below 150 MB.
_LOGITS_PER_TOKEN = 4096
_UNKNOWN_LENGTH = 2048  # of models whose configuration names none


class TransformersEngine:
    """One base model, loaded when constructed. Calls from several threads take turns.

    Raises as `resolve_model`, and InvalidInput, NotSupported, Unavailable as `weights.load`.
    """

    def __init__(
        self,
        reference: str,
        *,
        artifacts: Artifacts | None = None,
        cache: Path = Path("cache"),
        device: str = "auto",
        precision: str = "auto",
        adapter_mode: str = "auto",
        merged_models: int = 3,
        batch_tokens: int = 8192,
    ) -> None:
        local = resolve_model(reference, cache)
        model, self._tokenizer = on_cpu_lane(lambda: weights.load(local, device, precision))
        self._on_lane = lane_of(model.device.type)
        numbers = weights.number_format(device, precision, adapter_mode)
        self._weights: weights.Weights = (
            weights.MergedWeights(model, merged_models) if "/merged/" in numbers else weights.SwitchedWeights(model)
        )
        self._adapters = Adapters(artifacts, cache.absolute() / "adapters", reference)
        config = model.config.get_text_config()
        self._base = ModelInfo(
            BASE_MODEL,
            reference,
            local.sha256,
            max_model_tokens=int(getattr(config, "max_position_embeddings", 0) or _UNKNOWN_LENGTH),
            engine=f"transformers/{numbers}",
        )
        self._prompts = PromptReader(self._tokenizer, self._base.max_model_tokens)
        self._vocabulary = int(config.vocab_size)
        self._can_share = batches.can_share(config)
        self._end_ids = end_ids(model.generation_config, self._tokenizer)
        self._reader = Reader(self._tokenizer, self._end_ids)
        self._batch_tokens = batch_tokens
        self._turn = threading.RLock()
        # Unset fields of a call's configuration are taken from the model's, whose own wishes (top_k, penalties) would distort its distribution.
        model.generation_config = _plain_decoding(self._end_ids, 1)
        self._base_canary: tuple[float, ...] | None = None

    # ------------------------------------------------------------ Generator

    def generate(self, model: str, prompts: Sequence[Prompt], sampling: Sampling, *, cancel: Cancel = NEVER) -> list[Generation]:
        core.check_prompts(prompts, sampling)
        adapter = self._find(model)
        rows = [self._prompts.read(prompt, f"prompts[{i}]") for i, prompt in enumerate(prompts)]
        costs = [sampling.n * (len(row) + self._vocabulary // _LOGITS_PER_TOKEN) for row in rows]
        found: dict[int, Generation] = {}
        for batch in core.length_batches(costs, self._batch_tokens):
            core.check_cancel(cancel)
            seeds = [seed for i in batch for seed in prompts[i].seeds or [None] * sampling.n]
            completions = self._complete(adapter, [rows[i] for i in batch], seeds, sampling, cancel)
            for place, i in enumerate(batch):
                mine = completions[place * sampling.n : (place + 1) * sampling.n]
                found[i] = Generation(prompts[i].id, tuple(mine), len(rows[i]))
        return [found[i] for i in range(len(prompts))]

    def chat(self, model: str, prompt: Prompt, sampling: Sampling, *, cancel: Cancel = NEVER) -> Iterator[ChatDelta]:
        core.check_chat(prompt, sampling)
        adapter = self._find(model)
        row = self._prompts.read(prompt, "prompt")
        seed = prompt.seeds[0] if prompt.seeds else None
        events: queue.SimpleQueue[tuple[int, float, Likely] | Completion | Exception] = queue.SimpleQueue()
        stop = _StopWhenEither(cancel)

        def write() -> None:
            try:
                reply = self._complete(
                    adapter, [row], [seed], sampling, stop, lambda token, logprob, top: events.put((token, logprob, top))
                )
                events.put(reply[0])
            except Exception as error:  # raised where the stream is read
                events.put(error)

        thread = threading.Thread(target=write, name="chat", daemon=True)
        thread.start()
        stream = StreamReader(self._reader, sampling.stop)
        try:
            while isinstance(event := events.get(), tuple):
                if (delta := stream.add(*event)) is not None:
                    yield delta
            if isinstance(event, Exception):
                raise event
            yield stream.end(event, len(row))
        finally:
            stop.stopped.set()
            thread.join()

    def _complete(
        self,
        adapter: Adapter | None,
        rows: Sequence[list[int]],
        seeds: Sequence[int | None],
        sampling: Sampling,
        cancel: Cancel,
        on_token: OnToken | None = None,
    ) -> list[Completion]:
        """[B] prompts and [B * n] seeds -> [B * n] completions."""
        limits = [min(sampling.max_tokens, self._base.max_model_tokens - len(row)) for row in rows for _ in range(sampling.n)]
        picker = Picker(seeds, sampling, on_token)
        watch = Watch(picker, limits, sampling.stop, self._reader.text, cancel)
        with self._turn:
            core.check_cancel(cancel)  # it may have been a long wait
            self._on_lane(lambda: self._decode(adapter, rows, sampling.n, max(limits), picker, watch))
        core.check_cancel(cancel)
        return [
            self._reader.completion(tokens[:limit], logprobs[:limit], sampling.stop, tops[:limit])
            for tokens, logprobs, tops, limit in zip(picker.tokens, picker.logprobs, picker.tops, limits, strict=True)
        ]

    def _decode(
        self, adapter: Adapter | None, rows: Sequence[list[int]], n: int, max_tokens: int, picker: Picker, watch: Watch
    ) -> None:
        import torch
        from transformers import LogitsProcessorList, StoppingCriteriaList

        with self._weights.use(adapter) as model, torch.inference_mode():
            shared = batches.shared_prefix(rows, [len(row) - 1 for row in rows]) if self._can_share else 0
            batch = batches.lay_out(model, rows, shared, self._end_ids[0])
            batch = batches.multiply(model, batch, n)
            model.generate(
                input_ids=batch.ids,
                attention_mask=batch.mask,
                past_key_values=batch.cache,
                generation_config=_plain_decoding(self._end_ids, max_tokens),
                logits_processor=LogitsProcessorList([picker]),
                stopping_criteria=StoppingCriteriaList([watch]),
            )

    # ------------------------------------------------------------ Scorer

    def score(self, model: str, requests: Sequence[ScoreRequest], *, cancel: Cancel = NEVER) -> list[Score]:
        core.check_score(requests)
        adapter = self._find(model)
        replies = [completion_ids(self._tokenizer, request.response) for request in requests]
        prompts = [
            self._prompts.render(request.messages, len(reply), request.id, f"items[{i}]")
            for i, (request, reply) in enumerate(zip(requests, replies, strict=True))
        ]
        weight = 1 + self._vocabulary // _LOGITS_PER_TOKEN
        costs = [len(prompt) + weight * len(reply) for prompt, reply in zip(prompts, replies, strict=True)]
        found: dict[int, tuple[float, ...]] = {}
        for batch in core.length_batches(costs, self._batch_tokens):
            core.check_cancel(cancel)
            pairs = [(prompts[i], replies[i]) for i in batch]
            with self._turn:
                found.update(zip(batch, self._on_lane(partial(self._score, adapter, pairs)), strict=True))
        return [Score(request.id, self._reader.texts(replies[i]), found[i]) for i, request in enumerate(requests)]

    def _score(self, adapter: Adapter | None, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, ...]]:
        """[B] (prompt, reply) -> the log-probabilities of each reply's tokens, computed in float32."""
        import torch

        longest = max(len(reply) for _, reply in pairs)
        if longest == 0:
            return [() for _ in pairs]
        rows = [[*prompt, *reply] for prompt, reply in pairs]
        with self._weights.use(adapter) as model, torch.inference_mode():
            shared = batches.shared_prefix(rows, [len(prompt) - 1 for prompt, _ in pairs]) if self._can_share else 0
            batch = batches.lay_out(model, rows, shared, self._end_ids[0])
            logits = model(
                input_ids=batch.ids[:, batch.cached :],
                attention_mask=batch.mask,
                position_ids=batch.positions(),
                past_key_values=batch.cache,
                use_cache=batch.cache is not None,
                logits_to_keep=longest + 1,
            ).logits
            scores = []
            for one, (_, reply) in zip(logits, pairs, strict=True):  # [longest + 1, V]; the last predicts what follows the reply
                before = one[-len(reply) - 1 : -1].float()
                target = torch.tensor(reply, dtype=torch.int64, device=one.device)[:, None]
                scores.append(tuple((before.gather(1, target)[:, 0] - before.logsumexp(-1)).tolist()))
        return scores

    # ------------------------------------------------------------ AdapterHost

    def models(self) -> list[ModelInfo]:
        return [self._base, *(core.adapter_info(self._base, adapter) for adapter in self._adapters.all())]

    def load_adapter(self, name: str, uri: str) -> ModelInfo:
        with self._turn:
            adapter = self._adapters.open(name, uri)
            if self._adapters.get(name) is None:
                self._on_lane(lambda: self._apply(adapter))
                self._adapters.add(adapter)
            return core.adapter_info(self._base, self._adapters.get(name) or adapter)

    def _apply(self, adapter: Adapter) -> None:
        self._weights.add(adapter)
        try:
            self._check_canary(adapter)
        except errors.InvalidInput:
            self._weights.remove(adapter.name)
            raise

    def unload_adapter(self, name: str) -> None:
        with self._turn:
            self._adapters.remove(name)
            self._weights.remove(name)

    def _check_canary(self, adapter: Adapter) -> None:
        """R9: an adapter that leaves every log-probability as it was has not been applied."""
        pair = (render(self._tokenizer, canary.TURNS), completion_ids(self._tokenizer, canary.REPLY))
        if self._base_canary is None:
            self._base_canary = self._score(None, [pair])[0]
        if self._score(adapter, [pair])[0] == self._base_canary:
            raise canary.unchanged(adapter)

    def _find(self, model: str) -> Adapter | None:
        core.find_model(self.models(), model)
        return self._adapters.get(model)


class _StopWhenEither:
    """Set when the caller cancels or the stream's reader has gone."""

    def __init__(self, cancel: Cancel) -> None:
        self._cancel = cancel
        self.stopped = threading.Event()

    def is_set(self) -> bool:
        return self.stopped.is_set() or self._cancel.is_set()


def _plain_decoding(end_ids: Sequence[int], max_tokens: int) -> Any:
    """Greedy over what `Picker` chose."""
    from transformers import GenerationConfig

    return GenerationConfig(
        do_sample=False, use_cache=True, eos_token_id=list(end_ids), pad_token_id=end_ids[0], max_new_tokens=max_tokens
    )
