"""vLLM in this process: `AsyncLLM` behind the same ports as every backend. Its core runs in child processes.

Seeds fix which random numbers a sample sees. The engine forms its batches as requests come (continuous batching), and another composition
may change the last bits of log-probabilities, so sampled texts may differ between two runs where two tokens are all but equal.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from semievol.common import errors
from semievol.common.artifacts import Artifacts
from semievol.common.chat_format import completion_ids, render
from semievol.common.models import resolve_model
from semievol.common.torch_models import torch_device, torch_precision
from semievol.generation import core
from semievol.generation.adapters import Adapter, Adapters
from semievol.generation.backends import canary, weights
from semievol.generation.backends.prompts import PromptReader
from semievol.generation.backends.replies import Reader, StreamReader
from semievol.generation.backends.sampling import Likely
from semievol.generation.backends.vllm_merging import Merger
from semievol.generation.backends.vllm_options import VllmOptions
from semievol.generation.backends.vllm_process import EngineDied, Request, Step, VllmProcess
from semievol.generation.backends.vllm_weights import HotWeights, MergedWeights, VllmWeights
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

T = TypeVar("T")

log = logging.getLogger(__name__)

_ATTEMPTS = 2  # a call whose engine dies is done once more, by the engine that is started in its place
_TOLERANCE = {"float32": 0.01, "bfloat16": 0.25}  # nats per token between transformers in float32 and vLLM; see docs/vllm.md


class VllmEngine:
    """One base model, its engine started when constructed. For calls from many threads. `arguments`: vLLM's, for the base model.

    Raises as `resolve_model`; NotSupported (vLLM is missing), InvalidInput and Unavailable with vLLM's own reason.
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
        options: VllmOptions | None = None,
    ) -> None:
        options = options or VllmOptions()
        local = resolve_model(reference, cache)
        device = torch_device(device)
        precision = torch_precision(precision, device)
        hot = adapter_mode in ("hot", "switched") or (adapter_mode == "auto" and device != "cpu")
        self._tokenizer, config, end = weights.load_tokenizer(local)
        self._reader = Reader(self._tokenizer, end)
        longest = int(getattr(config, "max_position_embeddings", 0) or 2048)
        self.arguments = options.arguments(
            local.directory, device=device, precision=precision, model_tokens=longest, adapters=hot
        )
        self._base = ModelInfo(
            BASE_MODEL,
            reference,
            local.sha256,
            max_model_tokens=int(self.arguments["max_model_len"]),
            engine=f"vllm/{precision}/{'hot' if hot else 'merged'}/{device}",
        )
        self._prompts = PromptReader(self._tokenizer, self._base.max_model_tokens)
        self._adapters = Adapters(artifacts, cache.absolute() / "adapters", reference)
        self._loading = threading.Lock()
        prompt, reply = render(self._tokenizer, canary.TURNS), completion_ids(self._tokenizer, canary.REPLY)
        self._canary = Request([*prompt, *reply], scored=len(reply))

        def start(directory: Path) -> VllmProcess:
            where = {**self.arguments, "model": str(directory)}
            return VllmProcess(where, end, cache.absolute() / "vllm" / "vllm.log", options.start_timeout_s)

        self.weights: VllmWeights
        if hot:
            self.weights = HotWeights(
                start, local.directory, self._canary_logprobs, options.lora_rank(), options.lora_target_modules
            )
        else:
            merger = Merger(local, cache.absolute() / "merged", precision, merged_models)
            self.weights = MergedWeights(
                start, local.directory, self._canary_logprobs, merger, options.engines, _TOLERANCE[precision]
            )

    # ------------------------------------------------------------ Generator

    def generate(self, model: str, prompts: Sequence[Prompt], sampling: Sampling, *, cancel: Cancel = NEVER) -> list[Generation]:
        core.check_prompts(prompts, sampling)
        adapter = self._find(model)
        rows = [self._prompts.read(prompt, f"prompts[{i}]") for i, prompt in enumerate(prompts)]
        requests = [
            self._request(row, sampling, seed)
            for row, prompt in zip(rows, prompts, strict=True)
            for seed in prompt.seeds or [None] * sampling.n
        ]
        if not requests:
            return []
        steps = self._retried(adapter, cancel, lambda process, lora: process.run(requests, lora, cancel))
        replies = [self._completion(step, sampling) for step in steps]
        return [
            Generation(prompt.id, tuple(replies[i * sampling.n : (i + 1) * sampling.n]), len(rows[i]))
            for i, prompt in enumerate(prompts)
        ]

    def chat(self, model: str, prompt: Prompt, sampling: Sampling, *, cancel: Cancel = NEVER) -> Iterator[ChatDelta]:
        core.check_chat(prompt, sampling)
        adapter = self._find(model)
        row = self._prompts.read(prompt, "prompt")
        request = self._request(row, sampling, prompt.seeds[0] if prompt.seeds else None)
        stream = StreamReader(self._reader, sampling.stop)
        ids: list[int] = []
        logprobs: list[float] = []
        tops: list[Likely] = []
        for step in self._steps(adapter, request, cancel):
            ids += step.ids
            logprobs += step.logprobs
            tops += step.tops
            for token, logprob, top in zip(step.ids, step.logprobs, step.tops, strict=True):
                if (delta := stream.add(token, logprob, top)) is not None:
                    yield delta
        yield stream.end(self._reader.completion(ids, logprobs, sampling.stop, tops if sampling.top_logprobs else ()), len(row))

    # ------------------------------------------------------------ Scorer

    def score(self, model: str, requests: Sequence[ScoreRequest], *, cancel: Cancel = NEVER) -> list[Score]:
        core.check_score(requests)
        adapter = self._find(model)
        replies = [completion_ids(self._tokenizer, request.response) for request in requests]
        asked: dict[int, Request] = {}
        for i, (request, reply) in enumerate(zip(requests, replies, strict=True)):
            # vLLM writes one token more than what it scores
            prompt = self._prompts.render(request.messages, len(reply) + 1, request.id, f"items[{i}]")
            if reply:
                asked[i] = Request([*prompt, *reply], scored=len(reply))
        found: dict[int, Step] = {}
        if asked:
            steps = self._retried(adapter, cancel, lambda process, lora: process.run(list(asked.values()), lora, cancel))
            found = dict(zip(asked, steps, strict=True))
        return [
            Score(request.id, self._reader.texts(replies[i]), tuple(found[i].logprobs) if i in found else ())
            for i, request in enumerate(requests)
        ]

    # ------------------------------------------------------------ AdapterHost

    def models(self) -> list[ModelInfo]:
        base = replace(self._base, engine_starts=self.weights.starts, weight_swaps=self.weights.swaps)
        return [base, *(core.adapter_info(self._base, adapter) for adapter in self._adapters.all())]

    def load_adapter(self, name: str, uri: str) -> ModelInfo:
        with self._loading:
            adapter = self._adapters.open(name, uri)
            if self._adapters.get(name) is None:
                try:
                    self.weights.add(adapter)
                except EngineDied as error:
                    raise _died() from error
                self._adapters.add(adapter)
            return core.adapter_info(self._base, adapter)

    def unload_adapter(self, name: str) -> None:
        with self._loading:
            self._adapters.remove(name)
            self.weights.remove(name)

    # ------------------------------------------------------------ health

    def check(self) -> None:
        """R12: raises Unavailable while an engine is dead; it is started again meanwhile."""
        self.weights.check()

    def close(self) -> None:
        self.weights.close()

    # ------------------------------------------------------------ parts

    def _retried(self, adapter: Adapter | None, cancel: Cancel, work: Callable[[VllmProcess, Any], T]) -> T:
        for attempt in range(_ATTEMPTS):
            try:
                with self.weights.use(adapter, cancel) as (process, lora):
                    return work(process, lora)
            except EngineDied:
                log.warning("A vLLM engine died under a call (attempt %d of %d).", attempt + 1, _ATTEMPTS)
        raise _died()

    def _request(self, row: Sequence[int], sampling: Sampling, seed: int | None) -> Request:
        return Request(row, sampling, seed, max_tokens=min(sampling.max_tokens, self._base.max_model_tokens - len(row)))

    def _steps(self, adapter: Adapter | None, request: Request, cancel: Cancel) -> Iterator[Step]:
        """The tokens of one reply; begun again where its engine dies before the first of them."""
        for attempt in range(_ATTEMPTS):
            begun = False
            try:
                with self.weights.use(adapter, cancel) as (process, lora):
                    for step in process.stream(request, lora, cancel):
                        begun = True
                        yield step
                return
            except EngineDied as error:
                log.warning("A vLLM engine died under a stream (attempt %d of %d).", attempt + 1, _ATTEMPTS)
                if begun:
                    raise _died() from error
        raise _died()

    def _completion(self, step: Step, sampling: Sampling) -> Completion:
        return self._reader.completion(step.ids, step.logprobs, sampling.stop, step.tops if sampling.top_logprobs else ())

    def _canary_logprobs(self, process: VllmProcess, lora: Any) -> Sequence[float]:
        return process.run([self._canary], lora, NEVER)[0].logprobs

    def _find(self, model: str) -> Adapter | None:
        core.find_model(self.models(), model)
        return self._adapters.get(model)


def _died() -> errors.Unavailable:
    return errors.Unavailable("The vLLM engine died under this call, and could not do it again; its log says why.")
