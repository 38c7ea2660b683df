"""A dataset, a store and a spec for tests that train the tiny model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from semievol.common.artifacts import Artifacts, Manifest, uri
from semievol.common.keys import content_key
from semievol.common.stores import open_store
from semievol.ports import TrainingSpec
from semievol.training.core import JobOptions

from tests.word_model import WORDS

TEAMS = ("road", "water park", "noise")


def records(rows: int) -> list[dict[str, object]]:
    """Prompts of several lengths that begin alike; responses of one or two words and the end of the turn."""
    system = {"role": "system", "content": "you are a router pick the team that should answer this message"}
    return [
        {
            "row_id": f"r{i}",
            "prompt": [system, {"role": "user", "content": " ".join(WORDS[(i + j) % len(WORDS)] for j in range(3 + i * 7 % 11))}],
            "completion": TEAMS[i % len(TEAMS)],
            "source": "pseudo" if i % 4 == 0 else "labeled",
        }
        for i in range(rows)
    ]


@dataclass
class Bench:
    """Where a test trains."""

    directory: Path
    model: Path | str
    endpoint: str = ""

    def __post_init__(self) -> None:
        self.store = str(self.directory / "store")
        self.artifacts = Artifacts(open_store(self.store))

    def options(self, **changes: object) -> JobOptions:
        values: dict[str, object] = {
            "store": self.store,
            "cache": str(self.directory / "cache"),
            "checkpoints": str(self.directory / "checkpoints"),
            "device": "cpu",
            "precision": "float32",
            "endpoint": self.endpoint,
            "endpoint_poll_s": 0.01,
        }
        return JobOptions(**(values | changes))  # type: ignore[arg-type]

    def dataset(self, lines: list[dict[str, object]] | None = None, *, name: str = "data") -> str:
        """Publishes a dataset; its URI."""
        key = content_key(name)
        data = b"".join(json.dumps(line).encode() + b"\n" for line in (lines if lines is not None else records(20)))
        self.artifacts.publish(Manifest(key, "examples/1", {}, {}, ()), {"train.jsonl": data})
        return uri(key, "train.jsonl")

    def spec(self, **changes: object) -> TrainingSpec:
        values: dict[str, object] = {
            "base_model": str(self.model),
            "dataset_uri": changes.pop("dataset_uri", None) or self.dataset(),
            "learning_rate": 1e-2,
            "lora_rank": 4,
            "lora_alpha": 8,
            "endpoint": self.endpoint,
        }
        return TrainingSpec(**(values | changes))  # type: ignore[arg-type]
