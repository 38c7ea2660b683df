"""What only a real vLLM engine shows: it dies under a live port, its calls are cancelled, adapters come and go under traffic."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from semievol.algorithm.types import Message
from semievol.client.generation import GenerationClient
from semievol.common import errors
from semievol.common.artifacts import Artifacts
from semievol.common.stores.local import LocalStore
from semievol.generation.server import service
from semievol.generation.settings import GenerationSettings
from semievol.ports import BASE_MODEL, Prompt, Sampling, ScoreRequest

from tests.generators import publish_directory, write_tiny_adapter
from tests.running import running

pytestmark = [pytest.mark.models, pytest.mark.timeout(600)]

SAMPLED = Sampling(temperature=1.0, max_tokens=24)
SCORED = [ScoreRequest("s", (Message("user", "Which is a colour?"),), "Answer: blue")]


def asked(count: int) -> list[Prompt]:
    return [Prompt(f"p{i}", (Message("user", f"Tell me number {i}."),), (i,)) for i in range(count)]


@dataclass
class Live:
    engine: Any
    client: GenerationClient
    address: str
    adapters: list[str]


@pytest.fixture(scope="module", params=["merged", "hot"])
def live(request: pytest.FixtureRequest, wide_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    from semievol.generation.backends.vllm import VllmEngine
    from semievol.generation.backends.vllm_options import VllmOptions

    root = tmp_path_factory.mktemp("live")
    artifacts = Artifacts(LocalStore(root / "store"))
    adapters = [publish_directory(artifacts, write_tiny_adapter(root / f"adapter{i}", wide_model, i)) for i in (1, 2)]
    with ExitStack() as stack:
        engine = VllmEngine(
            str(wide_model),
            artifacts=artifacts,
            cache=root / "cache",
            precision="float32",
            adapter_mode=request.param,
            options=VllmOptions(kv_cache_gib=0.25),
        )
        stack.callback(engine.close)
        address = stack.enter_context(running(service(GenerationSettings(backend="vllm"), engine)))
        client = GenerationClient(address)
        stack.callback(client.close)
        yield Live(engine, client, address, adapters)


def health(address: str) -> str:
    with grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        return str(
            health_pb2.HealthCheckResponse.ServingStatus.Name(stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status)
        )


def wait_for(state: str, address: str, seconds: float) -> float:
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if health(address) == state:
            return time.monotonic() - began
        time.sleep(0.1)
    raise AssertionError(f"the service was not {state} within {seconds} s")


def test_a_call_whose_client_has_gone_ends_in_the_engine(live: Live) -> None:
    cancel = threading.Event()
    threading.Timer(0.3, cancel.set).start()
    with pytest.raises(errors.Cancelled):
        live.client.generate(BASE_MODEL, asked(64), Sampling(temperature=1.0, max_tokens=400), cancel=cancel)
    with live.engine.weights.use(None, threading.Event()) as (process, _):
        deadline = time.monotonic() + 10
        while process.engine.get_num_unfinished_requests():
            assert time.monotonic() < deadline, "the engine still works on requests that nobody waits for"
            time.sleep(0.05)


def test_many_streams_and_pages_at_once(live: Live) -> None:
    expected = {one.id: one.completions[0].text for one in live.client.generate(BASE_MODEL, asked(16), Sampling(max_tokens=12))}
    found: dict[int, str] = {}
    failed: list[BaseException] = []

    def stream(number: int) -> None:
        try:
            prompt = asked(16)[number % 16]
            found[number] = "".join(one.text for one in live.client.chat(BASE_MODEL, prompt, Sampling(max_tokens=12)))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=stream, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(found) == 64
    same = sum(text == expected[f"p{number % 16}"] for number, text in found.items())
    assert same >= 60  # a near-tie may fall otherwise in another batch


def test_adapters_come_and_go_under_traffic(live: Live) -> None:
    """A hundred times; every reply arrives, the weights behind a name stay its own, and the engine's memory does not grow."""
    live.client.load_adapter("kept", live.adapters[0])
    expected = live.client.score("kept", SCORED)[0].token_logprobs
    stop, failed, answered = threading.Event(), [], [0]

    def traffic() -> None:
        while not stop.is_set():
            try:
                answered[0] += len(live.client.generate("kept", asked(2), Sampling(max_tokens=4)))
            except BaseException as error:
                failed.append(error)
                return

    thread = threading.Thread(target=traffic)
    thread.start()
    try:
        sizes = []
        for cycle in range(100):
            name = f"guest-{cycle}"
            live.client.load_adapter(name, live.adapters[1])
            if cycle % 25 == 0:
                assert live.client.score(name, SCORED)[0].token_logprobs != expected
            live.client.unload_adapter(name)
            if cycle in (49, 99):
                sizes.append(sum(one.memory_info().rss for one in engine_processes()))
    finally:
        stop.set()
        thread.join()
    assert not failed
    assert answered[0] > 0
    assert live.client.score("kept", SCORED)[0].token_logprobs == pytest.approx(expected, abs=1e-5)
    assert sizes[1] < sizes[0] * 1.1 + 2**26
    live.client.unload_adapter("kept")
    assert [one.name for one in live.client.models()] == [BASE_MODEL]


def engine_processes() -> list[psutil.Process]:
    """Of this process; not the servers that other tests have started, nor what an earlier engine left dead and unread."""
    running = [one for one in psutil.Process().children(recursive=True) if one.status() != psutil.STATUS_ZOMBIE]
    return [one for one in running if "VLLM" in " ".join(one.cmdline())]


def test_an_engine_that_dies_is_noticed_in_seconds_and_its_rows_are_answered_all_the_same(live: Live) -> None:
    prompts = asked(48)
    expected = live.client.generate(BASE_MODEL, prompts, SAMPLED)
    starts = live.client.models()[0].engine_starts
    children = engine_processes()
    assert children
    result: list[Any] = []
    work = threading.Thread(target=lambda: result.append(live.client.generate(BASE_MODEL, prompts, SAMPLED)))
    work.start()
    time.sleep(0.2)
    for child in children:
        os.kill(child.pid, signal.SIGKILL)
    wait_for("NOT_SERVING", live.address, 10)
    work.join(180)
    assert result, "the rows that were in flight were never answered"
    assert [one.id for one in result[0]] == [one.id for one in prompts]  # none lost, none twice
    texts = sum(one.completions[0].text == other.completions[0].text for one, other in zip(result[0], expected, strict=True))
    assert texts >= 45
    wait_for("SERVING", live.address, 60)
    assert live.client.models()[0].engine_starts == starts + 1
