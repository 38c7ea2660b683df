"""References to base models: what becomes a directory, and what is refused with which words."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from semievol.common import errors, models
from semievol.common.models import resolve_model


def _directory(root: Path, weights: str = "model.safetensors") -> Path:
    root.mkdir(parents=True)
    (root / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (root / "tokenizer.json").write_text("{}")
    (root / weights).write_bytes(b"\0" * 64)
    return root


def test_a_directory_is_used_where_it_lies(tmp_path: Path) -> None:
    directory = _directory(tmp_path / "model")
    model = resolve_model(str(directory), tmp_path / "cache")
    assert model.directory == directory
    assert model.reference == str(directory)
    assert len(model.sha256) == 64


def test_a_relative_directory_wins_over_a_hub_id_of_the_same_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _directory(tmp_path / "org" / "model")
    monkeypatch.chdir(tmp_path)
    model = resolve_model("org/model", tmp_path / "cache")
    assert model.reference == "org/model"
    assert model.directory == tmp_path / "org" / "model"


def test_the_fingerprint_follows_content_and_not_place(tmp_path: Path) -> None:
    one, other = _directory(tmp_path / "one"), _directory(tmp_path / "other")
    (other / "README.md").write_text("a model card decides nothing")
    assert resolve_model(str(one), tmp_path).sha256 == resolve_model(str(other), tmp_path).sha256
    (other / "model.safetensors").write_bytes(b"\1" * 64)
    assert resolve_model(str(one), tmp_path).sha256 != resolve_model(str(other), tmp_path).sha256


def test_a_directory_without_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(errors.InvalidInput, match=r"config\.json") as caught:
        resolve_model(str(tmp_path / "empty"), tmp_path)
    assert caught.value.field == "model"


@pytest.mark.parametrize("weights", ["pytorch_model.bin", "model.pt", "model.Q4_1.gguf"])
def test_weights_in_other_formats_are_refused(tmp_path: Path, weights: str) -> None:
    directory = _directory(tmp_path / "model", weights)
    with pytest.raises(errors.InvalidInput, match=f"safetensors.*{weights}"):
        resolve_model(str(directory), tmp_path)


@pytest.mark.parametrize("reference", ["/no/such/directory", "./nowhere", "nowhere", "bundled:unknown"])
def test_what_is_not_there_is_not_found(tmp_path: Path, reference: str) -> None:
    with pytest.raises(errors.NotFound) as caught:
        resolve_model(reference, tmp_path)
    assert caught.value.field == "model"


def test_an_empty_reference_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidInput):
        resolve_model("", tmp_path)


def test_a_hub_that_cannot_be_reached_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for reference in ("nobody/no-such-model", "nobody/no-such-model@v1.0"):
        with pytest.raises(errors.Unavailable, match="give its directory"):
            resolve_model(reference, tmp_path)


def test_a_revision_of_a_hub_model_is_that_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two commits in the cache of the hub's client: one has the branch, the other a tag."""
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository, newer, older = tmp_path / "models--owner--name", "1" * 40, "0" * 40
    for commit in (newer, older):
        _directory(repository / "snapshots" / commit)
        (repository / "snapshots" / commit / "config.json").write_text(json.dumps({"commit": commit}))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(newer)
    (repository / "refs" / "v1.0").write_text(older)
    found = {at: resolve_model(f"owner/name{at}", tmp_path).directory.name for at in ("", "@v1.0", f"@{older}")}
    assert found == {"": newer, "@v1.0": older, f"@{older}": older}


def test_a_damaged_cache_is_made_again_and_racers_share_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    def convert(source: Path, target: Path) -> None:
        made.append(target)
        _directory(target)

    monkeypatch.setattr(models, "_convert", convert)
    target = tmp_path / "cache" / "model"
    threads = [threading.Thread(target=models._prepare, args=(tmp_path, target)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert models._prepared(target)
    (target / "model.safetensors").write_bytes(b"cut")
    assert not models._prepared(target)
    models._prepare(tmp_path, target)
    assert models._prepared(target)
    assert sorted(path.name for path in target.parent.iterdir()) == ["model"]


def test_a_copy_that_an_image_carries_needs_no_package_and_no_place_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried = _directory(tmp_path / "models" / f"small-1.0-r{models._RECIPE}")
    (carried / models._FINGERPRINT_FILE).write_text(models.fingerprint(carried))
    monkeypatch.setitem(models._BUNDLED, "small", models._Bundle("no-such-package", "no_such_package", "small.gguf"))
    monkeypatch.setenv(models.PREPARED_MODELS, str(carried.parent))
    assert resolve_model("bundled:small", tmp_path / "cache").directory == carried
    assert not (tmp_path / "cache").exists()
    (carried / "tokenizer.json").write_text("changed since")
    with pytest.raises(errors.NotSupported, match="no-such-package"):
        resolve_model("bundled:small", tmp_path / "cache")


@pytest.mark.models
def test_the_bundled_model_is_prepared_once_and_loads_as_plain_safetensors(bundled_model: models.LocalModel) -> None:
    directory = bundled_model.directory
    names = {path.name for path in directory.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
    config = json.loads((directory / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert "quantization_config" not in config
    written = (directory / "model.safetensors").stat().st_mtime_ns
    again = resolve_model("bundled:smollm2-135m", directory.parent)
    assert again == bundled_model
    assert (directory / "model.safetensors").stat().st_mtime_ns == written
