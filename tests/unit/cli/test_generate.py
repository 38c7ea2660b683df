"""Asking a model: from an alias to the reply, through a fake controller and the fake engine behind real servers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from semievol.algorithm.statistics import quantile_grid
from semievol.algorithm.types import Message
from semievol.common.registry import Model, Registry
from semievol.common.stores.fake import FakeStore
from semievol.generation.backends.fake import FakeEngine
from semievol.generation.router import server as router
from semievol.generation.router.settings import RouterSettings
from semievol.generation.server import service
from semievol.generation.settings import GenerationSettings
from semievol.ports import ModelInfo

from tests.running import running
from tests.unit.cli.conftest import Served

Invoke = Callable[..., Result]


class EchoEngine(FakeEngine):
    """Says which weights were asked what; takes any adapter for servable."""

    def __init__(self) -> None:
        super().__init__(lambda model, messages, seed: _echo(model, messages, seed), base="bundled:smollm2-135m")
        self.loaded: list[ModelInfo] = []

    def models(self) -> list[ModelInfo]:
        return [*super().models(), *self.loaded]

    def load_adapter(self, name: str, uri: str) -> ModelInfo:
        self.loaded.append(ModelInfo(name, "bundled:smollm2-135m", "ab", uri, uri.removeprefix("artifact:").replace("2", "3")))
        return self.loaded[-1]


def _echo(model: str, messages: Sequence[Message], seed: int) -> str:
    said = "|".join(f"{message.role}:{message.content}" for message in messages)
    return f"<{model.partition('-')[0]} {seed}> {said}"


EVOLVED = Model(
    "demo-evolved-abc123",
    "evolved",
    "demo-1",
    1,
    "bundled:smollm2-135m",
    f"artifact:{'2' * 64}",
    "3" * 64,
    selected_entropies=quantile_grid([k / 100 for k in range(300)]),
)


@pytest.fixture
def store() -> FakeStore:
    """What the fake controller says, as a router reads it: `demo`, and a canary of half the calls under `both`."""
    store = FakeStore()
    registry = Registry(store)
    registry.register(EVOLVED)
    registry.register(replace(EVOLVED, name="demo-warm-def456", role="warm", uri=f"artifact:{'4' * 64}", sha256="4" * 64))
    registry.promote(EVOLVED.name, "demo")
    return store


@pytest.fixture
def router_address(store: FakeStore) -> Iterator[str]:
    with (
        running(service(GenerationSettings(backend="fake"), EchoEngine())) as engine,
        running(router.service(RouterSettings(engines=(engine,), cache_s=0.0), store)) as address,
    ):
        yield address


def record_router(home: Path, address: str) -> None:
    """As if the running services had this router."""
    record = json.loads((home / "services.json").read_text())
    record["addresses"]["router"] = address
    (home / "services.json").write_text(json.dumps(record))


@pytest.fixture
def asked(running_home: Path, run_file: Path, invoke: Invoke, router_address: str) -> Callable[..., Result]:
    """Asks in a home with one finished run, `demo`."""
    assert invoke("submit", "-f", run_file, "--home", running_home).exit_code == 0
    assert invoke("models", "promote", "demo-evolved-abc123", "demo", "--home", running_home).exit_code == 0
    record_router(running_home, router_address)
    return lambda *args, **kwargs: invoke("generate", "--home", running_home, *args, **kwargs)


def test_the_reply_goes_to_stdout_alone(asked: Invoke) -> None:
    result = asked("--model", "demo", "Hello", "there")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "<adapter 0> user:Hello there\n"
    assert "demo-evolved-abc123 on bundled:smollm2-135m as demo: 4 tokens, stop" in result.stderr


def test_the_only_alias_needs_no_name(asked: Invoke) -> None:
    assert asked("Hello").stdout == "<adapter 0> user:Hello\n"


def test_json_says_how_sure_the_model_was_and_which_weights_wrote(asked: Invoke) -> None:
    body = json.loads(asked("Hello", "--json").stdout)
    assert body["text"] == "<adapter 0> user:Hello"
    assert body["tokens"] == 3
    assert 0 < body["mean_nll"] <= 3
    assert body["model"]["name"] == "demo-evolved-abc123"
    assert body["model"]["adapter"] == f"artifact:{'2' * 64}"
    assert body["model"]["adapter_sha256"] == "3" * 64
    assert body["model"]["alias"] == "demo"
    assert body["confidence"] == pytest.approx(100 * (1 - body["mean_nll"] / 3), abs=1)


def test_stderr_says_how_sure_it_was_compared_with_what_it_learned_from(asked: Invoke) -> None:
    confidence = json.loads(asked("Hello", "--json").stdout)["confidence"]
    assert f"confidence: surer than {confidence:.0f} % of the pseudo-labels it learned from\n" in asked("Hello").stderr
    assert "confidence" not in asked("--base", "Hello").stderr


def test_a_canary_answers_its_share_of_an_aliass_calls_and_is_named(asked: Invoke, store: FakeStore) -> None:
    Registry(store).promote("demo-warm-def456", "demo", 50)
    named = {json.loads(asked("Hello", "--json").stdout)["model"]["name"] for _ in range(40)}
    assert named == {"demo-evolved-abc123", "demo-warm-def456"}


def test_a_model_may_be_named_itself(asked: Invoke) -> None:
    model = json.loads(asked("--model", "demo-evolved-abc123", "Hello", "--json").stdout)["model"]
    assert (model["name"], model["alias"]) == ("demo-evolved-abc123", None)


def test_a_router_alone_is_enough(invoke: Invoke, home: Path, router_address: str) -> None:
    """No controller, and nothing at home."""
    alone = ("generate", "--router", router_address, "--home", home)
    assert invoke(*alone, "--model", "demo", "Hello").stdout == "<adapter 0> user:Hello\n"
    assert invoke(*alone, "Hello").stdout == "<base 0> user:Hello\n"
    unknown = invoke(*alone, "--model", "demmo", "Hello")
    assert unknown.exit_code == 64
    assert "known: demo, " in unknown.stderr
    assert invoke(*alone, "--base", "Hello").stdout == "<base 0> user:Hello\n"
    assert invoke(*alone, "--as-question", "Hello").exit_code == 2


def test_services_of_a_version_without_a_router_say_so(asked: Invoke, running_home: Path) -> None:
    record = json.loads((running_home / "services.json").read_text())
    del record["addresses"]["router"]
    (running_home / "services.json").write_text(json.dumps(record))
    result = asked("Hello")
    assert result.exit_code == 73
    assert "start them again" in result.stderr


def test_the_base_can_be_asked_for_comparison(asked: Invoke) -> None:
    assert asked("--base", "Hello").stdout == "<base 0> user:Hello\n"
    assert json.loads(asked("--base", "Hello", "--json").stdout)["model"]["adapter"] is None


@pytest.mark.parametrize("name", ["base", "bundled:smollm2-135m"])
def test_the_base_of_running_services_is_asked_for_by_name(
    running_home: Path, invoke: Invoke, router_address: str, name: str
) -> None:
    """Before there is any run."""
    record_router(running_home, router_address)
    result = invoke("generate", "--home", running_home, "--model", name, "Hello")
    assert result.stdout == "<base 0> user:Hello\n", result.stderr


def test_base_stands_for_the_only_aliass_base(asked: Invoke) -> None:
    assert asked("--model", "base", "Hello").stdout == "<base 0> user:Hello\n"


def test_a_limit_that_no_message_has_room_for_is_refused(asked: Invoke) -> None:
    assert asked("--max-tokens", "3000000000", "Hello").exit_code == 2


def test_a_run_file_puts_the_prompt_into_the_trained_form(asked: Invoke, run_file: Path) -> None:
    reply = asked("-f", run_file, "Where is it?").stdout
    assert "Question: Where is it?" in reply
    assert "Options: here, there" in reply


def test_options_may_be_given_by_hand(asked: Invoke) -> None:
    assert "Options: up, down" in asked("--as-question", "--option", "up", "--option", "down", "Where?").stdout
    assert asked("--option", "up", "Where?").exit_code == 2
    missing = asked("--as-question", "Where?")
    assert missing.exit_code == 64
    assert "--option" in missing.stderr


def test_the_prompt_may_come_from_stdin(asked: Invoke) -> None:
    assert asked("-", input="From a pipe\n").stdout == "<adapter 0> user:From a pipe\n"


def test_a_system_message_and_a_seed_reach_the_model(asked: Invoke) -> None:
    reply = asked("--system", "Be brief.", "--temperature", "1", "--seed", "7", "Hello").stdout
    assert reply == "<adapter 7> system:Be brief.|user:Hello\n"


def test_an_unknown_alias_names_the_nearest(asked: Invoke) -> None:
    result = asked("--model", "demmo", "Hello")
    assert result.exit_code == 64
    assert "did you mean demo" in result.stderr


def test_a_home_without_models_says_where_they_come_from(invoke: Invoke, served: Served, home: Path) -> None:
    result = invoke("generate", "--address", served.address, "--router", "127.0.0.1:1", "--home", home, "Hello")
    assert result.exit_code == 64
    assert "semievol run" in result.stderr
