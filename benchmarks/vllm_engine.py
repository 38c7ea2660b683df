"""vLLM behind our gRPC API against vLLM by itself: the same weights, prompts and settings, taking turns.

    python -m benchmarks.vllm_engine [--rows 64] [--rounds 5] [--part batch,score,first_token] [--json]

`batch`: Generate of one page against `vllm.LLM.chat` offline (an engine of its own; bar 0.98). `score`: Score against raw prompt
log-probabilities of the engine that the service holds (bar 0.90). `first_token`: how much later the first token of a stream arrives
through gRPC than from that engine (bar 5 ms). Each figure is a median; the order changes from round to round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from semievol.client.generation import GenerationClient
from semievol.common.chat_format import completion_ids, render
from semievol.common.models import resolve_model
from semievol.generation.backends.vllm import VllmEngine
from semievol.generation.backends.vllm_options import VllmOptions
from semievol.generation.backends.vllm_process import Request, VllmProcess, start_environment
from semievol.generation.backends.weights import load_tokenizer
from semievol.generation.server import service
from semievol.generation.settings import GenerationSettings
from semievol.ports import BASE_MODEL, NEVER, Prompt, Sampling, ScoreRequest

from benchmarks.generation_service import interleaved, make_prompts
from tests.running import running

BARS = {"batch": 0.98, "score": 0.90, "first_token_ms": 5.0}
REPLY_TOKENS = 32


def batch(engine: VllmEngine, client: GenerationClient, prompts: list[Prompt], rounds: int, end: list[int]) -> Any:
    from vllm import LLM, SamplingParams

    log, eager = Path(tempfile.gettempdir(), "vllm-offline.log"), bool(engine.arguments.get("enforce_eager"))
    with start_environment(log, several_machines=False, eager=eager):  # the same threads
        offline = LLM(**engine.arguments)
    chats = [[{"role": message.role, "content": message.content} for message in prompt.messages] for prompt in prompts]
    params = SamplingParams(temperature=0, max_tokens=REPLY_TOKENS, logprobs=0, ignore_eos=False, stop_token_ids=end)
    sampling = Sampling(max_tokens=REPLY_TOKENS)
    took = interleaved(
        {
            "service": lambda: client.generate(BASE_MODEL, prompts, sampling),
            "direct": lambda: engine.generate(BASE_MODEL, prompts, sampling),
            "offline": lambda: offline.chat(chats, params, use_tqdm=False),  # type: ignore[arg-type]
        },
        rounds,
    )
    replies = client.generate(BASE_MODEL, prompts, sampling)
    theirs = offline.chat(chats, params, use_tqdm=False)  # type: ignore[arg-type]
    same = sum(one.completions[0].text == other.outputs[0].text for one, other in zip(replies, theirs, strict=True))
    tokens = sum(len(one.completions[0].tokens) for one in replies)
    return {
        "service_to_offline": round(took["offline"][0] / took["service"][0], 3),
        "direct_to_offline": round(took["offline"][0] / took["direct"][0], 3),
        "output_tokens_per_s": round(tokens / took["service"][0], 1),
        "prompt_tokens_per_s": round(sum(one.prompt_tokens for one in replies) / took["service"][0], 1),
        "same_texts": f"{same} of {len(prompts)}",
    }


def score(process: VllmProcess, client: GenerationClient, prompts: list[Prompt], rounds: int, tokenizer: Any) -> Any:
    from vllm import SamplingParams
    from vllm.inputs.engine import tokens_input

    requests = [ScoreRequest(prompt.id, prompt.messages, "Roads and pavements") for prompt in prompts]
    rows = [[*render(tokenizer, one.messages), *completion_ids(tokenizer, one.response)] for one in requests]
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False)

    async def one(ids: list[int]) -> None:
        async for _ in process.engine.generate(tokens_input(ids), params, uuid.uuid4().hex):
            pass

    async def raw() -> None:
        await asyncio.gather(*(one(ids) for ids in rows))

    took = interleaved({"service": lambda: client.score(BASE_MODEL, requests), "raw": lambda: process.call(raw(), None)}, rounds)
    return {
        "service_to_raw": round(took["raw"][0] / took["service"][0], 3),
        "rows_per_s": round(len(rows) / took["service"][0], 2),
    }


def first_token(process: VllmProcess, client: GenerationClient, prompts: list[Prompt], rounds: int, tokenizer: Any) -> Any:
    sampling = Sampling(max_tokens=4)
    rows = [render(tokenizer, prompt.messages) for prompt in prompts]

    def through(ask: Callable[[int], Any]) -> list[float]:
        times = []
        for number in range(len(prompts)):
            began = time.perf_counter()
            stream = ask(number)
            next(stream)
            times.append(time.perf_counter() - began)
            for _ in stream:
                pass
        return times

    times: dict[str, list[float]] = {"service": [], "engine": []}
    ways: dict[str, Callable[[int], Any]] = {
        "service": lambda i: client.chat(BASE_MODEL, prompts[i], sampling),
        "engine": lambda i: process.stream(Request(rows[i], sampling, max_tokens=sampling.max_tokens), None, NEVER),
    }
    for number in range(rounds + 1):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            took = through(ways[name])
            if number:
                times[name] += took
    middle = {name: 1000 * statistics.median(one) for name, one in times.items()}
    return {
        **{f"{name}_ms": round(one, 2) for name, one in middle.items()},
        "later_ms": round(middle["service"] - middle["engine"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default=GenerationSettings().model)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--part", default="batch,score,first_token")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    asked = parser.parse_args()
    prompts = [Prompt(one.id, one.messages) for one in make_prompts(asked.rows, 0)]
    result: dict[str, Any] = {"model": asked.model, "rows": asked.rows, "bars": BARS}
    with tempfile.TemporaryDirectory() as scratch:
        engine = VllmEngine(
            asked.model,
            cache=Path(scratch),
            precision=asked.precision,
            options=VllmOptions(kv_cache_gib=1, max_model_tokens=2048),
        )
        result["engine"] = engine.models()[0].engine
        with running(service(GenerationSettings(backend="vllm"), engine)) as address:
            client = GenerationClient(address)
            parts = asked.part.split(",")
            tokenizer, _, end = load_tokenizer(resolve_model(asked.model, Path(scratch)))
            with engine.weights.use(None, NEVER) as (process, _):
                if "first_token" in parts:
                    result["first_token"] = first_token(process, client, prompts[:8], asked.rounds, tokenizer)
                if "score" in parts:
                    result["score"] = score(process, client, prompts, asked.rounds, tokenizer)
                if "batch" in parts:
                    result["batch"] = batch(engine, client, prompts, asked.rounds, end)
            client.close()
    print(json.dumps(result) if asked.json else "\n".join(f"{name}: {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
