"""`doctor` and `plan` against the real embedding, retrieval, generation and training, with a random two-layer model: real code, little to compute."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from click.testing import CliRunner, Result
from semievol.algorithm.types import Message
from semievol.cli.main import cli
from semievol.client.generation import GenerationClient
from semievol.embedded import Embedded, EmbeddedSettings, read_addresses
from semievol.ports import Prompt, Sampling

from tests.fake_suite import write_colours

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, word_model: Path) -> Iterator[Path]:
    """A home whose services are running."""
    directory = tmp_path_factory.mktemp("home")
    with Embedded(EmbeddedSettings(home=directory, model=str(word_model), lasting=True)):
        yield directory


def invoke(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


def test_every_real_service_does_one_row_and_trains_one_update(home: Path) -> None:
    result = invoke("doctor", "--home", home, "--train", "--json")
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    for name in ("services", "controller", "store", "embedding", "retrieval", "generation", "scoring", "judging", "training"):
        assert checks[name]["status"] == "ok", checks[name]
    assert "384 dimensions" in checks["embedding"]["message"]
    assert "transformers/" in checks["generation"]["message"]
    assert "one update" in checks["training"]["message"]
    assert result.exit_code == 0 or checks["versions"]["status"] == "failed"


def test_the_official_client_talks_to_the_suites_door(home: Path) -> None:
    """Greedy answers and their log-probabilities are those over gRPC; vectors those of the embedding service."""
    record = read_addresses(home)
    assert record is not None
    client = openai.OpenAI(base_url=record["openai_url"], api_key="none is asked for", max_retries=0)
    asked: dict[str, Any] = {"model": "base", "messages": [{"role": "user", "content": "the road is broken"}], "max_tokens": 8}
    reply = client.chat.completions.create(**asked, temperature=0, logprobs=True, top_logprobs=5)
    direct = GenerationClient(record["addresses"]["generation"])
    prompt = Prompt("direct", (Message("user", "the road is broken"),))
    (generation,) = direct.generate("base", [prompt], Sampling(max_tokens=8, top_logprobs=5))
    direct.close()
    (completion,) = generation.completions
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None
    assert reply.choices[0].message.content == completion.text
    assert [one.logprob for one in logprobs.content or []] == pytest.approx(completion.token_logprobs, abs=1e-5)
    assert [[top.token for top in one.top_logprobs] for one in logprobs.content or []] == [
        [top.text for top in one] for one in completion.top_logprobs
    ]
    seeded = [
        [choice.message.content for choice in client.chat.completions.create(**asked, seed=7, n=4).choices] for _ in range(2)
    ]
    assert seeded[0] == seeded[1]
    assert len(set(seeded[0])) > 1
    drawn = {client.chat.completions.create(**asked).choices[0].message.content for _ in range(6)}
    assert len(drawn) > 1
    streamed = client.chat.completions.create(**asked, temperature=0, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == completion.text
    raw = client.completions.create(model="base", prompt="the road", max_tokens=4, temperature=0)
    assert raw.usage is not None
    assert raw.usage.prompt_tokens == 2
    (vector,) = client.embeddings.create(model="embedding", input="the road is broken").data
    assert len(vector.embedding) == 384
    client.close()


def test_a_plan_measures_real_tokens_and_shows_the_nearest_labeled_rows(home: Path, word_model: Path, tmp_path: Path) -> None:
    for role, answers in {"labeled": True, "unlabeled": False, "test": True}.items():
        write_colours(tmp_path, role, answers)
    run_file = tmp_path / "run.yaml"
    run_file.write_text(
        f"name: colours\nmodel: {word_model}\nembedding: bundled:minilm-l6\n"
        "data: {labeled: labeled.csv, unlabeled: unlabeled.csv, test: test.csv}\n"
        "collaborators: [{model: base, references: 0}, {model: warm, references: 2}]\nmax_tokens: 8\n"
    )
    result = invoke("plan", "-f", run_file, "--home", home, "--json")
    assert result.exit_code == 0, result.stderr
    planned = json.loads(result.stdout)
    plain, shown, judge = planned["prompts"]
    assert 0 < plain["prompt_token_count"] < shown["prompt_token_count"]
    assert len(shown["reference_ids"]) == 2
    assert judge["prompt_token_count"] > plain["prompt_token_count"]
    steps = {step["name"]: step for step in planned["planned_steps"]}
    assert steps["infer/base-0"]["generation_count"] == 20
    assert steps["infer/base-0"]["output_token_count"] <= 20 * 8
    assert planned["total"]["seconds"] > 0
    assert not list((home / "artifacts").rglob("MANIFEST.json"))
