"""A router in front of fake engines, all behind real servers: what its tests share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from semievol.algorithm.types import Message
from semievol.common.artifacts import Artifacts
from semievol.common.keys import sha256_hex
from semievol.common.registry import Model, Registry
from semievol.common.v1 import chat_pb2
from semievol.generation.backends.fake import FakeEngine
from semievol.generation.core import Engine
from semievol.generation.router import names
from semievol.generation.router import server as router_server
from semievol.generation.router.names import Resolve
from semievol.generation.router.settings import RouterSettings
from semievol.generation.server import service as generation_service
from semievol.generation.settings import GenerationSettings
from semievol.generation.v1 import generation_service_pb2 as pb
from semievol.generation.v1 import generation_service_pb2_grpc as pb_grpc
from semievol.ports import ObjectStore

from tests.generators import publish
from tests.running import running

NAME = "semievol.generation.v1.GenerationService"
BASE = "fake"
QUICK = RouterSettings(cache_s=0.1, check_every_s=0.05, avoid_s=0.1)


def weights_script(model: str, messages: Sequence[Message], seed: int) -> str:
    """Says which weights were asked."""
    return f"{model} heard {messages[-1].content}"


def register(store: ObjectStore, name: str, base: str = BASE, grid: Sequence[float] = ()) -> Model:
    """A model with a published adapter of its own."""
    config = {"peft_type": "LORA", "base_model_name_or_path": base}
    weights = f"weights of {name}".encode()
    files: dict[str, bytes | Path] = {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": weights,
    }
    model = Model(
        name, "evolved", "run-1", 1, base, publish(Artifacts(store), files), sha256_hex(weights), selected_entropies=tuple(grid)
    )
    Registry(store).register(model)
    return model


def fake_engine(store: ObjectStore, cache: Path, script: Any = weights_script, **faults: Any) -> FakeEngine:
    return FakeEngine(script, artifacts=Artifacts(store), cache=cache, base=faults.pop("base", BASE), **faults)


@contextmanager
def engine_at_work(engine: Engine, **options: Any) -> Iterator[str]:
    """`options`: as `Server` has them."""
    with running(generation_service(GenerationSettings(), engine), **options) as address:
        yield address


class RouterUnderTest:
    """Raw calls, which retry nothing."""

    def __init__(self, address: str, channel: grpc.Channel) -> None:
        self.address = address
        self.stub = pb_grpc.GenerationServiceStub(channel)
        self._health = health_pb2_grpc.HealthStub(channel)

    def generate(self, model: str, *texts: str, key: str = "") -> pb.GenerateResponse:
        request = pb.GenerateRequest(model=model, prompts=map(prompt, texts or ("Hello",)), routing_key=key)
        response: pb.GenerateResponse = self.stub.Generate(request, timeout=30)
        return response

    def who(self, model: str, key: str = "") -> str:
        """Name of the model that answers."""
        return self.generate(model, key=key).model.name

    def chat(self, model: str, text: str = "Hello") -> list[pb.ChatResponse]:
        return list(self.stub.Chat(pb.ChatRequest(model=model, prompt=prompt(text)), timeout=30))

    def serving(self) -> bool:
        answer = self._health.Check(health_pb2.HealthCheckRequest(service=NAME), timeout=5)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def prompt(text: str) -> pb.Prompt:
    return pb.Prompt(id=text, messages=[chat_pb2.Message(role="user", content=text)])


@contextmanager
def router(
    store: ObjectStore, engines: Sequence[str], resolve: Resolve = names.resolve, **settings: Any
) -> Iterator[RouterUnderTest]:
    chosen = QUICK.model_copy(update={"engines": tuple(engines), **settings})
    with (
        running(router_server.service(chosen, store, resolve)) as address,
        grpc.insecure_channel(address) as channel,
    ):
        yield RouterUnderTest(address, channel)


def soon(condition: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


class EngineProcess:
    """An engine in a process of its own, over the store in a directory: it can be killed, and started again at the same address."""

    def __init__(self, store: Path, cache: Path) -> None:
        self._environment = {
            **os.environ,
            "SEMIEVOL_GENERATION_STORE": store.as_uri(),
            "SEMIEVOL_GENERATION_CACHE": str(cache),
            "SEMIEVOL_GENERATION_MODEL": BASE,
        }
        self.address = "127.0.0.1:0"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        environment = {**self._environment, "SEMIEVOL_GENERATION_ADDRESS": self.address}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.grpc.slow_engine"], stderr=subprocess.PIPE, text=True, env=environment
        )
        assert self._process.stderr is not None
        line = next(line for line in self._process.stderr if "serves at" in line)
        self.address = line.split()[-1]
        threading.Thread(target=self._process.stderr.read, daemon=True).start()  # nothing must wait for a full pipe

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextmanager
def engine_process(store: Path, cache: Path) -> Iterator[EngineProcess]:
    process = EngineProcess(store, cache)
    try:
        process.start()
        yield process
    finally:
        process.kill()
