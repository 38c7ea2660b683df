"""What the services serve, held against what a run asks for."""

from __future__ import annotations

from typing import Any

import pytest
from semievol.common import errors
from semievol.common.runspec import RunSpec, parse_run_spec
from semievol.controller.resolve import Resolver
from semievol.controller.wire import spec_from_wire, spec_to_wire
from semievol.embedding.backends.fake import FakeEmbedder
from semievol.generation.backends.fake import FakeEngine
from semievol.ports import BASE_MODEL, ModelInfo

URL = "http://host:8000/v1"
ALONE, WITH_OURS = f"openai/vllm@{URL}", f"openai/vllm@{URL} + transformers/float32/merged/cpu"
FITTING = {"engine": URL, "in_weight": False, "entropy_source": "generated"}


class Serving(FakeEngine):
    """Says that it is another engine."""

    def __init__(self, engine: str) -> None:
        super().__init__()
        self._engine = engine

    def models(self) -> list[ModelInfo]:
        return [ModelInfo(BASE_MODEL, "m", "0" * 64, engine=self._engine)]


def run(**changes: Any) -> RunSpec:
    least = {"name": "a", "model": "m", "embedding": "fake", "data": {"labeled": "a", "unlabeled": "b"}}
    return parse_run_spec(least | changes)


TRAINED_THERE = {"engine": URL, "trainer": "openai", "entropy_source": "generated"}


def resolver(engine: str) -> Resolver:
    return Resolver(lambda: Serving(engine), FakeEmbedder)


def test_a_run_that_needs_the_base_model_alone_fits_an_endpoint() -> None:
    assert resolver(ALONE).resolve(run(**FITTING)).engine == ALONE


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"in_weight": True}, "in_weight", "Set in_weight: false;"),
        ({"entropy_source": "scored"}, "entropy_source", "Set entropy_source: generated;"),
        ({"threshold_reference": "labeled"}, "threshold_reference", "threshold_reference: unlabeled"),
        ({"data": {"labeled": "a", "unlabeled": "b", "test": "c"}}, "data.test", "data.test empty"),
        ({"data": {"labeled": "a", "unlabeled": "b", "dev": "c"}}, "data.dev", "data.dev empty"),
        ({"in_weight": True, "entropy_source": "scored"}, "in_weight", "in_weight: false, entropy_source: generated"),
    ],
)
def test_what_an_endpoint_alone_cannot_do_is_refused_with_the_keys_to_set(
    changes: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(errors.InvalidInput, match=words) as caught:
        resolver(ALONE).resolve(run(**(FITTING | changes)))
    assert caught.value.field == field
    assert resolver(WITH_OURS).resolve(run(**(FITTING | changes)))  # this machine does the rest


@pytest.mark.parametrize(
    ("served", "asked"), [(ALONE, "transformers"), ("transformers/float32/merged/cpu", URL), (WITH_OURS, "http://other/v1")]
)
def test_another_engine_than_the_run_asks_for_is_a_conflict(served: str, asked: str) -> None:
    with pytest.raises(errors.Conflict, match=f"semievol serve --engine {asked}") as caught:
        resolver(served).resolve(run(**(FITTING | {"engine": asked})))
    assert caught.value.field == "engine"


@pytest.mark.parametrize(("served", "asked", "named"), [(ALONE, "vllm", True), (WITH_OURS, "http://other/v1", False)])
def test_the_charts_value_is_named_where_it_has_one(served: str, asked: str, named: bool) -> None:
    with pytest.raises(errors.Conflict) as caught:
        resolver(served).resolve(run(**(FITTING | {"engine": asked})))
    assert (f"engine.backend={asked}" in caught.value.message) is named


def test_a_slash_at_the_end_of_the_url_makes_no_other_endpoint() -> None:
    assert resolver(ALONE).resolve(run(**(FITTING | {"engine": f"{URL}/"})))


def test_an_endpoint_that_trains_needs_nothing_beside_it() -> None:
    data = {"labeled": "a", "unlabeled": "b", "test": "c", "dev": "d"}
    assert resolver(ALONE).resolve(run(**TRAINED_THERE, data=data)).engine == ALONE


@pytest.mark.parametrize("served", [WITH_OURS, "transformers/float32/merged/cpu"])
def test_services_that_compute_trained_models_themselves_do_not_serve_what_an_endpoint_trains(served: str) -> None:
    with pytest.raises(errors.Conflict, match="semievol serve --engine"):
        resolver(served).resolve(run(**TRAINED_THERE))


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"entropy_source": "scored"}, "entropy_source", "set entropy_source: generated"),
        ({"threshold_reference": "labeled"}, "threshold_reference", "set threshold_reference: unlabeled"),
        ({"engine": "transformers"}, "trainer", "name the endpoint"),
        ({"train": {"lora_rank": 8}}, "train.lora_rank", "means nothing to an endpoint"),
        ({"train": {"lora_alpha": 8}}, "train.lora_alpha", "means nothing to an endpoint"),
        ({"train": {"max_tokens": 80}}, "train.max_tokens", "means nothing to an endpoint"),
        ({"train": {"epochs": 2.5}}, "train.epochs", "whole epochs"),
        ({"trainer": "opnai"}, "trainer", "'peft' or 'openai'"),
    ],
)
def test_what_an_endpoint_that_trains_cannot_do_is_refused_with_the_key(changes: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(errors.InvalidInput, match=words) as caught:
        run(**(TRAINED_THERE | changes))
    assert caught.value.field == field


def test_runs_from_before_there_was_a_trainer_or_a_placement_keep_their_ids() -> None:
    assert "placement" not in run().model_dump(mode="json")
    assert run(placement="dedicated").model_dump(mode="json")["placement"] == "dedicated"
    assert "trainer" not in run().model_dump(mode="json")
    assert run(**TRAINED_THERE).model_dump(mode="json")["trainer"] == "openai"
    assert spec_from_wire(spec_to_wire(run(**TRAINED_THERE))) == run(**TRAINED_THERE)
    assert spec_from_wire(spec_to_wire(run())) == run()
