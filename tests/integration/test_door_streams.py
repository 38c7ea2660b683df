"""Many at once, clients that leave, and the door's own end."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import httpx
import openai
import pytest
from semievol.ports import NEVER, Cancel, ChatDelta, FinishReason, Generation, Prompt, Sampling

from tests.doors import HELLO, KEY, Opened, Recording, opened
from tests.grpc.stoppable import StoppableWork


class Slow(StoppableWork, Recording):
    """Works until it is told to stop; a stream after a first piece."""

    def generate(self, model: str, prompts: Sequence[Prompt], sampling: Sampling, *, cancel: Cancel = NEVER) -> list[Generation]:
        if prompts[0].id != "ready":
            self.work(cancel)
        return super().generate(model, prompts, sampling)

    def chat(self, model: str, prompt: Prompt, sampling: Sampling, *, cancel: Cancel = NEVER) -> Iterator[ChatDelta]:
        yield ChatDelta("first", ("first",), (-1.0,))
        self.work(cancel)


class Silent(Slow):
    """Its streams say nothing."""

    def chat(self, model: str, prompt: Prompt, sampling: Sampling, *, cancel: Cancel = NEVER) -> Iterator[ChatDelta]:
        self.work(cancel)
        yield ChatDelta("late")


class Gated(Recording):
    """Streams wait in their middle until `gate` opens."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def chat(self, model: str, prompt: Prompt, sampling: Sampling, *, cancel: Cancel = NEVER) -> Iterator[ChatDelta]:
        yield ChatDelta("before ", ("before ",), (-1.0,))
        self.gate.wait(10)
        yield ChatDelta("after", ("after",), (-1.0,), FinishReason.STOP, 3)


class Endless(Recording):
    """As many words as anybody reads. `told`: pieces so far."""

    told = 0

    def chat(self, model: str, prompt: Prompt, sampling: Sampling, *, cancel: Cancel = NEVER) -> Iterator[ChatDelta]:
        while not cancel.is_set():
            yield ChatDelta("word " * 1000, ("word ",), (-1.0,))
            self.told += 1


def test_64_streams_at_once_are_all_told_their_own_words() -> None:
    with opened(Recording()) as door:

        async def ask(client: openai.AsyncOpenAI, number: int) -> str:
            stream = await client.chat.completions.create(model="base", messages=HELLO, seed=number, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        async def all_of_them() -> list[str]:
            async with door.asynchronous() as client:
                return await asyncio.gather(*(ask(client, number) for number in range(64)))

        texts = asyncio.run(all_of_them())
        assert texts == [f"one two three seed {number} six seven eight" for number in range(64)]
        assert gauge(door, "semievol_door_open_streams") == 0


def test_more_than_the_engine_takes_are_told_to_come_back() -> None:
    engine = Gated()
    with opened(engine, max_waiting_count=1) as door, door.client() as client:
        first = client.chat.completions.create(model="base", messages=HELLO, stream=True)
        waiting = threading.Thread(target=lambda: list(client.chat.completions.create(model="base", messages=HELLO, stream=True)))
        waiting.start()
        wait_until(lambda: gauge(door, "semievol_door_open_requests") == 3)  # the two, and the one that asks
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model="base", messages=HELLO)
        assert float(caught.value.response.headers["retry-after"]) >= 1
        engine.gate.set()
        list(first)
        waiting.join()


def test_a_stream_of_many_choices_leaves_places_for_others() -> None:
    """An engine that takes 33 calls: of 64 choices 8 are asked at a time."""
    engine = Gated()
    with opened(engine, max_waiting_count=32) as door, door.client() as client:
        stream = client.chat.completions.create(model="base", messages=HELLO, stream=True, n=64)
        engine.gate.set()
        texts = [""] * 64
        for chunk in stream:
            texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
        prompts = client.completions.create(model="base", prompt=["Once"] * 100, stream=True)
        assert {chunk.choices[0].index for chunk in prompts} == set(range(100))
    assert texts == ["before after"] * 64


def test_more_requests_than_the_door_takes_are_told_to_come_back() -> None:
    engine = Gated()
    with opened(engine, max_open_requests=1) as door, door.client() as client:
        first = client.chat.completions.create(model="base", messages=HELLO, stream=True)
        with pytest.raises(openai.RateLimitError):
            client.models.list()
        assert httpx.get(f"{door.root}/health").status_code == 200
        engine.gate.set()
        list(first)
        wait_until(lambda: _lists(client))


def _lists(client: openai.OpenAI) -> bool:
    """The place of a stream is free a moment after its last word."""
    try:
        return bool(list(client.models.list()))
    except openai.RateLimitError:
        return False


@contextmanager
def leaving(door: Opened, engine: StoppableWork, **body: object) -> Iterator[None]:
    """Sends a request on a connection of its own, and breaks it when the engine is at work."""

    async def ask_and_leave() -> None:
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(timeout=30, headers=headers) as client:
            asked = asyncio.ensure_future(
                client.post(f"{door.url}/chat/completions", json={"model": "base", "messages": HELLO, **body})
            )
            assert await asyncio.to_thread(engine.started.wait, 10)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)

    asyncio.run(ask_and_leave())
    yield


@pytest.mark.parametrize("kind", [Slow, Silent])
@pytest.mark.parametrize("body", [{}, {"stream": True}, {"stream": True, "n": 2}], ids=["whole", "stream", "two streams"])
def test_a_client_that_goes_away_stops_the_model(kind: type[Slow], body: dict[str, object]) -> None:
    engine = kind()
    with opened(engine) as door, leaving(door, engine, **body):
        assert engine.cancelled.wait(5)
        wait_until(lambda: gauge(door, "semievol_door_open_requests") == 1)
        assert gauge(door, "semievol_door_open_streams") == 0


def test_a_reader_that_closes_a_stream_stops_the_model() -> None:
    engine = Slow()
    with opened(engine) as door, door.client() as client:
        stream = client.chat.completions.create(model="base", messages=HELLO, stream=True)
        assert next(iter(stream)).choices[0].delta.role == "assistant"
        stream.close()
        assert engine.cancelled.wait(5)


def test_a_reader_that_takes_nothing_does_not_fill_the_memory() -> None:
    """Five kilobytes a piece: what is on the way is bounded by windows and buffers (1024 pieces in the service), and then the model waits."""
    engine = Endless()
    with (
        opened(engine) as door,
        httpx.stream(
            "POST",
            f"{door.url}/chat/completions",
            json={"model": "base", "messages": HELLO, "stream": True},
            headers={"Authorization": f"Bearer {KEY}"},
        ) as response,
    ):
        assert response.status_code == 200
        before = -1
        while before != engine.told:
            before = engine.told
            assert before < 10_000
            time.sleep(1.0)


def test_the_doors_end_lets_streams_finish() -> None:
    engine = Gated()
    with opened(engine, grace_s=10) as door:
        client = door.client()
        stream = client.chat.completions.create(model="base", messages=HELLO, stream=True)
        pieces = iter(stream)
        next(pieces)
        threading.Timer(0.5, engine.gate.set).start()
    text = "".join(chunk.choices[0].delta.content or "" for chunk in pieces)
    assert text == "before after"


def test_the_doors_end_does_not_wait_for_ever() -> None:
    engine = Slow()
    with opened(engine, grace_s=0) as door:
        stream = door.client().chat.completions.create(model="base", messages=HELLO, stream=True)
        next(iter(stream))
        assert engine.started.wait(5)
    assert engine.cancelled.wait(5)


def test_those_who_are_cut_off_by_the_doors_end_are_told_so() -> None:
    whole, stream = Slow(), Slow()
    answers: dict[str, httpx.Response] = {}

    def ask(name: str, url: str, **body: object) -> None:
        headers = {"Authorization": f"Bearer {KEY}"}
        answers[name] = httpx.post(f"{url}/chat/completions", headers=headers, json={"model": "base", "messages": HELLO, **body})

    with opened(whole, grace_s=0) as one, opened(stream, grace_s=0) as other:
        threads = [
            threading.Thread(target=ask, args=("whole", one.url)),
            threading.Thread(target=ask, args=("stream", other.url), kwargs={"stream": True}),
        ]
        for thread in threads:
            thread.start()
        assert whole.started.wait(10)
        assert stream.started.wait(10)
    for thread in threads:
        thread.join(10)
    assert answers["whole"].status_code == 503
    assert answers["whole"].headers["retry-after"] == "1"
    assert answers["whole"].json()["error"]["code"] == "unavailable"
    *_, name, data = answers["stream"].text.strip().split("\n")
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["code"] == "unavailable"


def gauge(door: Opened, name: str) -> float:
    text = httpx.get(f"{door.root}/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
    return next(float(line.split(" ")[1]) for line in text.splitlines() if line.startswith(f"{name} "))


def wait_until(condition: object, timeout_s: float = 10.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
