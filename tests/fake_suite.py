"""The whole product with fake models: real servers, real gRPC, the real controller and steps; a run takes a second or two."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from semievol.algorithm.types import Message
from semievol.client.controller import ControllerClient
from semievol.client.generation import GenerationClient
from semievol.common.artifacts import Artifacts
from semievol.common.keys import derive_seed
from semievol.common.runspec import RunSpec, parse_run_spec
from semievol.common.stores import open_store
from semievol.controller import server as controller_server
from semievol.controller.core import Controller
from semievol.controller.pods import Answering
from semievol.controller.settings import ControllerSettings
from semievol.embedding import server as embedding_server
from semievol.embedding.backends.fake import FakeEmbedder
from semievol.embedding.settings import EmbeddingSettings
from semievol.generation import server as generation_server
from semievol.generation.backends.fake import FakeEngine
from semievol.generation.core import Engine
from semievol.generation.router import server as router_server
from semievol.generation.router.settings import RouterSettings
from semievol.generation.settings import GenerationSettings
from semievol.judging import server as judging_server
from semievol.judging.settings import JudgingSettings
from semievol.ports import Embedder, Launcher, VectorIndex
from semievol.retrieval import server as retrieval_server
from semievol.retrieval.backends.fake import FakeVectorIndex
from semievol.retrieval.settings import RetrievalSettings
from semievol.training import server as training_server
from semievol.training.backends.fake import FakeTrainer
from semievol.training.settings import TrainingSettings

from tests.running import running

COLOURS = ("red", "green", "blue")


def colour_script(model: str, messages: Sequence[Message], seed: int) -> str:
    """Colours by their name in the question. The base writes chatter; adapters are right unless a hash says otherwise (one in five,
    another one for each seed)."""
    question = messages[-1].content.rpartition("Question: ")[2].splitlines()[0]
    right = next((letter for letter, colour in zip("ABC", COLOURS, strict=True) if colour in question), "A")
    if model == "base":
        return "I like colours."
    wrong = derive_seed(model, question, seed) % 5 == 0
    return f"Answer: {'ABC'[('ABC'.index(right) + wrong) % 3]}"


def knowing_script(model: str, messages: Sequence[Message], seed: int) -> str:
    """A base model that knows its colours, but for one question in five, another one for each seed."""
    question = messages[-1].content.rpartition("Question: ")[2].splitlines()[0]
    right = next((number for number, colour in enumerate(COLOURS) if colour in question), 0)
    return f"Answer: {'ABC'[(right + (derive_seed(question, seed) % 5 == 0)) % 3]}"


@dataclass
class Suite:
    """A running suite. Faults are set on the fakes: `trainer`, `engine`, `index`."""

    home: Path
    store: str
    engine: FakeEngine
    trainer: FakeTrainer
    index: FakeVectorIndex
    client: ControllerClient
    generation: GenerationClient
    addresses: dict[str, str] = field(default_factory=dict)
    core: Controller = field(kw_only=True)  # behind `client`
    another_core: Callable[[], Controller] = field(kw_only=True)  # as the next controller of the same installation has it

    @property
    def artifacts(self) -> Artifacts:
        return Artifacts(open_store(self.store))

    def spec(self, **changes: Any) -> RunSpec:
        """A run over the colour data."""
        names = {"labeled": True, "unlabeled": False, "test": True}
        data = {role: self.client.upload(write_colours(self.home, role, answers)) for role, answers in names.items()}
        base = {"name": "colours", "model": "fake", "embedding": "fake", "data": data, "shard_rows": 8}
        return parse_run_spec({"collaborators": [{"model": "warm", "references": k} for k in (0, 1)]} | base | changes)

    def with_data(self, spec: RunSpec, **files: Path) -> RunSpec:
        """The same run over other files, by role."""
        uris = {role: self.client.upload(file) for role, file in files.items()}
        return spec.model_copy(update={"data": spec.data.model_copy(update=uris)})

    def run(self, spec: RunSpec) -> dict[str, Any]:
        """Submits and waits for the end; the result, with `error` where it failed."""
        run = self.client.submit(spec)
        for _ in self.client.watch(run.id):
            pass
        ended = self.client.get_run(run.id)
        result: dict[str, Any] = json.loads(ended.result_json)
        return result | {"error": ended.error, "error_class": ended.error_class}


def write_colours(directory: Path, role: str, answers: bool, rows: int = 20) -> Path:
    """A CSV of questions that name a colour; those of one role differ from those of the others."""
    lines = ["id,question,options" + (",answer" if answers else "")]
    for number in range(rows):
        colour = COLOURS[number % 3]
        options = '"[""red"", ""green"", ""blue""]"'
        answer = f",{'ABC'[number % 3]}" if answers else ""
        lines.append(f"{role}-{number:03d},Which colour is the {colour} {role} thing {number}?,{options}{answer}")
    file = directory / f"{role}.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


@contextmanager
def fake_suite(
    home: Path,
    script: Callable[[str, Sequence[Message], int], str] = colour_script,
    *,
    updates: int = 1,
    parallelism: int = 1,
    launcher: str = "inline",
    store: str = "",
    index: VectorIndex | None = None,
    embedder: Embedder | None = None,
    engine_of: Callable[[FakeEngine], Engine] = lambda engine: engine,
    max_attempts: int = 3,
    backoff_s: float = 1.0,
    reconnect_s: float = 60.0,
    jobs: Launcher | None = None,
    engines_of: Callable[[str], Answering] | None = None,
    **engine_faults: Any,
) -> Iterator[Suite]:
    """All seven services over `home`, stopped at the end. Enter it again on the same home to restart the product.

    `index`, `embedder`, `jobs`: others of the caller's in place of the fakes and of `launcher`; `engine_of`: what stands between the generation
    service and the fake engine; `engines_of`: what answers runs, given the generation service's address. `engine_faults`: as FakeEngine has
    them."""
    home.mkdir(parents=True, exist_ok=True)
    store = store or (home / "artifacts").as_uri()
    artifacts = Artifacts(open_store(store))
    engine = FakeEngine(script, artifacts=artifacts, cache=home / "cache", base="fake", **engine_faults)
    trainer, fake_index = FakeTrainer(artifacts, updates=updates), FakeVectorIndex()
    retrieval = retrieval_server.service(RetrievalSettings(), index or fake_index)
    addresses: dict[str, str] = {}
    with ExitStack() as stack:
        embedding = embedding_server.service(EmbeddingSettings(), embedder or FakeEmbedder())
        addresses["embedding"] = stack.enter_context(running(embedding))
        addresses["retrieval"] = stack.enter_context(running(retrieval))
        addresses["generation"] = stack.enter_context(running(generation_server.service(GenerationSettings(), engine_of(engine))))
        generation = GenerationClient(addresses["generation"])
        addresses["judging"] = stack.enter_context(running(judging_server.service(JudgingSettings(), generation)))
        addresses["training"] = stack.enter_context(running(training_server.around(trainer, TrainingSettings())))
        settings = ControllerSettings(
            store=store,
            models_directory=home / "models",
            jobs_directory=home / "jobs",
            launcher=launcher,
            max_attempts=max_attempts,
            backoff_s=backoff_s,
            parallelism=parallelism,
            poll_s=0.01,
            resume_on_start=False,
        )
        launching = jobs or controller_server.launcher(settings)
        stack.callback(launching.close)

        def another_core() -> Controller:
            engines = engines_of(addresses["generation"]) if engines_of else None
            return controller_server.controller(settings, launching, addresses, engines=engines)

        core = another_core()
        address = stack.enter_context(running(controller_server.service(settings, core)))
        client = ControllerClient(address, reconnect_s=reconnect_s)
        stack.callback(client.close)
        router = router_server.service(RouterSettings(store=store, engines=(addresses["generation"],), cache_s=0.1))
        others = {"controller": address, "router": stack.enter_context(running(router))}
        everybody = addresses | others
        yield Suite(home, store, engine, trainer, fake_index, client, generation, everybody, core=core, another_core=another_core)


def wait_for(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Returns when the condition holds; fails the test if it never does."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
