"""Parts elsewhere that die or hang in the middle of a step: an embedding server, an endpoint, a Milvus server, an S3 store.

Each run is a real command in a process of its own, with the server's real backend. The server is taken away while a step is at work;
the command has to end with the address and what to do. Then the server is back, and the same command has to make the artifacts of an
undisturbed run.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from semievol.common.artifacts import Artifacts
from semievol.common.stores import open_store
from semievol.embedding.backends.fake import FakeEmbedder
from semievol.generation.backends.fake import FakeEngine
from semievol.ports import ObjectStore

from tests.fake_suite import knowing_script
from tests.faults.bench import Case, Ended, Place, finished, half_written
from tests.servers import Server
from tests.servers.milvus import MilvusServer, milvus_in
from tests.servers.openai_api import OpenAIDouble
from tests.servers.s3 import OWNER, minio_in
from tests.servers.tei import TeiDouble
from tests.servers.web import Call, HttpDouble
from tests.waiting import wait_until

ELSEWHERE = "Servers elsewhere"
TIMEOUT_S = 300.0  # clients and the command wait a minute for a server to come back
ONCE = {"SEMIEVOL_CONTROLLER_POLL_S": "0.01", "SEMIEVOL_CONTROLLER_MAX_ATTEMPTS": "1"}
HANGING_S = "1"  # how long a client waits for an answer
PATIENCE_S = "5"  # likewise, for servers that work slowly on a busy machine
ENDPOINT_ONLY = """\
in_weight: false
entropy_source: generated
"""


@dataclass
class Outage:
    """A run whose server goes away. `take_away` is called while the run is at work and returns when it is done; `bring_back` likewise."""

    place: Place
    take_away: Callable[[subprocess.Popen[str]], None]
    bring_back: Callable[[], None]
    environment: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    stores: dict[str, str] = field(default_factory=dict)  # run -> URI of its store, where that is no directory of the home

    def happens(self) -> Ended:
        """An undisturbed run, then one whose server goes away, then the same command. Returns how the disturbed one ended."""
        assert self._finished("calm").code == 0
        process = self._start("disturbed")
        self.take_away(process)
        ended = finished(process, TIMEOUT_S)
        assert ended.code, "the run ended well without its server"
        self.bring_back()
        calm, partial = self._manifests("calm"), self._manifests("disturbed")
        assert 0 < len(partial) < len(calm), f"{len(partial)} of {len(calm)} manifests were there when the server went"
        assert self._broken("disturbed") == []
        again = self._finished("disturbed")
        assert again.code == 0, again.stderr
        assert self._manifests("disturbed") == calm, "other artifacts than an undisturbed run's"
        assert self._broken("disturbed") == []
        return ended

    def _start(self, run: str) -> subprocess.Popen[str]:
        store = ("--store", self.stores[run]) if run in self.stores else ()
        arguments = ("run", "-f", self.place.run_file, "--home", self.home(run), *self.arguments, *store)
        return self.place.start(*arguments, **ONCE, **self.environment)

    def _finished(self, run: str) -> Ended:
        return finished(self._start(run), TIMEOUT_S)

    def home(self, run: str) -> Path:
        return self.place.directory / run

    def store(self, run: str) -> ObjectStore:
        return open_store(self.stores.get(run) or (self.home(run) / "artifacts").as_uri())

    def _manifests(self, run: str) -> dict[str, bytes]:
        return stored_manifests(self.store(run))

    def _broken(self, run: str) -> list[str]:
        """Manifests whose blobs are not what they say, and what writers left."""
        artifacts = Artifacts(self.store(run))
        bodies = [(path, json.loads(data)) for path, data in stored_manifests(artifacts.store).items()]
        broken = [path for path, body in bodies if artifacts.manifest(body["key"], body.get("shard")) is None]
        return broken + half_written(self.home(run))


def stored_manifests(store: ObjectStore) -> dict[str, bytes]:
    found = {}
    for info in store.list("steps/"):
        if info.path.endswith("/MANIFEST.json"):
            with store.open(info.path) as stream:
                found[info.path] = stream.read()
    return found


def made(directory: Path) -> Path:
    directory.mkdir()
    return directory


@contextlib.contextmanager
def own_place(place: Place, name: str) -> Iterator[Place]:
    own = Place(place.directory / name)
    try:
        yield own
    finally:
        shutil.rmtree(own.directory)


# ---------------------------------------------------------------- servers that speak HTTP


def at_call(server: HttpDouble, wanted: Callable[[Call], bool], nth: int, act: Callable[[], None]) -> Callable[[object], None]:
    """Arms the server: at the nth wanted call from now on, in the middle of it, `act` is done. The result waits for that."""

    def arm(process: object) -> None:
        done, lock, seen = threading.Event(), threading.Lock(), 0

        def trap(call: Call) -> None:
            nonlocal seen
            if not wanted(call):
                return
            with lock:
                seen += 1
                mine = seen == nth
            if mine:
                server.trap = None
                act()
                done.set()

        server.trap = trap
        assert done.wait(TIMEOUT_S), "the run never asked the server"

    return arm


def embeds_labeled_rows(call: Call) -> bool:
    return call.path == "/embed" and b" labeled thing " in call.body


def answers_rows(call: Call) -> bool:
    return call.path == "/v1/chat/completions" and b"unlabeled thing" in call.body


def embedding_server(name: str, act: Callable[[TeiDouble], None]) -> Callable[[Place], Ended]:
    """The labeled rows are embedded in three batches; it happens with the second."""

    def inject(place: Place) -> Ended:
        with own_place(place, name) as own, TeiDouble(FakeEmbedder(), max_client_batch_size=8).running() as server:
            own.run_file.write_text(own.run_file.read_text().replace("embedding: fake", f"embedding: {server.url}"))
            environment = {"SEMIEVOL_EMBEDDING_BACKEND": "tei", "SEMIEVOL_EMBEDDING_TIMEOUT_S": HANGING_S}
            taken = at_call(server, embeds_labeled_rows, 2, lambda: act(server))
            return Outage(own, taken, lambda: back(server), environment).happens()

    return inject


def endpoint(name: str, act: Callable[[OpenAIDouble], None]) -> Callable[[Place], Ended]:
    """Three collaborators ask for twenty rows; it happens in the middle of the second one's."""

    def inject(place: Place) -> Ended:
        engine = FakeEngine(knowing_script, base="fake")
        with own_place(place, name) as own, OpenAIDouble(engine).running() as server:
            text = own.run_file.read_text().replace(", test: test.csv", "")
            text = "".join(f"{line}\n" for line in text.splitlines() if not line.startswith("collaborators"))
            own.run_file.write_text(f"{text}collaborators: 3\nengine: {server.endpoint}\n{ENDPOINT_ONLY}")
            environment = {
                "SEMIEVOL_GENERATION_BACKEND": "openai",
                "SEMIEVOL_GENERATION_ENDPOINT_ONLY": "true",
                "SEMIEVOL_GENERATION_TIMEOUT_S": HANGING_S,
            }
            taken = at_call(server, answers_rows, 30, lambda: act(server))
            return Outage(own, taken, lambda: back(server), environment).happens()

    return inject


def back(server: HttpDouble) -> None:
    if server.hanging:
        server.wake()
    else:
        server.start()


# ---------------------------------------------------------------- Milvus, S3


def events(store: ObjectStore) -> Iterator[dict[str, Any]]:
    for info in store.list("runs/"):
        if "/events/" in info.path:
            with store.open(info.path) as stream:
                yield json.loads(stream.read())


def begun(store: ObjectStore, step: str) -> bool:
    return any(one["type"] == "step_started" and one["step"] == step for one in events(store))


def milvus(name: str, act: Callable[[MilvusServer], None], back: Callable[[MilvusServer], None]) -> Callable[[Place], Ended]:
    """It happens when the step begins that searches it; a search with Milvus' strong consistency takes a quarter of a second."""

    def inject(place: Place) -> Ended:
        with own_place(place, name) as own, milvus_in(own.directory / "server") as server:

            def taken(process: subprocess.Popen[str]) -> None:
                wait_until(lambda: begun(outage.store("disturbed"), "retrieve") or process.poll() is not None)
                act(server)

            environment = {"SEMIEVOL_RETRIEVAL_BACKEND": "milvus", "SEMIEVOL_RETRIEVAL_CALL_TIMEOUT_S": PATIENCE_S}
            outage = Outage(own, taken, lambda: back(server), environment, ("--milvus", server.uri))
            return outage.happens()

    return inject


def store(name: str, act: Callable[[Server], None], back: Callable[[Server], None]) -> Callable[[Place], Ended]:
    """It happens when the step begins in which collaborators answer, which has three shards."""

    def inject(place: Place) -> Ended:
        credentials = {"AWS_ACCESS_KEY_ID": OWNER[0], "AWS_SECRET_ACCESS_KEY": OWNER[1]}
        with (
            own_place(place, name) as own,
            mock.patch.dict(os.environ, credentials),
            minio_in(made(own.directory / "server")) as server,
        ):

            def taken(process: subprocess.Popen[str]) -> None:
                wait_until(lambda: begun(outage.store("disturbed"), "infer/warm-0") or process.poll() is not None)
                act(server.process)

            stores = {run: server.uri(server.bucket, run) for run in ("calm", "disturbed")}
            environment = {"SEMIEVOL_S3_TIMEOUT_S": PATIENCE_S}
            outage = Outage(own, taken, lambda: back(server.process), environment, stores=stores)
            return outage.happens()

    return inject


DEAD, HANGS = r"cannot be reached \(.*Start it, and continue", r"did not answer .*within 1 seconds"
remote = functools.partial(Case, ELSEWHERE)
REMOTE_CASES = [
    remote("the embedding server dies in the middle of index", (69,), DEAD, embedding_server("dead-tei", HttpDouble.die)),
    remote("the embedding server hangs", (75,), HANGS, embedding_server("hanging-tei", HttpDouble.hang)),
    remote("the endpoint dies in the middle of infer", (69,), DEAD, endpoint("dead-endpoint", HttpDouble.die)),
    remote("the endpoint hangs", (75,), HANGS, endpoint("hanging-endpoint", HttpDouble.hang)),
    remote(
        "the Milvus server is killed in the middle of retrieve",
        (69,),
        r"Milvus at http://127.*is it running",
        milvus("dead-milvus", MilvusServer.kill, MilvusServer.start),
    ),
    remote(
        "the Milvus server hangs",
        (69, 75),
        r"Milvus at http://127",
        milvus("hanging-milvus", MilvusServer.freeze, MilvusServer.restart),
    ),
    remote(
        "the S3 server is killed in the middle of infer",
        (69, 74),
        r"S3 server at http://127.*cannot be reached",
        store("dead-s3", Server.kill, Server.start),
    ),
    remote(
        "the S3 server hangs",
        (69,),
        rf"S3 server at http://127.*did not answer within {PATIENCE_S} seconds",
        store("hanging-s3", Server.freeze, Server.thaw),
    ),
]
