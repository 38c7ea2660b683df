"""One engine as its router knows it."""

from __future__ import annotations

from semievol.common import errors
from semievol.common.keys import adapter_name
from semievol.generation.router.engines import Engine
from semievol.ports import ModelInfo

BASE = ModelInfo("base", "model", "ab")
SLOW, AWAY = errors.DeadlineExceeded("It takes its time."), errors.Unavailable("Nobody is there.")


class ScriptedLink:
    """Looks end as they are told to."""

    address = "engine:1"

    def __init__(self, *looks: list[ModelInfo] | errors.SemiEvolError) -> None:
        self._looks = list(looks)

    async def look(self, timeout_s: float) -> list[ModelInfo]:
        found = self._looks.pop(0)
        if isinstance(found, errors.SemiEvolError):
            raise found
        return found

    async def load_adapter(self, name: str, uri: str, timeout_s: float) -> ModelInfo:
        raise AssertionError("not asked for")

    async def unload_adapter(self, name: str, timeout_s: float) -> None:
        raise AssertionError("not asked for")


async def test_an_engine_that_is_slow_to_answer_is_asked_last_and_counts_as_dead_only_at_the_third_time() -> None:
    engine = Engine(ScriptedLink([BASE], SLOW, SLOW, SLOW, SLOW, [BASE]))
    seen = []
    for _ in range(6):
        await engine.look()
        seen.append((engine.trusted, bool(engine.fault)))
    assert seen == [(True, False), (False, False), (False, False), (False, True), (False, True), (True, False)]


async def test_an_engine_that_is_not_there_counts_as_dead_at_once() -> None:
    engine = Engine(ScriptedLink([BASE], AWAY, [BASE], SLOW, AWAY))
    seen = []
    for _ in range(5):
        await engine.look()
        seen.append(engine.fault)
    assert seen == ["", AWAY.message, "", "", AWAY.message]


async def test_only_adapters_whose_weights_are_what_their_names_say_count_as_loaded() -> None:
    right, wrong = adapter_name("ab" * 32), adapter_name("cd" * 32)
    models = [ModelInfo(name, "model", "ab", "artifact:x", sha256) for name, sha256 in ((right, "ab" * 32), (wrong, "ef" * 32))]
    engine = Engine(ScriptedLink([BASE, *models]))
    await engine.look()
    assert set(engine.loaded) == {right}
