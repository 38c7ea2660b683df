"""The demo's whole evolution with `engine: vllm`, and the same calls again with an engine start for every phase and configuration.

    python -m benchmarks.vllm_demo [--run-file examples/townhall/run.yaml] [--home DIRECTORY] [--json]

The run is the real one, through the command line's own code, and its calls to the engine are written down as they come. Then they are done again
the way that scripts around an offline engine do it: for each phase and configuration (the same method and weights, no row twice) an engine is
started with these weights, merged on a CPU, answers, and is ended. Compared is the time of engine starts and calls; training is the same in both. The
bars: at most 65 % with merged weights, a third where adapters are hot; engine starts at most the number of distinct weights.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from semievol.cli.main import LIBRARY_SETTINGS, cli
from semievol.generation import server
from semievol.generation.backends import vllm
from semievol.generation.backends.vllm_process import VllmProcess
from semievol.ports import BASE_MODEL, NEVER, Cancel, Generation, Prompt, Sampling, Score, ScoreRequest

BARS = {"merged": 0.65, "hot": 1 / 3}


@dataclass
class Call:
    method: str
    model: str
    rows: Sequence[Any]
    sampling: Sampling | None
    seconds: float


@dataclass
class Recorder:
    """The engine, with a note of every call and of what each start took."""

    engine: Any
    calls: list[Call] = field(default_factory=list)
    adapters: dict[str, str] = field(default_factory=dict)

    def generate(self, model: str, prompts: Sequence[Prompt], sampling: Sampling, *, cancel: Cancel = NEVER) -> list[Generation]:
        began = time.perf_counter()
        replies: list[Generation] = self.engine.generate(model, prompts, sampling, cancel=cancel)
        self.calls.append(Call("generate", model, prompts, sampling, time.perf_counter() - began))
        return replies

    def score(self, model: str, requests: Sequence[ScoreRequest], *, cancel: Cancel = NEVER) -> list[Score]:
        began = time.perf_counter()
        scores: list[Score] = self.engine.score(model, requests, cancel=cancel)
        self.calls.append(Call("score", model, requests, None, time.perf_counter() - began))
        return scores

    def load_adapter(self, name: str, uri: str) -> Any:
        began = time.perf_counter()
        loaded = self.engine.load_adapter(name, uri)
        if name not in self.adapters:
            self.calls.append(Call("load", name, [], None, time.perf_counter() - began))
        self.adapters[name] = uri
        return loaded

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)


def phases(calls: Sequence[Call]) -> Iterator[list[Call]]:
    """Calls that one offline script would make: the same method and weights, no row twice."""
    group: list[Call] = []
    seen: set[str] = set()
    for call in calls:
        ids = {row.id for row in call.rows}
        if group and ((call.method, call.model) != (group[0].method, group[0].model) or seen & ids):
            yield group
            group, seen = [], set()
        group.append(call)
        seen |= ids
    if group:
        yield group


def evolve(run_file: Path, home: Path) -> tuple[Recorder, dict[str, Any], list[float]]:
    """The run; its result; seconds of each engine start."""
    recorders: list[Recorder] = []
    starts: list[float] = []
    make_engine, make_process = server.engine, VllmProcess.__init__

    def recorded(settings: Any) -> Any:
        recorders.append(Recorder(make_engine(settings)))
        return recorders[-1]

    def timed(self: VllmProcess, *arguments: Any) -> None:
        began = time.perf_counter()
        make_process(self, *arguments)
        starts.append(time.perf_counter() - began)

    server.engine, VllmProcess.__init__ = recorded, timed  # type: ignore[assignment,method-assign]
    output = StringIO()
    try:
        with redirect_stdout(output):
            try:
                cli.main(["run", "-f", str(run_file), "--home", str(home), "--json"])
            except SystemExit as end:
                if end.code:
                    raise
    finally:
        server.engine, VllmProcess.__init__ = make_engine, make_process  # type: ignore[method-assign]
    return recorders[0], json.loads(output.getvalue().splitlines()[-1]), starts


def again(recorder: Recorder, groups: Sequence[list[Call]], home: Path, model: str) -> list[float]:
    """Seconds of each phase, its engine's start and end included."""
    engine = recorder.engine
    took = []
    for group in groups:
        name = group[0].model
        directory = model
        if name != BASE_MODEL:
            adapter = engine._adapters.open(name, recorder.adapters[name])
            directory = str(engine.weights._merger.merged(adapter).directory)
        began = time.perf_counter()
        alone = vllm.VllmEngine(directory, cache=home / "alone")
        for call in group:
            if call.method == "generate":
                alone.generate(BASE_MODEL, call.rows, call.sampling or Sampling())
            else:
                alone.score(BASE_MODEL, call.rows)
        alone.close()
        took.append(time.perf_counter() - began)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run-file", type=Path, default=Path("examples/townhall/run.yaml"))
    parser.add_argument("--home", type=Path)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    for name, value in LIBRARY_SETTINGS.items():  # as the console script does
        os.environ.setdefault(name, value)
    with tempfile.TemporaryDirectory() as scratch:
        home = asked.home or Path(scratch, "home")
        spec = yaml.safe_load(asked.run_file.read_text()) | {"engine": "vllm"}
        for key in ("labeled", "unlabeled", "test"):
            spec["data"][key] = str((asked.run_file.parent / spec["data"][key]).absolute())
        mine = Path(scratch, "run.yaml")
        mine.write_text(yaml.safe_dump(spec))
        began = time.perf_counter()
        recorder, result, starts = evolve(mine, home)
        whole = time.perf_counter() - began
        calls = [call for call in recorder.calls if call.rows]
        groups = list(phases([call for call in calls if call.rows[0].id != "ready"]))
        ours = sum(starts) + sum(call.seconds for call in recorder.calls)
        theirs = again(recorder, groups, home, spec["model"])
    distinct = len({call.model for call in calls})
    out = {
        "run_s": round(whole, 1),
        "accuracy": {role: round(100 * one["value"], 1) for role, one in result["iterations"][-1]["accuracy"].items()},
        "ours_s": round(ours, 1),
        "engine_starts": len(starts),
        "weight_swaps": result["engines"]["swaps"],
        "distinct_weights": distinct,
        "start_s": [round(one, 1) for one in starts],
        "phase_by_phase_s": round(sum(theirs), 1),
        "phases": [f"{group[0].method} {group[0].model}: {sum(len(call.rows) for call in group)} rows" for group in groups],
        "ratio": round(ours / sum(theirs), 3),
        "bars": BARS,
    }
    print(json.dumps(out) if asked.json else "\n".join(f"{name}: {value}" for name, value in out.items()))


if __name__ == "__main__":
    main()
