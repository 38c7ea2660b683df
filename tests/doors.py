"""The door for tests: a real HTTP server over real gRPC servers with fakes behind them, and clients of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import openai
from semievol.algorithm.types import Message
from semievol.door.server import Door
from semievol.door.settings import DoorSettings
from semievol.embedding import server as embedding_server
from semievol.embedding.backends.fake import FakeEmbedder
from semievol.embedding.settings import EmbeddingSettings
from semievol.generation import server as generation_server
from semievol.generation.backends.fake import FakeEngine
from semievol.generation.core import Engine
from semievol.generation.settings import GenerationSettings
from semievol.ports import NEVER, Cancel, Generation, Prompt, Sampling

from tests.running import running

KEY = "key-of-the-tests"
HELLO: list[Any] = [{"role": "user", "content": "Tell me a number."}]


def counting(model: str, messages: Sequence[Message], seed: int) -> str:
    """Eight words that name the seed."""
    return f"one two three seed {seed % 1000} six seven eight"


class Recording(FakeEngine):
    """Remembers what it is asked, beside what makes a service ready."""

    def __init__(self, **options: Any) -> None:
        super().__init__(counting, **options)
        self.asked: list[tuple[str, Prompt, Sampling]] = []

    def generate(self, model: str, prompts: Sequence[Prompt], sampling: Sampling, *, cancel: Cancel = NEVER) -> list[Generation]:
        self.asked += [(model, prompt, sampling) for prompt in prompts if prompt.id != "ready"]
        return super().generate(model, prompts, sampling, cancel=cancel)

    def chat(self, model: str, prompt: Prompt, sampling: Sampling, *, cancel: Cancel = NEVER) -> Any:
        self.asked.append((model, prompt, sampling))
        return super().chat(model, prompt, sampling, cancel=cancel)


@dataclass(frozen=True)
class Opened:
    """A door that is open. `url` ends in /v1, `root` does not."""

    door: Door
    generation: str

    @property
    def url(self) -> str:
        return self.door.url

    @property
    def root(self) -> str:
        return self.door.url.removesuffix("/v1")

    def client(self, key: str = KEY, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key=key, **({"max_retries": 0, "timeout": 60.0} | options))

    def asynchronous(self, key: str = KEY) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=self.url, api_key=key, max_retries=0, timeout=60.0)


@contextmanager
def standing_open(**settings: Any) -> Iterator[Door]:
    """A door with these settings, on any free port, on an event loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="test-door")
    thread.start()
    door = Door(DoorSettings(**({"address": "127.0.0.1:0"} | settings)))
    try:
        asyncio.run_coroutine_threadsafe(door.start(), loop).result(60)
        yield door
    finally:
        asyncio.run_coroutine_threadsafe(door.stop(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def opened(engine: Engine | None = None, *, max_waiting_count: int = 64, **settings: Any) -> Iterator[Opened]:
    """A door with a key, before a generation service around the engine and an embedding service around the fake."""
    with ExitStack() as stack:
        generation = generation_server.service(
            GenerationSettings(max_waiting_count=max_waiting_count), engine or FakeEngine(counting)
        )
        embedding = embedding_server.service(EmbeddingSettings(), FakeEmbedder())
        addresses = {"generation": stack.enter_context(running(generation)), "embedding": stack.enter_context(running(embedding))}
        door = stack.enter_context(standing_open(**({"api_keys": KEY} | addresses | settings)))
        yield Opened(door, addresses["generation"])
