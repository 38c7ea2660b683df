"""Whole runs with fake models whose artifacts are in a real MinIO: the same artifacts as on a disk, and what happens when it goes away."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from semievol.cli.main import cli
from semievol.common import errors
from semievol.common.artifacts import Artifacts, blob_path
from semievol.controller.v1 import controller_service_pb2 as pb
from semievol.homes import Backends, remember
from semievol.ports import ObjectStore

from tests.fake_suite import Suite, fake_suite, wait_for
from tests.servers.proxy import Proxy, proxied
from tests.servers.s3 import OWNER, READER, S3Server


@pytest.fixture
def place(minio_server: S3Server) -> str:
    return minio_server.uri(minio_server.bucket, uuid.uuid4().hex)


@pytest.fixture
def shaky(minio_server: S3Server) -> Iterator[tuple[str, Proxy]]:
    """(URI of an empty store, the proxy before it)"""
    with proxied(minio_server.endpoint) as (endpoint, proxy):
        yield f"s3://{minio_server.bucket}/{uuid.uuid4().hex}?endpoint={endpoint}", proxy


def manifests(store: ObjectStore) -> dict[str, bytes]:
    """Path -> bytes of every manifest: equal manifests mean equal artifacts."""
    found = {}
    for info in store.list("steps/"):
        if info.path.endswith("/MANIFEST.json"):
            with store.open(info.path) as stream:
                found[info.path] = stream.read()
    return found


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    with fake_suite(tmp_path_factory.mktemp("disk")) as suite:
        assert suite.run(suite.spec())["error"] == ""
        return manifests(suite.artifacts.store)


def judged_blob(suite: Suite) -> str:
    """Path of what the judging of the run wrote."""
    judged = next(
        manifest
        for manifest in map(json.loads, manifests(suite.artifacts.store).values())
        if manifest["contract"].startswith("judge/")
    )
    return blob_path(judged["files"][0]["sha256"])


@pytest.mark.parametrize(
    ("server", "launcher"), [("minio_server", "inline"), ("minio_server", "subprocess"), ("seaweedfs_server", "inline")]
)
def test_a_run_in_s3_makes_the_artifacts_of_one_on_a_disk_byte_for_byte(
    tmp_path: Path, on_disk: dict[str, bytes], request: pytest.FixtureRequest, server: str, launcher: str
) -> None:
    s3: S3Server = request.getfixturevalue(server)
    with fake_suite(tmp_path, store=s3.uri(s3.bucket, uuid.uuid4().hex), launcher=launcher) as suite:
        result = suite.run(suite.spec())
        assert result["error"] == ""
        assert (Path(result["models"]["evolved"]["directory"]) / "adapter_model.safetensors").is_file()
        assert manifests(suite.artifacts.store) == on_disk
        assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize(("server", "product"), [("minio_server", "MinIO"), ("seaweedfs_server", "SeaweedFS")])
def test_a_diagnosis_names_the_s3_server(tmp_path: Path, request: pytest.FixtureRequest, server: str, product: str) -> None:
    s3: S3Server = request.getfixturevalue(server)
    with fake_suite(tmp_path, store=s3.uri(s3.bucket, uuid.uuid4().hex)) as suite:
        found = {one.name: one.message for one in suite.client.diagnose().findings}
    assert found["store"].startswith(product)
    assert f" at {s3.endpoint}: " in found["store"]


def test_a_restarted_product_finds_its_run_and_its_models_in_s3(tmp_path: Path, place: str) -> None:
    with fake_suite(tmp_path / "one", store=place) as suite:
        first = suite.run(suite.spec())
    with fake_suite(tmp_path / "other", store=place) as suite:  # another machine, even
        assert [run.id for run in suite.client.list_runs()] == [first["run"]]
        assert {model.role for model in suite.client.list_models().models} == {"warm", "evolved"}
        again = suite.run(suite.spec())
        assert set(again["reused"]) == set(first["seconds"])


def test_commands_find_runs_and_models_in_s3_and_tell_nobody_the_secret(tmp_path: Path, place: str) -> None:
    with fake_suite(tmp_path / "one", store=place) as suite:
        run = suite.run(suite.spec())["run"]
    home = tmp_path / "home"
    remember(home_made(home), Backends(store=place))
    status = CliRunner().invoke(cli, ["status", run, "--home", str(home), "--json"])
    assert status.exit_code == 0, status.output
    assert json.loads(status.stdout)["state"] == "succeeded"
    models = CliRunner().invoke(cli, ["models", "list", "--home", str(home), "--store", place, "--json"])
    directories = [Path(model["directory"]) for model in json.loads(models.stdout)["models"]]
    assert all(home in directory.parents and (directory / "adapter_model.safetensors").is_file() for directory in directories)
    assert OWNER[1] not in status.output + models.output + (home / "backends.json").read_text()


def home_made(home: Path) -> Path:
    home.mkdir()
    return home


@pytest.mark.parametrize("damage", ["removed", "shorter", "flipped"])
def test_a_blob_that_is_damaged_behind_our_back_is_made_again_and_nothing_else(tmp_path: Path, place: str, damage: str) -> None:
    with fake_suite(tmp_path, store=place) as suite:
        suite.run(suite.spec())
        store, blob = suite.artifacts.store, judged_blob(suite)
        before = manifests(store)
        with store.open(blob) as stream:
            intact = stream.read()
        if damage == "removed":
            store.delete(blob)
        else:
            store.put(blob, intact[:-1] if damage == "shorter" else bytes([intact[0] ^ 1]) + intact[1:])
        result = suite.run(suite.spec())
        assert result["error"] == ""
        assert "1/judge" not in result["reused"]
        assert {"1/infer/warm-0", "1/score", "1/evolve"} <= set(result["reused"])
        assert manifests(store) == before
        with store.open(blob) as stream:
            assert stream.read() == intact


def test_a_server_that_is_killed_in_a_step_and_comes_back_in_time_costs_the_run_nothing(
    tmp_path: Path, minio_server: S3Server, place: str, on_disk: dict[str, bytes]
) -> None:
    with fake_suite(tmp_path, store=place) as suite:
        spec = suite.spec()
        suite.trainer.hold = True
        run = suite.client.submit(spec).id
        wait_for(lambda: suite.trainer.created == 1)
        minio_server.process.kill()
        suite.trainer.hold = False
        minio_server.process.start()
        wait_for(lambda: suite.client.get_run(run).state != pb.STATE_RUNNING, 60)
        assert suite.client.get_run(run).state == pb.STATE_SUCCEEDED
        assert manifests(suite.artifacts.store) == on_disk


def test_a_step_that_cannot_reach_the_store_says_so_and_is_tried_again(
    tmp_path: Path, shaky: tuple[str, Proxy], on_disk: dict[str, bytes]
) -> None:
    """The server cannot write blobs for a while: the controller can still record what happens."""
    store, proxy = shaky
    with fake_suite(tmp_path, store=store) as suite:
        spec = suite.spec()
        proxy.fail("busy", "PUT", "/blobs/", times=8)  # more than one attempt's six
        run = suite.run(spec)
        assert run["error"] == ""
        failed = [event.step_failed for event in suite.client.watch(run["run"]) if event.WhichOneof("event") == "step_failed"]
        assert len(failed) == 1
        assert "Cannot write blobs/" in failed[0].error
        assert "503" in failed[0].error
        assert manifests(suite.artifacts.store) == on_disk


def test_a_run_whose_every_tenth_request_goes_wrong_makes_the_same_artifacts(tmp_path: Path, shaky: tuple[str, Proxy]) -> None:
    """A busy server, a connection that breaks before or after the work, an answer that is cut, in turn."""
    store, proxy = shaky
    one_shard = {"shard_rows": 64}  # each fault costs a pause
    with fake_suite(tmp_path / "disk") as suite:
        assert suite.run(suite.spec(**one_shard))["error"] == ""
        calm = manifests(suite.artifacts.store)
    with fake_suite(tmp_path / "s3", store=store) as suite:
        proxy.requests.clear()
        proxy.fail_every(10, "busy", "reset", "lost", "cut")
        run = suite.run(suite.spec(**one_shard))
        requests, faults = len(proxy.requests), proxy.faults
        proxy.calm()
        assert run["error"] == ""
        assert manifests(suite.artifacts.store) == calm
    assert requests // 10 - 1 <= faults <= requests // 10
    assert faults > 20


def test_the_controller_does_not_start_on_a_bucket_that_is_not_there_or_that_it_may_not_write(
    tmp_path: Path, minio_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(errors.StorageError, match="no bucket nowhere"), fake_suite(tmp_path, store=minio_server.uri("nowhere")):
        pass
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READER[1])
    with pytest.raises(errors.NotAllowed, match="does not allow it"), fake_suite(tmp_path, store=minio_server.uri("tests")):
        pass


def test_a_server_that_stays_away_ends_the_run_with_its_name_and_the_next_start_goes_on(
    tmp_path: Path, shaky: tuple[str, Proxy], on_disk: dict[str, bytes]
) -> None:
    store, proxy = shaky
    with fake_suite(tmp_path, store=store, reconnect_s=5.0) as suite:
        spec = suite.spec()
        suite.trainer.hold = True
        run = suite.client.submit(spec).id
        wait_for(lambda: suite.trainer.created == 1)
        proxy.fail("reset", times=1_000_000)
        suite.trainer.hold = False
        with pytest.raises(errors.Unavailable, match=r"S3 server at http://127.*cannot be reached"):
            for _ in suite.client.watch(run):
                pass
        wait_for(lambda: all(thread.name != f"run-{run}" for thread in threading.enumerate()), 60)
        proxy.calm()
        partial = manifests(suite.artifacts.store)
        assert partial.items() <= on_disk.items()
        assert all(
            Artifacts(suite.artifacts.store).manifest(json.loads(data)["key"], json.loads(data).get("shard"))
            for data in partial.values()
        )
        result = suite.run(spec)
        assert result["run"] == run
        assert result["error"] == ""
        assert "0/intake" in result["reused"]
        assert manifests(suite.artifacts.store) == on_disk
