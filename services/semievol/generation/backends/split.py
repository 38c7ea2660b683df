"""An endpoint and an engine of our own as one: the endpoint answers for the base model, this machine does what it cannot.

Warm and evolved models, scores, and what follows raw text are computed here, with the weights that `model` names on this machine:
training needs those anyway, and the endpoint is taken at its word that it serves the same. Our engine is loaded when it is first needed,
which a run without warm model, scores and test rows never does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from semievol.generation import core
from semievol.generation.adapters import check_name
from semievol.generation.backends.openai import OpenAIEngine
from semievol.ports import (
    BASE_MODEL,
    NEVER,
    Cancel,
    ChatDelta,
    Generation,
    ModelInfo,
    Prompt,
    Sampling,
    Score,
    ScoreRequest,
)


class SplitEngine:
    """`local`: makes our engine. `base_sha256`: fingerprint of its weights; `local_format`: its number format, as in `ModelInfo.engine`."""

    def __init__(self, endpoint: OpenAIEngine, local: Callable[[], core.Engine], base_sha256: str, local_format: str) -> None:
        self._endpoint = endpoint
        self._make_local = local
        self._local: core.Engine | None = None
        self._loading = threading.Lock()
        (base,) = endpoint.models()
        self._base = replace(base, base_sha256=base_sha256, engine=f"{base.engine} + {local_format}")

    def generate(self, model: str, prompts: Sequence[Prompt], sampling: Sampling, *, cancel: Cancel = NEVER) -> list[Generation]:
        return self._of(model, *prompts).generate(model, prompts, sampling, cancel=cancel)

    def chat(self, model: str, prompt: Prompt, sampling: Sampling, *, cancel: Cancel = NEVER) -> Iterator[ChatDelta]:
        return self._of(model, prompt).chat(model, prompt, sampling, cancel=cancel)

    def score(self, model: str, requests: Sequence[ScoreRequest], *, cancel: Cancel = NEVER) -> list[Score]:
        return self._loaded().score(model, requests, cancel=cancel)

    def models(self) -> list[ModelInfo]:
        return [self._base, *(self._local.models()[1:] if self._local else ())]

    def server(self) -> str:
        return self._endpoint.server()

    def load_adapter(self, name: str, uri: str) -> ModelInfo:
        check_name(name)
        return self._loaded().load_adapter(name, uri)

    def unload_adapter(self, name: str) -> None:
        check_name(name)
        if self._local:
            self._local.unload_adapter(name)

    def check(self) -> None:
        """R12: raises as the endpoint's."""
        self._endpoint.check()

    def close(self) -> None:
        self._endpoint.close()

    def _of(self, model: str, *prompts: Prompt) -> core.Engine:
        if model == BASE_MODEL and all(prompt.text is None for prompt in prompts):
            return self._endpoint
        core.find_model(self.models(), model)  # an unknown name is no reason to load anything
        return self._loaded()

    def _loaded(self) -> core.Engine:
        with self._loading:
            if self._local is None:
                self._local = self._make_local()
            return self._local
