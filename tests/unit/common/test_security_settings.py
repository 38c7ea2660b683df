"""What the environment says about certificates and tokens, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from semievol.common import errors, security
from semievol.common.security import SecuritySettings, access, check_whole, protection

from tests.certificates import Authority, Pair


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def pair(ca: Authority) -> Pair:
    return ca.issue("server")


def test_nothing_is_on_by_default() -> None:
    assert access(SecuritySettings()) == security.PLAINTEXT
    assert access(SecuritySettings()).metadata is None
    assert protection(SecuritySettings()) == security.Protection()


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch, ca: Authority, pair: Pair) -> None:
    for name, value in {**pair.environment, "SEMIEVOL_TLS_CA_FILE": str(ca.file), "SEMIEVOL_TOKEN": "t"}.items():
        monkeypatch.setenv(name, value)
    shown = access()
    assert shown.ca == ca.file.read_bytes()
    assert shown.pair == (pair.key.read_bytes(), pair.certificate.read_bytes())
    assert shown.metadata == (("authorization", "Bearer t"),)
    assert protection().certificate is not None


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEMIEVOL_TLS_CA_FILE", "SEMIEVOL_TLS_REQUIRE_CLIENT_CERT", "SEMIEVOL_AUTH_TOKENS_FILE"):
        monkeypatch.setenv(name, "")
    assert access().ca == b""
    assert protection().tokens is None


def wrong(**settings: object) -> str:
    one = SecuritySettings(**settings)  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidInput) as caught:
        assert protection(one) is access(one)
    return caught.value.message


def test_what_belongs_together_is_asked_for(tmp_path: Path, ca: Authority, pair: Pair) -> None:
    assert "set both" in wrong(tls_cert_file=pair.certificate)
    assert "set both" in wrong(tls_key_file=pair.key)
    assert "SEMIEVOL_TLS_REQUIRE_CLIENT_CERT needs" in wrong(tls_require_client_cert=True, tls_ca_file=ca.file)


def test_a_file_that_cannot_be_used_is_named_with_what_is_wrong(tmp_path: Path, ca: Authority, pair: Pair) -> None:
    missing, empty, nonsense = tmp_path / "missing", tmp_path / "empty", tmp_path / "nonsense"
    empty.touch()
    nonsense.write_text("no certificate")
    assert f"SEMIEVOL_TLS_CA_FILE, {missing}, cannot be read" in wrong(tls_ca_file=missing)
    assert "holds no certificates" in wrong(tls_ca_file=nonsense)
    assert "holds no certificates" in wrong(tls_ca_file=empty)
    assert f"{nonsense} and {pair.key} are no certificate" in wrong(tls_cert_file=nonsense, tls_key_file=pair.key)
    others = ca.issue("others")
    assert "KEY_VALUES_MISMATCH" in wrong(tls_cert_file=pair.certificate, tls_key_file=others.key)
    assert f"SEMIEVOL_AUTH_TOKENS_FILE, {missing}, cannot be read" in wrong(auth_tokens_file=missing)
    assert "is empty; write one token a line" in wrong(auth_tokens_file=empty)
    assert "which no client can send" in wrong(auth_tokens="a token")
    assert f"SEMIEVOL_TOKEN_FILE, {empty}, is empty" in wrong(token_file=empty)


def test_a_value_of_another_type_is_the_users_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMIEVOL_TLS_REQUIRE_CLIENT_CERT", "perhaps")
    with pytest.raises(errors.InvalidInput, match="SEMIEVOL_TLS_REQUIRE_CLIENT_CERT cannot be used"):
        security.settings()


def test_services_in_one_process_need_both_sides(ca: Authority, pair: Pair) -> None:
    both = {"tls_ca_file": ca.file, "tls_cert_file": pair.certificate, "tls_key_file": pair.key}
    check_whole(SecuritySettings())
    check_whole(SecuritySettings(**both))
    for missing in ("tls_ca_file", "tls_cert_file"):
        rest = {name: value for name, value in both.items() if name != missing}
        with pytest.raises(errors.InvalidInput, match="set both"):
            check_whole(SecuritySettings(**rest))


def test_secrets_are_not_shown(pair: Pair, ca: Authority) -> None:
    one = SecuritySettings(token="hidden-1", auth_tokens="hidden-2", tls_ca_file=ca.file, **_files(pair))
    assert "hidden" not in f"{one!r}"
    assert pair.key.read_text().splitlines()[1] not in f"{access(one)!r}"


def _files(pair: Pair) -> dict[str, Path]:
    return {"tls_cert_file": pair.certificate, "tls_key_file": pair.key}


@pytest.mark.parametrize(
    ("host", "private"),
    [
        ("127.0.0.1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("[::]", False),
        ("10.1.2.3", False),
        ("", False),
    ],
)
def test_loopback_is_known(host: str, private: bool) -> None:
    assert security.is_loopback(host) is private
