"""Embedding through the service (client -> gRPC -> backend) against sentence-transformers called directly.

    python -m benchmarks.embedding_service [--texts 512] [--rounds 9] [--model bundled:minilm-l6] [--json]

Same texts, batch size, weights and process; the two alternate, and each figure is a median. The bar is a ratio of 0.95.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from semievol.client.embedding import EmbeddingClient
from semievol.embedding.backends.references import resolve
from semievol.embedding.server import service
from semievol.embedding.settings import EmbeddingSettings

from tests.running import running

BAR = 0.95


WORDS = (  # English, so that a word is about one token
    "the of and to in is that it was for on are with as his they be at one have this from or had by hot but some what there we can "
    "out other were all your when up use word how said an each she which do their time if will way about many then them would write "
    "like so these her long make thing see him two has look more day could go come did my sound no most number who over know water "
    "than call first people may down side been now find invoice contract station committee temperature region council treatment"
)


def make_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of 5 to 120 words, most of them short, as questions are."""
    rng, words = random.Random(seed), WORDS.split()
    return [" ".join(rng.choices(words, k=min(120, 5 + int(rng.expovariate(1 / 25))))) for _ in range(count)]


def seconds(work: Callable[[], Any]) -> tuple[float, float]:
    """(wall, CPU of all threads); the second says more on a machine that others use too."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(texts: Sequence[str], rounds: int, settings: EmbeddingSettings) -> dict[str, Any]:
    with running(service(settings)) as address:
        from sentence_transformers import SentenceTransformer

        raw = SentenceTransformer(str(resolve(settings.model).directory), local_files_only=True)

        def direct() -> Any:
            return raw.encode(list(texts), batch_size=settings.batch_count, show_progress_bar=False, normalize_embeddings=True)

        client = EmbeddingClient(address)
        difference = float(np.abs(client.embed(texts) - direct()).max())  # also warms both
        times: dict[str, list[tuple[float, float]]] = {"service": [], "direct": []}
        for i in range(rounds):
            pair: list[tuple[str, Callable[[], Any]]] = [("service", lambda: client.embed(texts)), ("direct", direct)]
            for name, work in pair if i % 2 else pair[::-1]:
                times[name].append(seconds(work))
        client.close()
    service_s, direct_s = (statistics.median(wall for wall, _ in times[name]) for name in ("service", "direct"))
    service_cpu_s, direct_cpu_s = (statistics.median(cpu for _, cpu in times[name]) for name in ("service", "direct"))
    return {
        "texts": len(texts),
        "rounds": rounds,
        "model": settings.model,
        "service_texts_per_s": round(len(texts) / service_s, 1),
        "direct_texts_per_s": round(len(texts) / direct_s, 1),
        "ratio": round(direct_s / service_s, 3),
        "ratio_of_each_round": [round(d[0] / s[0], 3) for s, d in zip(times["service"], times["direct"], strict=True)],
        "cpu_ratio": round(direct_cpu_s / service_cpu_s, 3),
        "bar": BAR,
        "largest_difference": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--model", default=EmbeddingSettings().model)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    arguments = parser.parse_args()
    result = measure(make_texts(arguments.texts), arguments.rounds, EmbeddingSettings(model=arguments.model))
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"{arguments.texts} texts, {arguments.model}, median of {arguments.rounds} interleaved rounds")
    print(f"  through the service  {result['service_texts_per_s']:8.1f} texts/s")
    print(f"  called directly      {result['direct_texts_per_s']:8.1f} texts/s")
    verdict = "met" if result["ratio"] >= BAR else "missed"
    print(f"  ratio                {result['ratio']:8.3f}   (bar {BAR}: {verdict}; rounds: {result['ratio_of_each_round']})")
    print(f"  ratio of CPU seconds {result['cpu_ratio']:8.3f}")
    print(f"  largest difference   {result['largest_difference']:.1e}")


if __name__ == "__main__":
    main()
