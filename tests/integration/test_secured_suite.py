"""The whole product with certificates and tokens on: what everybody inherits by environment variables, and nothing else, has to be enough."""

from __future__ import annotations

import json
import logging
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from click.testing import CliRunner
from semievol.cli.main import cli
from semievol.door import server as door_server

from tests.certificates import Authority
from tests.doors import KEY, standing_open
from tests.fake_suite import Suite, fake_suite


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """Mutual TLS, and a token at the public doors."""
    ca = Authority(tmp_path / "ca")
    settings = {
        **ca.issue("suite").environment,
        "SEMIEVOL_TLS_CA_FILE": str(ca.file),
        "SEMIEVOL_TLS_REQUIRE_CLIENT_CERT": "true",
        "SEMIEVOL_AUTH_TOKENS": "token-of-the-suite",
        "SEMIEVOL_TOKEN": "token-of-the-suite",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return ca


@pytest.fixture
def suite(environment: Authority, tmp_path: Path) -> Iterator[Suite]:
    """Its steps are processes of their own, as on a cluster: they reach the other services with what they inherit."""
    with fake_suite(tmp_path / "home", launcher="subprocess") as made:
        yield made


def semievol(*args: str) -> Any:
    return CliRunner().invoke(cli, list(args))


def test_a_run_completes_and_its_model_answers(suite: Suite, environment: Authority) -> None:
    result = suite.run(suite.spec())
    assert result["error"] == ""
    where = ("--address", suite.addresses["controller"])
    listed = json.loads(semievol("models", "list", *where, "--json").stdout)
    model = next(one["name"] for one in listed["models"] if one["role"] == "evolved")
    assert semievol("models", "promote", model, "production", *where).exit_code == 0
    asked = semievol("generate", "red", "--router", suite.addresses["router"], "--json")
    assert asked.exit_code == 0, asked.stderr
    assert json.loads(asked.stdout)["model"]["alias"] == "production"


@pytest.mark.parametrize("missing", ["SEMIEVOL_TOKEN", "SEMIEVOL_TLS_CA_FILE"])
def test_a_command_that_lacks_something_says_what(suite: Suite, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(missing)
    ended = semievol("status", "--address", suite.addresses["controller"])
    assert ended.exit_code == {"SEMIEVOL_TOKEN": 77, "SEMIEVOL_TLS_CA_FILE": 69}[missing]
    assert missing in ended.stderr


def trusted(ca: Authority) -> httpx.Client:
    return httpx.Client(verify=ssl.create_default_context(cafile=str(ca.file)), timeout=60)


def door_of(suite: Suite) -> Any:
    return standing_open(api_keys=KEY, generation=suite.addresses["router"], embedding=suite.addresses["embedding"])


def test_the_door_speaks_https_and_asks_nobody_for_a_certificate(suite: Suite, environment: Authority) -> None:
    with door_of(suite) as door, trusted(environment) as http:
        assert door.url.startswith("https://127.0.0.1:")
        client = openai.OpenAI(base_url=door.url, api_key=KEY, http_client=http, max_retries=0)
        reply = client.chat.completions.create(model="base", messages=[{"role": "user", "content": "red"}], max_tokens=8)
        assert reply.choices[0].message.content
        with pytest.raises(openai.APIConnectionError):  # a public CA did not sign this
            openai.OpenAI(base_url=door.url, api_key=KEY, max_retries=0).models.list()
        with pytest.raises(httpx.HTTPError):
            httpx.get(door.url.replace("https://", "http://") + "/models", timeout=20)


def test_a_door_whose_own_token_is_wrong_does_not_blame_its_clients(
    suite: Suite, environment: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMIEVOL_TOKEN", "wrong")
    with door_of(suite) as door, trusted(environment) as http:
        client = openai.OpenAI(base_url=door.url, api_key=KEY, http_client=http, max_retries=0)
        with pytest.raises(openai.InternalServerError, match="does not know the token") as caught:
            client.models.list()
        assert caught.value.status_code == 503


def test_a_door_that_others_reach_in_plaintext_is_shouted_about(
    environment: Authority, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        with standing_open(address="0.0.0.0:0", generation="127.0.0.1:1", embedding="", api_keys=KEY):
            pass
        assert "THE DOOR" not in caplog.text
        for name in ("CERT_FILE", "KEY_FILE", "CA_FILE", "REQUIRE_CLIENT_CERT"):
            monkeypatch.delenv(f"SEMIEVOL_TLS_{name}")
        with standing_open(address="0.0.0.0:0", generation="127.0.0.1:1", embedding="", api_keys=KEY):
            pass
        assert "THE DOOR SPEAKS PLAINTEXT" in caplog.text


def test_the_door_takes_up_a_replaced_certificate(
    tmp_path: Path, environment: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door_server, "_RENEW_S", 0.05)
    monkeypatch.setattr(door_server.security, "_LOOK_EVERY_S", 0.0)
    others = Authority(tmp_path / "others", "other").issue("renewed")
    with standing_open(api_keys=KEY, generation="127.0.0.1:1", embedding="") as door:
        address = door.url.removeprefix("https://").removesuffix("/v1").split(":")
        before = _shown(address)
        suite_pair = environment.file.parent
        (suite_pair / "suite.crt").write_bytes(others.certificate.read_bytes())
        (suite_pair / "suite.key").write_bytes(others.key.read_bytes())
        assert any(_shown(address) != before for _ in range(1000))


def _shown(address: list[str]) -> bytes | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((address[0], int(address[1]))) as raw, context.wrap_socket(raw) as wrapped:
        return wrapped.getpeercert(binary_form=True)
