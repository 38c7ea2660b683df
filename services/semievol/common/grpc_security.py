"""Certificates and tokens (`semievol.common.security`) in gRPC's terms: credentials, the check of every call, and what failed handshakes mean."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
from grpc_status import rpc_status

from semievol.common import errors
from semievol.common.grpc_errors import to_status
from semievol.common.security import Access, Protection, Tokens, is_loopback

log = logging.getLogger(__name__)

_OPEN = "/grpc.health.v1.Health/"  # probes carry no token; what it tells is no secret
_NONE = errors.NotAuthenticated(
    "This server asks for a token, and none was sent: set SEMIEVOL_TOKEN or SEMIEVOL_TOKEN_FILE (metadata `authorization: Bearer TOKEN`)."
)
_WRONG = errors.NotAuthenticated(
    "This server does not know the token that was sent: set SEMIEVOL_TOKEN or SEMIEVOL_TOKEN_FILE to one of those that it knows."
)


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Refuses calls without a known token, whatever they ask for: also methods that do not exist, and reflection. Health alone is open.

    The first of a server's interceptors, since those behind it are asked for a method's handler once, not with every call."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        if details.method.startswith(_OPEN):
            return await continuation(details)
        sent = next((value for name, value in details.invocation_metadata or () if name == "authorization"), "")
        scheme, _, token = str(sent).partition(" ")
        if not token:
            return _REFUSE_NONE
        if self._tokens.know(token.strip()) and scheme.lower() == "bearer":
            return await continuation(details)
        log.warning("%s refused: the caller's token is not known", details.method)
        return _REFUSE_WRONG


def _refusing(error: errors.SemiEvolError) -> Any:
    """A handler that refuses before it reads anything, and that fits calls of every kind."""

    async def refuse(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.abort_with_status(rpc_status.to_status(to_status(error)))

    return grpc.stream_stream_rpc_method_handler(refuse)


_REFUSE_NONE, _REFUSE_WRONG = _refusing(_NONE), _refusing(_WRONG)


def server_credentials(protection: Protection) -> grpc.ServerCredentials | None:
    """None for plaintext. A certificate that changes is used from the next connection on."""
    certificate = protection.certificate
    if certificate is None:
        return None
    ca = protection.client_ca or None
    in_use = certificate.value

    def configuration() -> Any:
        return grpc.ssl_server_certificate_configuration([in_use], root_certificates=ca)

    def renewed() -> Any:
        nonlocal in_use
        if certificate.value == in_use:
            return None
        in_use = certificate.value
        return configuration()

    return grpc.dynamic_ssl_server_credentials(configuration(), renewed, require_client_authentication=ca is not None)


def channel_credentials(access: Access) -> grpc.ChannelCredentials | None:
    """None for plaintext."""
    if not access.ca:
        return None
    key, chain = access.pair or (None, None)
    return grpc.ssl_channel_credentials(access.ca, key, chain)


def channel_options(access: Access) -> list[tuple[str, Any]]:
    return [("grpc.ssl_target_name_override", access.server_name)] if access.ca and access.server_name else []


def warn_if_open(public: Sequence[str], address: str, protection: Protection) -> None:
    """Says loudly what a server that others reach does without. `public`: its services that are meant to be reached from outside."""
    if not public or is_loopback(address.rpartition(":")[0]):
        return
    names = " and ".join(public)
    if protection.tokens is None:
        log.warning(
            "%s IS OPEN: %s is reached from other machines, and no token is set, so whoever reaches it may do everything. Set "
            "SEMIEVOL_AUTH_TOKENS_FILE or SEMIEVOL_AUTH_TOKENS, or listen on 127.0.0.1.",
            names,
            address,
        )
    if protection.certificate is None:
        log.warning(
            "%s SPEAKS PLAINTEXT: %s is reached from other machines, and whoever is on the way can read and change what is sent, tokens "
            "included. Set SEMIEVOL_TLS_CERT_FILE and SEMIEVOL_TLS_KEY_FILE, or listen on 127.0.0.1.",
            names,
            address,
        )


# What gRPC says of a connection that was not made -> whether it is about trust, what is wrong, and what to do.
_HANDSHAKES = (
    (r"certificate has expired", True, "shows a certificate that has expired", "renew it"),
    (r"certificate is not yet valid", True, "shows a certificate that is not valid yet", "compare the clocks of both machines"),
    (
        r"CERTIFICATE_VERIFY_FAILED",
        True,
        "shows a certificate of a CA that is not trusted here",
        "set SEMIEVOL_TLS_CA_FILE to the certificate of the CA that signed it",
    ),
    (
        r"Hostname Verification Check failed",
        True,
        "shows a certificate for another name",
        "call it by a name in the certificate, or set SEMIEVOL_TLS_SERVER_NAME to one",
    ),
    (r"WRONG_VERSION_NUMBER", False, "speaks no TLS", "unset SEMIEVOL_TLS_CA_FILE, or give the server a certificate"),
)


def handshake_error(detail: str, where: str, access: Access) -> errors.Unavailable | None:
    """What the words of a failed call, which gRPC itself wrote, say about certificates; None: nothing."""
    for pattern, trust, wrong, advice in _HANDSHAKES:
        if re.search(pattern, detail):
            return (errors.NotTrusted if trust else errors.Unavailable)(f"{where} {wrong}; {advice}.")
    if "failed to connect" not in detail or "Socket closed" not in detail:
        return None
    if not access.ca:
        hint = "if it speaks TLS, set SEMIEVOL_TLS_CA_FILE to the certificate of its CA"
    elif access.pair is None:
        hint = "if it asks for a client's certificate, set SEMIEVOL_TLS_CERT_FILE and SEMIEVOL_TLS_KEY_FILE"
    else:
        hint = "if it does work, it does not take the certificate of SEMIEVOL_TLS_CERT_FILE"
    # no NotTrusted: something on the way, a port-forward for one, closes connections like this while a server is being started again
    return errors.Unavailable(f"{where} closes connections at once. Is it running? And {hint}.")
