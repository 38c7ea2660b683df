"""The demo's whole evolution with `engine: vllm`, and the same calls again with an engine start for every phase and configuration.

    python -m benchmarks.vllm_demo [--run-file examples/townhall/run.yaml] [--home DIRECTORY] [--json]

The run is the real one, through the command line's own code, and its calls to the engine are written down as they come. Then they are done again in two
ways, phase by phase beside each other, so that a machine that does other things as well is slow for both: on one engine that takes the weights in
turn, as the run's did; and the way that scripts around an offline engine do it, where for each phase and configuration (the same method and
weights, no row twice) an engine is started with these weights, merged on a CPU, answers, and is ended. Compared is the time of engine starts,
swaps of weights and calls; training is the same in both. The bars: at most 65 % with merged weights, a third where adapters are hot; engine
starts of the run at most the number of distinct weights.
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
from semievol.generation.settings import GenerationSettings
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
    settings: GenerationSettings
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


@dataclass
class Taken:
    """Seconds: the start of the one engine, its phases, and those of engines of their own, starts and ends included."""

    start_s: float
    shared_s: list[float] = field(default_factory=list)
    alone_s: list[float] = field(default_factory=list)


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
    """The run's engine, its result, seconds of each engine start."""
    recorders: list[Recorder] = []
    starts: list[float] = []
    make_engine, make_process = server.engine, VllmProcess.__init__

    def recorded(settings: Any) -> Any:
        recorders.append(Recorder(make_engine(settings), settings))
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


def again(recorder: Recorder, groups: Sequence[list[Call]], home: Path) -> Taken:
    """The calls once more, phase after phase, on one engine that takes the weights in turn and on an engine of their own for each phase, one
    after the other, so that whatever else the machine does is felt by both."""
    settings = recorder.settings
    began = time.perf_counter()
    one: Any = server.engine(settings)
    taken = Taken(time.perf_counter() - began)
    for group in groups:
        name = group[0].model
        began = time.perf_counter()
        if name != BASE_MODEL:
            one.load_adapter(name, recorder.adapters[name])
        ask(one, name, group)
        taken.shared_s.append(time.perf_counter() - began)
        directory = settings.model
        if name != BASE_MODEL:
            directory = str(one.weights._merger.merged(one._adapters.open(name, recorder.adapters[name])).directory)
        began = time.perf_counter()
        alone = vllm.VllmEngine(directory, cache=home / "alone")
        ask(alone, BASE_MODEL, group)
        alone.close()
        taken.alone_s.append(time.perf_counter() - began)
    one.close()
    return taken


def ask(engine: Any, name: str, group: Sequence[Call]) -> None:
    for call in group:
        if call.method == "generate":
            engine.generate(name, call.rows, call.sampling or Sampling())
        else:
            engine.score(name, call.rows)


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
        taken = again(recorder, groups, home)
    distinct = len({call.model for call in calls})
    ours, theirs = taken.start_s + sum(taken.shared_s), sum(taken.alone_s)
    out = {
        "run_s": round(whole, 1),
        "accuracy": {role: round(100 * one["value"], 1) for role, one in result["iterations"][-1]["accuracy"].items()},
        "engine_starts": len(starts),
        "weight_swaps": result["engines"]["swaps"],
        "distinct_weights": distinct,
        "phases": [f"{group[0].method} {group[0].model}: {sum(len(call.rows) for call in group)} rows" for group in groups],
        "one_engine_s": [round(one, 1) for one in (taken.start_s, *taken.shared_s)],
        "engine_a_phase_s": [round(one, 1) for one in taken.alone_s],
        "ratio": round(ours / theirs, 3),
        "bars": BARS,
    }
    print(json.dumps(out) if asked.json else "\n".join(f"{name}: {value}" for name, value in out.items()))


if __name__ == "__main__":
    main()
