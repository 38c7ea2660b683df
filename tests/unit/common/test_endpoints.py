"""URLs of servers elsewhere, and the keys that open them."""

from __future__ import annotations

from pathlib import Path

import pytest
from semievol.common import errors
from semievol.common.endpoints import check_url, is_private, is_url, secret
from semievol.common.runspec import parse_run_spec

LEAST = {"name": "a", "model": "m", "embedding": "e", "data": {"labeled": "a", "unlabeled": "b"}}


def test_a_reference_is_a_url_by_its_scheme() -> None:
    assert [is_url(one) for one in ("http://a", "HTTPS://a", "a/b", "bundled:x", "/http://")] == [True, True, False, False, False]


def test_a_url_loses_its_last_slash() -> None:
    assert check_url("https://host/v1/", field="engine") == "https://host/v1"


def test_only_https_and_this_machine_are_private() -> None:
    assert [is_private(f"{one}/v1") for one in ("https://a", "http://127.0.0.1:1", "http://localhost", "http://a")] == [
        True,
        True,
        True,
        False,
    ]


def test_a_key_comes_from_the_variable_or_from_the_file_that_it_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert secret("SEMIEVOL_TEST_KEY") is None
    (tmp_path / "key").write_text(" from a file\n")
    monkeypatch.setenv("SEMIEVOL_TEST_KEY_FILE", str(tmp_path / "key"))
    found = secret("SEMIEVOL_TEST_KEY")
    assert found is not None
    assert found.get_secret_value() == "from a file"
    assert "file" not in repr(found)
    monkeypatch.setenv("SEMIEVOL_TEST_KEY", "from the variable")
    found = secret("SEMIEVOL_TEST_KEY")
    assert found is not None
    assert found.get_secret_value() == "from the variable"


@pytest.mark.parametrize("content", [None, " \n", "a\nb"])
def test_a_key_file_that_holds_no_key_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "key").write_text(content)
    monkeypatch.setenv("SEMIEVOL_TEST_KEY_FILE", str(tmp_path / "key"))
    with pytest.raises(errors.InvalidInput, match="SEMIEVOL_TEST_KEY"):
        secret("SEMIEVOL_TEST_KEY")


def test_an_engine_is_one_of_ours_or_a_url() -> None:
    assert parse_run_spec(LEAST).endpoint == ""
    assert parse_run_spec(LEAST | {"engine": "http://host:8000/v1"}).endpoint == "http://host:8000/v1"


@pytest.mark.parametrize(("engine", "words"), [("http://me:pass@host", "password"), ("triton", "transformers, vllm, or the URL")])
def test_another_engine_is_refused(engine: str, words: str) -> None:
    with pytest.raises(errors.InvalidInput, match=words) as caught:
        parse_run_spec(LEAST | {"engine": engine})
    assert caught.value.field == "engine"
