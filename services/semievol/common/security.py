"""Who may call whom, and who can read it on the way: certificates and tokens, as the environment of every process names them.

Nothing is on by default, since embedded mode is on loopback. Files are read anew when they have changed, so that certificates and tokens
are replaced without a restart (Kubernetes swaps what it mounts from a Secret). What gRPC makes of all this: `semievol.common.grpc_security`.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import ipaddress
import logging
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from semievol.common import errors

log = logging.getLogger(__name__)

T = TypeVar("T")
Pair = tuple[bytes, bytes]  # a private key and its certificate chain, both PEM

_LOOK_EVERY_S = 1.0  # at the files: a call must not wait for a disk each time


class SecuritySettings(BaseSettings):
    """Environment variables SEMIEVOL_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="SEMIEVOL_", env_ignore_empty=True, frozen=True)

    tls_cert_file: Path | None = None
    """This process's certificate, with the chain up to its CA (PEM). Its servers speak TLS then."""

    tls_key_file: Path | None = None
    """The certificate's private key (PEM), without a passphrase."""

    tls_ca_file: Path | None = None
    """Certificates of the CAs that are trusted (PEM). All channels of this process are TLS then."""

    tls_server_name: str = ""
    """The name that servers' certificates are checked for; empty: the host in the address. For servers that are called by an IP address."""

    tls_require_client_cert: bool = False
    """Whether gRPC servers talk only to clients with a certificate of that CA. Clients show `tls_cert_file` wherever it is set."""

    auth_tokens: SecretStr = SecretStr("")
    """Tokens that open controller and router, separated by commas: several, so that one can be replaced while the other is in use."""

    auth_tokens_file: Path | None = None
    """A file with such tokens, one a line, in addition."""

    token: SecretStr = SecretStr("")
    """The token that this process shows to the services that it calls."""

    token_file: Path | None = None
    """A file that holds it, instead."""

    health_address: str = ""
    """Where a server also answers health checks, and those alone, in plaintext; empty: nowhere."""

    @field_validator("tls_cert_file", "tls_key_file", "tls_ca_file", "auth_tokens_file", "token_file")
    @classmethod
    def _expanded(cls, value: Path | None) -> Path | None:
        return value.expanduser() if value else None


def settings() -> SecuritySettings:
    """Raises InvalidInput: a variable holds what it cannot hold."""
    try:
        return SecuritySettings()
    except ValidationError as error:
        first = error.errors()[0]
        name = f"SEMIEVOL_{str(first['loc'][0]).upper()}"
        raise errors.InvalidInput(f"{name} cannot be used: {first['msg']}.") from error


class Reread(Generic[T]):
    """What `read` makes of files, made anew when one of them has changed. A change that cannot be read leaves what was there before."""

    def __init__(self, files: Sequence[Path], read: Callable[[], T]) -> None:
        self._files, self._read = files, read
        self._stamps = self._look()
        self._value = read()
        self._next_look = time.monotonic() + _LOOK_EVERY_S

    @property
    def value(self) -> T:
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + _LOOK_EVERY_S
            stamps = self._look()
            if stamps != self._stamps:
                self._take(stamps)
        return self._value

    def _take(self, stamps: list[object]) -> None:
        names = " and ".join(map(str, self._files))
        try:
            self._value = self._read()
            log.info("%s changed and was read anew", names)
        except errors.SemiEvolError as error:
            log.error("%s changed, and what was there before stays in use: %s", names, error.message)
        self._stamps = stamps  # a broken file is complained of once

    def _look(self) -> list[object]:
        return [_stamp(file) for file in self._files]


def _stamp(file: Path) -> object:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


# ---------------------------------------------------------------- what a server asks of its callers


class Tokens:
    """Those that open a public door. Digests are compared, all of them each time: how long that takes tells nothing."""

    def __init__(self, listed: Sequence[str], file: Path | None) -> None:
        def read() -> list[bytes]:
            return _digests([*listed, *(_token_lines(file) if file else ())])

        self._known = Reread([file] if file else [], read)

    def know(self, token: str) -> bool:
        digest = _digest(token)
        return any([hmac.compare_digest(digest, one) for one in self._known.value])


def _digests(tokens: Iterable[str]) -> list[bytes]:
    return [_digest(_sendable(token)) for token in tokens]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _sendable(token: str) -> str:
    if not token.isascii() or not token.isprintable() or " " in token:
        raise errors.InvalidInput("A token holds spaces or letters beyond ASCII, which no client can send.")
    return token


def _token_lines(file: Path) -> list[str]:
    lines = [line.strip() for line in _text(file, "SEMIEVOL_AUTH_TOKENS_FILE").splitlines()]
    if not any(lines):  # the door would stand open
        raise errors.InvalidInput(f"The file of SEMIEVOL_AUTH_TOKENS_FILE, {file}, is empty; write one token a line.")
    return [line for line in lines if line]


@dataclass(frozen=True)
class Protection:
    """Of a server. `certificate`: None for plaintext; `client_ca`: whose clients it talks to, empty for everybody's; `tokens`: those that open
    its public services, None where these stand open."""

    certificate: Reread[Pair] | None = None
    client_ca: bytes = b""
    tokens: Tokens | None = None


def protection(found: SecuritySettings | None = None) -> Protection:
    """What the environment asks for. Raises InvalidInput: a file cannot be used, or half of what belongs together is missing."""
    one = found or settings()
    pair = _pair(one)
    if one.tls_require_client_cert and not (pair and one.tls_ca_file):
        raise errors.InvalidInput(
            "SEMIEVOL_TLS_REQUIRE_CLIENT_CERT needs SEMIEVOL_TLS_CERT_FILE, SEMIEVOL_TLS_KEY_FILE and SEMIEVOL_TLS_CA_FILE."
        )
    listed = [token.strip() for token in one.auth_tokens.get_secret_value().split(",") if token.strip()]
    return Protection(
        pair,
        _ca(one.tls_ca_file) if one.tls_require_client_cert and one.tls_ca_file else b"",
        Tokens(listed, one.auth_tokens_file) if listed or one.auth_tokens_file else None,
    )


# ---------------------------------------------------------------- what a client shows, and whom it trusts


def _no_token() -> str:
    return ""


@dataclass(frozen=True)
class Access:
    """Of a client. `ca`: whom it trusts, empty for plaintext; `pair`: its own key and certificate; `token`: what it shows, anew with every
    call; `server_name`: what certificates are checked for, empty for the address's host; `via`: how messages name the server, empty for its
    address."""

    ca: bytes = b""
    pair: Pair | None = field(default=None, repr=False)
    token: Callable[[], str] = field(default=_no_token, repr=False)
    server_name: str = ""
    via: str = ""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...] | None:
        """Of a call."""
        token = self.token()
        return (("authorization", f"Bearer {token}"),) if token else None


PLAINTEXT = Access()


def access(found: SecuritySettings | None = None) -> Access:
    """What the environment says. Raises as `protection`."""
    one = found or settings()
    if one.tls_ca_file is None:
        return Access(token=_token(one))
    pair = _pair(one)
    return Access(_ca(one.tls_ca_file), pair.value if pair else None, _token(one), one.tls_server_name)


def _token(one: SecuritySettings) -> Callable[[], str]:
    value = one.token.get_secret_value().strip()
    if value:
        return functools.partial(str, _sendable(value))
    if one.token_file is None:
        return _no_token
    file = one.token_file

    def read() -> str:
        token = _text(file, "SEMIEVOL_TOKEN_FILE").strip()
        if not token:
            raise errors.InvalidInput(f"The file of SEMIEVOL_TOKEN_FILE, {file}, is empty.")
        return _sendable(token)

    watched = Reread([file], read)
    return lambda: watched.value


def check_whole(found: SecuritySettings | None = None) -> None:
    """For a process that calls its own servers. Raises InvalidInput: one side would speak TLS and the other would not."""
    one = found or settings()
    if bool(one.tls_ca_file) != bool(one.tls_cert_file):
        there, missing = ("CA", "CERT") if one.tls_ca_file else ("CERT", "CA")
        raise errors.InvalidInput(
            f"SEMIEVOL_TLS_{there}_FILE is set and SEMIEVOL_TLS_{missing}_FILE is not, but services in one process call one another: set "
            "both (and the key), or neither."
        )


def is_address(host: str) -> bool:
    """Whether this is an IP address, not a name."""
    return _ip(host) is not None


def is_loopback(host: str) -> bool:
    """Whether nobody beyond this machine reaches what listens there."""
    address = _ip(host)
    return address.is_loopback if address else host.strip("[]") == "localhost"


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


# ---------------------------------------------------------------- files


def _pair(one: SecuritySettings) -> Reread[Pair] | None:
    certificate, key = one.tls_cert_file, one.tls_key_file
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise errors.InvalidInput("SEMIEVOL_TLS_CERT_FILE and SEMIEVOL_TLS_KEY_FILE belong together: set both, or neither.")
    return Reread([certificate, key], lambda: _read_pair(certificate, key))


def _read_pair(certificate: Path, key: Path) -> Pair:
    chain, private = _text(certificate, "SEMIEVOL_TLS_CERT_FILE"), _text(key, "SEMIEVOL_TLS_KEY_FILE")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, OSError, ValueError) as error:
        why = getattr(error, "reason", None) or errors.first_line(error)
        raise errors.InvalidInput(
            f"{certificate} and {key} are no certificate with its private key (PEM, without a passphrase): {why}."
        ) from error
    return private.encode(), chain.encode()


def _ca(file: Path) -> bytes:
    text = _text(file, "SEMIEVOL_TLS_CA_FILE")
    check_ca(text.encode(), f"The file of SEMIEVOL_TLS_CA_FILE, {file},")
    return text.encode()


def check_ca(pem: bytes, what: str) -> None:
    """Raises InvalidInput: `what` holds no certificates."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise errors.InvalidInput(f"{what} holds no certificates of CAs (PEM).") from error


def _text(file: Path, name: str) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise errors.InvalidInput(f"The file of {name}, {file}, cannot be read: {errors.first_line(error)}.") from error
