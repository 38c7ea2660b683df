"""Composition root of the door: `python -m semievol.door.server` runs it alone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from semievol.common import errors, security
from semievol.door.settings import DoorSettings

if TYPE_CHECKING:
    from semievol.door.parts import Parts

log = logging.getLogger(__name__)

_LOADING_S = 0.01  # how often is looked whether it listens
_LAST_WORDS_S = 2.0  # for those whose requests are cut off to hear so
_RENEW_S = 5.0  # how often, whether the certificate has been replaced


class Door:
    """The HTTP server, on the event loop on which it is started. `url`: what clients take as their base URL.

    It listens before the services behind it do, and says what they say of themselves at /health. It speaks HTTPS with the certificate that the
    suite's servers have (`semievol.common.security`), but asks nobody for one: its clients show keys, and probes have neither."""

    def __init__(self, settings: DoorSettings) -> None:
        self._settings = settings
        self._parts: Parts | None = None
        self._server: Any = None
        self._task: asyncio.Task[None] | None = None
        self._renewal: asyncio.Task[None] | None = None
        self.app: Any = None
        self.url = ""

    async def start(self) -> None:
        """Raises NotSupported (a library is missing), Unavailable (the port is in use), and as `DoorSettings.keys` and `security.protection`."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        app_module, uvicorn = _libraries()
        environment = security.settings()
        certificate = security.protection(environment).certificate
        files = (environment.tls_cert_file, environment.tls_key_file) if certificate else (None, None)
        self._parts = _parts(self._settings)
        self.app = app_module.make_app(self._parts)
        listener = _listen(self._settings.address)
        host, port = listener.getsockname()[:2]
        _warn(host, keys=bool(self._settings.keys()), encrypted=certificate is not None)
        config = uvicorn.Config(
            self.app,
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=int(self._settings.grace_s),
            ssl_certfile=files[0],
            ssl_keyfile=files[1],
        )
        self._server = _quiet(uvicorn)(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]))
        while not self._server.started:
            if self._task.done():
                await self._task
                raise errors.InternalError("The HTTP server ended before it began.")
            await asyncio.sleep(_LOADING_S)
        if certificate is not None:
            self._renewal = asyncio.create_task(_renew(config.ssl, certificate, files))
        scheme = "https" if certificate else "http"
        self.url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/v1"

    async def stop(self) -> None:
        """Takes no more requests; those in flight may finish for `grace_s` seconds, and are told so if they do not."""
        if self._renewal is not None:
            self._renewal.cancel()
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await self._task
            if cut_off := set(self._server.server_state.tasks):
                await asyncio.wait(cut_off, timeout=_LAST_WORDS_S)
        if self._parts is not None:
            await self._parts.generation.close()
            if self._parts.embedding is not None:
                await self._parts.embedding.close()


def _libraries() -> tuple[Any, Any]:
    """The app's module and uvicorn: an extra, so imported when they are needed."""
    try:
        import uvicorn

        from semievol.door import app
    except ImportError as error:
        raise errors.NotSupported(
            f"The OpenAI-compatible API needs the package {error.name}: pip install 'semievol[door]'."
        ) from error
    return app, uvicorn


def _parts(settings: DoorSettings) -> Parts:
    from semievol.client.asynchronous import AsyncEmbeddingClient, AsyncGenerationClient
    from semievol.door.metrics import Metrics
    from semievol.door.parts import Parts

    return Parts(
        settings,
        AsyncGenerationClient(settings.generation, deadline_s=settings.deadline_s),
        AsyncEmbeddingClient(settings.embedding, deadline_s=settings.deadline_s) if settings.embedding else None,
        Metrics(),
        int(time.time()),
    )


def _quiet(uvicorn: Any) -> Any:
    """uvicorn's server without hands on the process's signals: those are for whoever runs it."""

    class Server(uvicorn.Server):  # type: ignore[misc]
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    return Server


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, int(port)), family=family, backlog=2048)
    except (OSError, ValueError, OverflowError) as error:
        raise errors.Unavailable(
            f"Cannot listen at the address {address}: {errors.first_line(error)}; give another one.", field="address"
        ) from error


async def _renew(context: ssl.SSLContext, certificate: security.Reread[security.Pair], files: tuple[Any, Any]) -> None:
    """Takes up a certificate that was replaced, for connections from then on."""
    in_use = certificate.value
    while True:
        await asyncio.sleep(_RENEW_S)
        if certificate.value != in_use:
            in_use = certificate.value
            with contextlib.suppress(OSError):  # replaced again in between: the next look takes that up
                context.load_cert_chain(*files)


def _warn(host: str, *, keys: bool, encrypted: bool) -> None:
    if security.is_loopback(host):
        return
    if not keys:
        log.warning(
            "THE DOOR IS OPEN: %s is reached from other machines, and no API key is set, so whoever reaches it may use every model. "
            "Set SEMIEVOL_DOOR_API_KEYS or SEMIEVOL_DOOR_API_KEYS_FILE, or listen on 127.0.0.1.",
            host,
        )
    if not encrypted:
        log.warning(
            "THE DOOR SPEAKS PLAINTEXT: %s is reached from other machines, and whoever is on the way can read what is sent, keys included. "
            "Set SEMIEVOL_TLS_CERT_FILE and SEMIEVOL_TLS_KEY_FILE, put a proxy that speaks TLS before it, or listen on 127.0.0.1.",
            host,
        )


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    try:
        asyncio.run(_serve(DoorSettings()))
    except errors.SemiEvolError as error:
        log.error("%s: %s", type(error).__name__, error.message)
        sys.exit(error.exit_code)


async def _serve(settings: DoorSettings) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    door = Door(settings)
    try:
        await door.start()
        log.info("The OpenAI-compatible API is at %s", door.url)
        await stop.wait()
    finally:
        await door.stop()


if __name__ == "__main__":
    main()
