"""An engine that says which weights were asked, and takes its time: so that calls are under way when it is killed."""

from __future__ import annotations

import time
from collections.abc import Sequence

from semievol.algorithm.types import Message
from semievol.common.artifacts import Artifacts
from semievol.common.serving import serve
from semievol.common.stores import open_store
from semievol.generation.backends.fake import FakeEngine
from semievol.generation.server import service
from semievol.generation.settings import GenerationSettings

SECONDS = 0.005  # a reply


def script(model: str, messages: Sequence[Message], seed: int) -> str:
    time.sleep(SECONDS)
    return f"{model} heard {messages[-1].content}"


if __name__ == "__main__":
    settings = GenerationSettings()
    engine = FakeEngine(script, artifacts=Artifacts(open_store(settings.store)), cache=settings.cache, base=settings.model)
    serve(lambda: service(settings, engine), settings.address)
