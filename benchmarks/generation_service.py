"""Generation through the service (client -> gRPC -> backend) against calling the backend directly; and what the backend itself does.

    python -m benchmarks.generation_service [--rows 64] [--rounds 5] [--part service|backend|all] [--json]

Prompts are those of the method on examples/townhall (`--references` worked examples each), replies have 5 tokens. Service and backend
share weights and process, and alternate; each figure is a median. The bar is a ratio of 0.95. CPU seconds are of all threads: they say
more than wall seconds on a machine that others use too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from semievol.algorithm.prompts import reference_prompt
from semievol.client.generation import GenerationClient
from semievol.common.artifacts import Artifacts
from semievol.common.models import resolve_model
from semievol.common.runspec import load_run_file, parse_run_spec
from semievol.common.stores.local import LocalStore
from semievol.data.intake import Role, load
from semievol.generation.backends.transformers import TransformersEngine
from semievol.generation.server import service
from semievol.generation.settings import GenerationSettings
from semievol.ports import BASE_MODEL, Generation, Prompt, Sampling

from tests.generators import publish_directory, write_adapter
from tests.running import running

BAR = 0.95
REPLY_TOKENS = 5
TOWNHALL = Path(__file__).parent.parent / "examples" / "townhall"
TASK = parse_run_spec(load_run_file((TOWNHALL / "run.yaml").read_text(), source="run.yaml")).task.task()


def make_prompts(rows: int, references: int) -> list[Prompt]:
    """The method's prompts; every row gets the next few labeled rows as its references."""
    labeled = load(TOWNHALL / "labeled.csv", TASK, Role.LABELED).rows
    unlabeled = load(TOWNHALL / "unlabeled.csv", TASK, Role.UNLABELED).rows[:rows]
    chosen = [[labeled[(3 * i + j) % len(labeled)] for j in range(references)] for i in range(len(unlabeled))]
    return [
        Prompt(row.id, reference_prompt(row, refs, TASK), (i,))
        for i, (row, refs) in enumerate(zip(unlabeled, chosen, strict=True))
    ]


def seconds(work: Callable[[], Any]) -> tuple[float, float]:
    """(wall, CPU of all threads)."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def interleaved(variants: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, tuple[float, float]]:
    """Median (wall, CPU) seconds of each variant; every other round goes backwards. One round more warms them up."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for round_number in range(rounds + 1):
        for name in list(variants)[:: -1 if round_number % 2 else 1]:
            took = seconds(variants[name])
            if round_number:
                times[name].append(took)
    return {name: (statistics.median(w for w, _ in took), statistics.median(c for _, c in took)) for name, took in times.items()}


def measure_service(engine: TransformersEngine, rows: int, rounds: int) -> dict[str, Any]:
    """The same call, directly and over gRPC."""
    prompts, sampling = make_prompts(rows, 0), Sampling(temperature=1.0, max_tokens=REPLY_TOKENS)
    with running(service(GenerationSettings(), engine)) as address:
        client = GenerationClient(address)
        identical = client.generate(BASE_MODEL, prompts, sampling) == engine.generate(BASE_MODEL, prompts, sampling)
        took = interleaved(
            {
                "service": lambda: client.generate(BASE_MODEL, prompts, sampling),
                "direct": lambda: engine.generate(BASE_MODEL, prompts, sampling),
            },
            rounds,
        )
        client.close()
    wall, cpu = (took["direct"][k] / took["service"][k] for k in (0, 1))
    return {
        "rows": len(prompts),
        "identical": identical,
        "ratio": round(wall, 3),
        "cpu_ratio": round(cpu, 3),
        "bar": BAR,
        "rows_per_s": round(len(prompts) / took["service"][0], 2),
    }


def measure_backend(model: str, cache: Path, rows: int, rounds: int) -> list[dict[str, Any]]:
    """Prompt tokens/s (replies of one token) and decoded tokens/s (what longer replies add), by number format and adapter mode."""
    results = []
    directory = resolve_model(model, cache).directory
    with tempfile.TemporaryDirectory() as scratch:
        artifacts = Artifacts(LocalStore(Path(scratch, "store")))
        uri = publish_directory(artifacts, write_adapter(Path(scratch, "adapter"), directory, model, 0, rank=16, std=0.02))
        for precision, mode in (("float32", "merged"), ("float32", "switched"), ("bfloat16", "merged")):
            engine = TransformersEngine(
                model, artifacts=artifacts, cache=cache, device="cpu", precision=precision, adapter_mode=mode
            )
            started = time.perf_counter()
            engine.load_adapter("adapter", uri)
            load_s = time.perf_counter() - started
            for references in (0, 3):
                for served in (BASE_MODEL, "adapter") if references == 0 else ("adapter",):
                    figures = speed(engine, served, make_prompts(rows, references), rounds)
                    results.append(
                        {
                            "precision": precision,
                            "mode": mode,
                            "model": served,
                            "references": references,
                            "load_s": round(load_s, 2),
                            **figures,
                        }
                    )
    return results


def speed(engine: TransformersEngine, model: str, prompts: Sequence[Prompt], rounds: int) -> dict[str, Any]:
    replies: dict[int, list[Generation]] = {}

    def generate(max_tokens: int) -> None:
        replies[max_tokens] = engine.generate(model, prompts, Sampling(temperature=1.0, max_tokens=max_tokens))

    took = interleaved({"prompt": lambda: generate(1), "reply": lambda: generate(1 + REPLY_TOKENS)}, rounds)
    prompt_tokens = sum(one.prompt_tokens for one in replies[1])
    decoded = sum(len(one.completions[0].tokens) for one in replies[1 + REPLY_TOKENS]) - len(prompts)
    return {
        "mean_prompt_tokens": round(prompt_tokens / len(prompts)),
        "prompt_tokens_per_s": round(prompt_tokens / took["prompt"][0]),
        "prompt_tokens_per_cpu_s": round(prompt_tokens / took["prompt"][1]),
        "decoded_tokens_per_s": round(decoded / max(took["reply"][0] - took["prompt"][0], 1e-9)),
        "decoded_tokens_per_cpu_s": round(decoded / max(took["reply"][1] - took["prompt"][1], 1e-9)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default=GenerationSettings().model)
    parser.add_argument("--cache", type=Path, default=Path("~/.semievol/cache").expanduser())
    parser.add_argument("--part", choices=("service", "backend", "all"), default="all")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"model": arguments.model}
    if arguments.part != "backend":
        engine = TransformersEngine(arguments.model, cache=arguments.cache)
        result["service"] = measure_service(engine, arguments.rows, arguments.rounds)
    if arguments.part != "service":
        result["backend"] = measure_backend(arguments.model, arguments.cache, arguments.rows, arguments.rounds)
    print(json.dumps(result) if arguments.json else table(result))


def table(result: Mapping[str, Any]) -> str:
    lines = [f"{result['model']}, replies of {REPLY_TOKENS} tokens, medians of interleaved rounds"]
    if one := result.get("service"):
        verdict = "met" if one["ratio"] >= BAR else "missed"
        lines.append(
            f"service / direct: {one['ratio']} (bar {BAR}: {verdict}), of CPU seconds {one['cpu_ratio']}; {one['rows_per_s']} rows/s"
        )
    if rows := result.get("backend"):
        lines.append(
            "| precision | adapters | model | references | tokens a prompt | prompt tok/s (per CPU s) | decoded tok/s (per CPU s) | load s |"
        )
        lines.append("|---|---|---|---|---|---|---|---|")
        lines += [
            f"| {r['precision']} | {r['mode']} | {r['model']} | {r['references']} | {r['mean_prompt_tokens']} "
            f"| {r['prompt_tokens_per_s']} ({r['prompt_tokens_per_cpu_s']}) | {r['decoded_tokens_per_s']} ({r['decoded_tokens_per_cpu_s']}) | {r['load_s']} |"
            for r in rows
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
