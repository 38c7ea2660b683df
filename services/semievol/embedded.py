"""All services of one machine in one process, on loopback: the composition root of embedded mode.

The code is the cluster's; only settings differ: a local artifact directory, Milvus Lite, transformers, jobs in threads or child
processes. What the process keeps is in its home:

    artifacts/   steps, blobs, runs, models, aliases (the store)      cache/       prepared base models, fetched adapters, checkpoints
    models/      models as plain PEFT directories                      jobs/        records and logs of child processes
    milvus.db    labeled vectors (a cache)                             services.json  addresses, while the services are at work

The store and Milvus may be elsewhere (`semievol.homes`, which remembers where in backends.json).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import threading
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import filelock

from semievol import homes
from semievol.common import errors, security
from semievol.common.endpoints import is_url
from semievol.common.grpc_server import Server, Service
from semievol.ports import Embedder, Launcher

if TYPE_CHECKING:
    from semievol.door.server import Door
    from semievol.door.settings import DoorSettings

log = logging.getLogger(__name__)

T = TypeVar("T")

SERVICES = ("embedding", "retrieval", "generation", "judging", "training", "controller", "router")
_DOOR_PORT = 7  # places after the first port
_START_S = 600.0  # a base model may have to be prepared or downloaded first
_STOP_S = 60.0
_DEFAULT_MAX_TOKENS = 1024  # of a chat through the door that names no limit, where one reply is written at a time
_LOOK_EVERY_S = 10.0  # at an engine in the same process, which does not go away alone
_SERVED_ADAPTERS = 1000  # what is kept in memory of them is the engine's own decision (GenerationSettings.merged_models)


@dataclass(frozen=True)
class EmbeddedSettings:
    """`engine`: transformers, vllm, or the URL of an OpenAI-compatible endpoint that serves `model`. `trainer`: peft, or openai, where that
    endpoint trains, too, and nothing is computed here. `launcher`: inline (threads) or subprocess (child processes). `port`: the first
    of eight; 0 means any free ones.

    `store` (s3://BUCKET/PREFIX, a directory) and `milvus` (http://HOST:PORT, a .db file): what `homes.backends` makes of them.
    `lasting`: other commands may give these services work, and clients of the OpenAI API too; without it they end with the command that
    started them."""

    home: Path
    model: str = "bundled:smollm2-135m"
    embedding: str = "bundled:minilm-l6"
    engine: str = "transformers"
    placement: str = "auto"
    launcher: str = "inline"
    port: int = 0
    lasting: bool = False
    store: str = ""
    milvus: str = ""
    trainer: str = "peft"

    @property
    def endpoint(self) -> str:
        """URL of the endpoint that answers; empty where an engine of our own does."""
        return self.engine if is_url(self.engine) else ""

    @property
    def endpoint_alone(self) -> bool:
        return bool(self.endpoint) and self.trainer == "openai"


class Embedded:
    """Starts the services when entered and stops them when left. `addresses`: service -> host:port. `openai_url`: base URL of the OpenAI-compatible
    API; empty where it is not served, and then `openai_missing` says why, if somebody could expect it.

    `only`: the controller alone, to read state, or generation with its router, to ask a model: they need no others. They take no lock, and
    nobody else finds them. `exclusive`: it does take the lock, since it will change what a run at work relies on. `vectors`: with the
    home's vector store beside it, if it has one that can be reached.
    """

    def __init__(
        self,
        settings: EmbeddedSettings,
        *,
        only: Literal["", "controller", "generation"] = "",
        exclusive: bool = False,
        vectors: bool = False,
    ) -> None:
        self._settings = settings
        self._only = only
        self._exclusive = exclusive or not only
        self._vectors = vectors
        self._home = settings.home.expanduser().absolute()
        self._backends = homes.backends(self._home, settings.store, settings.milvus)
        self._lock = filelock.FileLock(self._home / "lock")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="grpc", daemon=True)
        self._servers: list[Server] = []
        self._jobs: Launcher | None = None
        self._addresses: dict[str, str] = {}
        self._door: Door | None = None
        self.openai_url = ""
        self.openai_missing = ""

    @property
    def addresses(self) -> Mapping[str, str]:
        return self._addresses

    def __enter__(self) -> Embedded:
        """Raises Busy (another process drives this home), StorageError, InvalidInput (half of TLS is set), or what a service's start raises."""
        security.check_whole()
        self._prepare_home()
        self._thread.start()
        try:
            if self._only == "controller":
                if self._vectors:
                    self._try_vectors()
                self._start("controller", self._controller())
            elif self._only == "generation":
                self._start("generation", self._generation())
                self._start("router", self._router())
            else:
                self._start_all()
                if self._settings.lasting:
                    self._open_door()
                self._publish_addresses()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    # -------------------------------------------------------------- start and stop

    def _prepare_home(self) -> None:
        try:
            self._home.mkdir(parents=True, exist_ok=True)
            if self._exclusive:
                self._lock.acquire(timeout=0)
        except filelock.Timeout as error:
            holder = read_addresses(self._home)
            raise in_use(self._home, holder) from error
        except OSError as error:
            raise errors.StorageError(
                f"The home {self._home} cannot be written: {error.strerror}. Give another --home."
            ) from error

    def _start_all(self) -> None:
        # Heavy imports come in only here: reading state must not wait for torch.
        from semievol.common.stores import open_store
        from semievol.common.stores.probe import probe
        from semievol.embedding import server as embedding
        from semievol.embedding.settings import EmbeddingSettings

        probe(open_store(self._store_uri))  # before minutes are spent on models
        one = self._settings
        self._start("embedding", embedding.service(EmbeddingSettings(model=one.embedding)))
        self._start("retrieval", self._retrieval())
        self._start("generation", self._generation())
        self._start("judging", self._judging())
        self._start("training", self._training())
        self._start("controller", self._controller())
        self._start("router", self._router())

    def _try_vectors(self) -> None:
        if not self._backends.milvus and not Path(self._backends.milvus_uri(self._home)).exists():
            return
        try:
            self._start("retrieval", self._retrieval())
        except errors.SemiEvolError as error:
            log.warning("The home's vector store is left out: %s", error.message)

    def _retrieval(self) -> Service:
        from semievol.retrieval import server
        from semievol.retrieval.settings import RetrievalSettings

        return server.service(RetrievalSettings(uri=self._backends.milvus_uri(self._home)))

    def _generation(self) -> Service:
        from semievol.generation import server
        from semievol.generation.settings import GenerationSettings

        one = self._settings
        said: dict[str, Any] = {"endpoint_only": True} if one.endpoint_alone else {}  # else the environment may say so
        said |= {"backend": "vllm", "placement": one.placement} if one.engine == "vllm" else {}
        settings = GenerationSettings(
            endpoint=one.endpoint,
            model=one.model,
            store=self._store_uri,
            cache=self._home / "cache",
            **said,
        )
        return server.service(settings)

    def _router(self) -> Service:
        from semievol.generation.router import server
        from semievol.generation.router.settings import RouterSettings

        # runs at work use the same engine, and must not lose an adapter that somebody was curious about
        return server.service(
            RouterSettings(
                store=self._store_uri,
                engines=(self._addresses["generation"],),
                max_adapters=_SERVED_ADAPTERS,
                check_every_s=_LOOK_EVERY_S,
            )
        )

    def _judging(self) -> Service:
        from semievol.client.generation import GenerationClient
        from semievol.judging import server
        from semievol.judging.settings import JudgingSettings

        return server.service(JudgingSettings(), GenerationClient(self._addresses["generation"]))

    def _training(self) -> Service:
        from semievol.common.artifacts import Artifacts
        from semievol.common.stores import open_store
        from semievol.training import server
        from semievol.training.settings import TrainingSettings

        there: dict[str, Any] = {"endpoint": self._settings.endpoint} if self._settings.endpoint_alone else {}
        settings = TrainingSettings(
            store=self._store_uri,
            cache=self._home / "cache",
            checkpoints=self._home / "cache" / "checkpoints",
            **there,
        )
        return server.service(settings, self._launcher(), Artifacts(open_store(self._store_uri)))

    def _controller(self) -> Service:
        from semievol.controller import server

        settings = self._controller_settings()
        return server.service(settings, server.controller(settings, self._launcher(), self._addresses))

    def _controller_settings(self) -> Any:
        from semievol.controller.settings import ControllerSettings

        return ControllerSettings(
            store=self._store_uri,
            models_directory=self._home / "models",
            jobs_directory=self._home / "jobs",
            launcher=self._settings.launcher,
            resume_on_start=False,
            probe_store=False,  # done already, or somebody only reads
        )

    def _launcher(self) -> Launcher:
        from semievol.controller import server

        if self._jobs is None:
            self._jobs = server.launcher(self._controller_settings())
        return self._jobs

    def _start(self, name: str, service: Service) -> None:
        port = self._settings.port + SERVICES.index(name) if self._settings.port else 0
        server = self._run(_serving(service, f"127.0.0.1:{port}"), _START_S)
        self._servers.append(server)
        self._addresses[name] = server.address

    def _open_door(self) -> None:
        """Without its libraries everything else works all the same. Keys and limits: as `DoorSettings` finds them in the environment."""
        from semievol.door.server import Door
        from semievol.door.settings import DoorSettings

        port = self._settings.port + _DOOR_PORT if self._settings.port else 0
        router, embedding = self._addresses["router"], self._addresses["embedding"]
        asked = DoorSettings(address=f"127.0.0.1:{port}", generation=router, embedding=embedding)
        door = Door(bounded(asked, self._settings.engine))
        try:
            self._run(door.start(), _START_S)
        except errors.NotSupported as error:
            self.openai_missing = error.message
            return
        self._door, self.openai_url = door, door.url

    def _stop(self) -> None:
        with contextlib.suppress(OSError):
            if self._lock.is_locked and not self._only:
                (self._home / _ADDRESSES).unlink(missing_ok=True)
        if self._door is not None:
            with contextlib.suppress(Exception):
                self._run(self._door.stop(), _STOP_S)
        for server in reversed(self._servers):  # those first that use the others
            with contextlib.suppress(Exception):
                self._run(server.stop(), _STOP_S)
        if self._jobs is not None:
            self._jobs.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._lock.release()

    def _run(self, coroutine: Coroutine[Any, Any, T], timeout_s: float) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout_s)

    # -------------------------------------------------------------- who and where

    @property
    def _store_uri(self) -> str:
        return self._backends.store_uri(self._home)

    def _publish_addresses(self) -> None:
        body = {
            "pid": os.getpid(),
            "addresses": self._addresses,
            "openai_url": self.openai_url,
            "model": self._settings.model,
            "embedding": self._settings.embedding,
            "engine": self._settings.engine,
            "trainer": self._settings.trainer,
            "lasting": self._settings.lasting,
            "store": self._backends.store,
            "milvus": self._backends.milvus,
        }
        homes.remember(self._home, self._backends)
        homes.write(self._home / _ADDRESSES, body)


def embedder(model: str) -> Embedder:
    """The embedding backend in this process, for a command that needs no other service. Raises as the backend's constructor."""
    from semievol.embedding import server
    from semievol.embedding.settings import EmbeddingSettings

    return server.embedder(EmbeddingSettings(model=model))


async def _serving(service: Service, address: str) -> Server:
    """A started server. It belongs to the event loop on which it is made."""
    server = Server([service], address)
    await server.start()
    return server


_ADDRESSES = "services.json"


def read_addresses(home: Path) -> dict[str, Any] | None:
    """What services.json says: pid, addresses, models, backends, lasting; None where no services are at work on this home."""
    try:
        body: dict[str, Any] = json.loads((home.expanduser() / _ADDRESSES).read_text())
        os.kill(body["pid"], 0)
    except (OSError, ValueError, KeyError):
        return None
    return body


def in_use(home: Path, holder: Mapping[str, Any] | None) -> errors.Busy:
    """`holder`: what services.json says."""
    who = f"process {holder['pid']}" if holder else "another process"
    return errors.Busy(f"The home {home} is in use by {who}; wait for it, end it, or give another --home.")


def bounded(settings: DoorSettings, engine: str) -> DoorSettings:
    """With a limit for chats that name none, where neither anybody set one nor replies are written side by side: one that goes on until the
    model has no room left would keep everybody waiting for minutes."""
    if engine != "transformers" or "default_max_tokens" in settings.model_fields_set:
        return settings
    return settings.model_copy(update={"default_max_tokens": _DEFAULT_MAX_TOKENS})
