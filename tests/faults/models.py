"""Models that are not there, not what they should be, or answer with nothing (R6)."""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from semievol.algorithm.types import Message
from semievol.common.artifacts import Artifacts, uri
from semievol.common.keys import canonical_json, derive_seed
from semievol.common.registry import Model, Registry
from semievol.common.stores.local import LocalStore

from tests.fake_suite import colour_script
from tests.faults.bench import Case, Ended, Place, half_written, served
from tests.generators import publish
from tests.manifests import manifests
from tests.word_model import make_word_model

CONTEXT = 66  # tokens: enough for the services' own readiness, too few for a prompt with a reference
MODELS, REPLIES = "Models", "Replies of models"
_UNIT = 2.0**63


def model(reference: str, *, embedding: bool = False) -> Callable[[Place], Ended]:
    """A run on this base (or embedding) model with the real backend, in a home of its own."""

    def inject(place: Place) -> Ended:
        own = Place(place.directory / "model")
        key = "embedding" if embedding else "model"
        own.run_file.write_text(own.run_file.read_text().replace(f"{key}: fake", f"{key}: {reference}"))
        room, backend = ("EMBEDDING", "sentence-transformers") if embedding else ("GENERATION", "transformers")
        ended = own.process("run", "-f", own.run_file, "--home", own.home, **{f"SEMIEVOL_{room}_BACKEND": backend})
        assert half_written(own.home) == []
        assert own.process("run", "-f", _good_run_file(own), "--home", own.home).code == 0
        shutil.rmtree(own.directory)
        return ended

    return inject


def _good_run_file(place: Place) -> Path:
    place.reset()
    return place.run_file


def directory(make: Callable[[Path], object]) -> Callable[[Place], Ended]:
    def inject(place: Place) -> Ended:
        with tempfile.TemporaryDirectory(dir=place.directory) as scratch:
            make(Path(scratch))
            return model(scratch)(place)

    return inject


def only(name: str) -> Callable[[Path], object]:
    """A model directory whose weights are in another format."""

    def make(path: Path) -> None:
        (path / "config.json").write_text("{}")
        (path / name).write_bytes(b"GGUF" + bytes(100) if name.endswith(".gguf") else b"\x80\x04K\x01.")

    return make


def damaged(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    """A real small model whose weights file is damaged."""

    def make(path: Path) -> None:
        make_word_model(path)
        weights = path / "model.safetensors"
        weights.write_bytes(change(weights.read_bytes()))

    return make


def another_bases_adapter(place: Place) -> Ended:
    """A registered model whose adapter was trained on something else than the registry says."""
    assert place.next_good_run() == []
    artifacts = Artifacts(LocalStore(place.home / "artifacts"))
    run = Registry(artifacts.store).models()[0].run
    config = canonical_json({"peft_type": "LORA", "base_model_name_or_path": "another-base", "r": 4})
    where = publish(artifacts, {"adapter_config.json": config, "adapter_model.safetensors": bytes(32)})
    Registry(artifacts.store).register(Model("stray", "evolved", run, 1, "fake", where, "0" * 64))
    ended = place.semievol("generate", "--home", place.home, "--model", "stray", "hello")
    artifacts.store.delete("models/stray.json")
    return ended


def too_short_a_context(place: Place) -> Ended:
    with served(place.directory / "short", max_model_tokens=CONTEXT) as own:
        ended = own.run()
    _heals(own)
    return ended


# ---------------------------------------------------------------- replies


def broken_replies(share: float, text: str) -> Callable[[str, Sequence[Message], int], str]:
    """This share of all prompts, by a hash, gets this text; the others what they would."""

    def script(model: str, messages: Sequence[Message], seed: int) -> str:
        if derive_seed("broken", model, messages[-1].content, seed) / _UNIT < share:
            return text
        return colour_script(model, messages, seed)

    return script


def replies(share: float, text: str) -> Callable[[Place], Ended]:
    def inject(place: Place) -> Ended:
        with tempfile.TemporaryDirectory(dir=place.directory) as scratch:
            with served(Path(scratch, "own"), script=broken_replies(share, text)) as own:
                ended = own.run("--json")
            made, absent = pseudo_labels(own.home, text)
            assert absent == 0, f"{absent} pseudo-labels were made from replies that are none"
            _heals(own)
        return Ended(ended.code, ended.stdout, ended.stderr, f"pseudo-labels from broken replies: 0 of {made}")

    return inject


def pseudo_labels(home: Path, broken: str) -> tuple[int, int]:
    """(rows that were selected, those of them whose response is empty or the broken reply)."""
    artifacts = Artifacts(LocalStore(home / "artifacts"))
    chosen: list[dict[str, Any]] = []
    for data in manifests(home).values():
        body = json.loads(data)
        if body["contract"].startswith("select/"):
            manifest, file = artifacts.resolve(uri(body["key"], "selected.jsonl"), field="uri")
            assert file is not None, manifest
            chosen += artifacts.read_json_lines(file)
    broken_ones = [row for row in chosen if not row.get("answer") or row.get("response", "").strip() in ("", broken.strip())]
    return len(chosen), len(broken_ones)


def _heals(own: Place) -> None:
    """The same home with models that answer."""
    assert half_written(own.home) == []
    with served(own.directory) as again:
        assert again.next_good_run(new_answers=True) == []  # those of the broken model are kept, as they were
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(own.directory)


CHATTER = "I would rather talk about the weather."
ENDLESS = "the colour of this thing is hard to tell because " * 40
STOPPED = r"For 20 of 20 unlabeled rows no collaborator gave a valid answer"

real = functools.partial(Case, MODELS)
MODEL_CASES = [
    real("a base model that is not there", (64,), r"no directory no-such-model", model("no-such-model")),
    real("a bundled base model that is unknown", (64,), r"no bundled model 'nothing'; known: bundled:", model("bundled:nothing")),
    real("a hub id without a network", (69,), r"hub cannot be reached .*give its directory", model("nobody/no-model")),
    real(
        "an embedding model that is not there", (64,), r"no directory .*no/such/model", model("./no/such/model", embedding=True)
    ),
    real("an embedding model of the hub without a network", (69,), r"hub cannot be reached", model("no-model", embedding=True)),
    real("a directory without a model", (64,), r"no config\.json", directory(lambda path: None)),
    real("GGUF in place of safetensors", (64,), r"other weights: model\.gguf\).*convert", directory(only("model.gguf"))),
    real("a pickle in place of safetensors", (64,), r"other weights: pytorch_model\.bin", directory(only("pytorch_model.bin"))),
    real("truncated safetensors", (64,), r"model\.safetensors|cannot be loaded", directory(damaged(lambda data: data[:-1000]))),
    real(
        "safetensors with a broken header",
        (64,),
        r"model\.safetensors|cannot be loaded",
        directory(damaged(lambda it: b"\xff" * 9 + it)),
    ),
    real("an adapter for another base", (64,), r"trained on another-base, and this engine serves fake", another_bases_adapter),
    real("prompts longer than the model", (64,), r"'unlabeled-\d+' has \d+ tokens; the model takes \d+", too_short_a_context),
]
REPLY_CASES = [
    *(Case(REPLIES, f"{share:.0%} empty", (0,), "selected", replies(share, "")) for share in (0.01, 0.1)),
    Case(REPLIES, "100% empty", (64,), STOPPED, replies(1.0, "")),
    *(
        Case(REPLIES, f"{share:.0%} without an answer in them", (0,), "selected", replies(share, CHATTER))
        for share in (0.01, 0.1)
    ),
    Case(REPLIES, "100% without an answer in them", (64,), STOPPED, replies(1.0, CHATTER)),
    *(Case(REPLIES, f"{share:.0%} cut off by max_tokens", (0,), "selected", replies(share, ENDLESS)) for share in (0.01, 0.1)),
    Case(REPLIES, "100% cut off by max_tokens", (64,), STOPPED, replies(1.0, ENDLESS)),
]
