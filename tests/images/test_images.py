"""The images as they were built: what they carry, what they do not, and that their processes work where nothing can be written.

`make test-images` builds them and runs this; it asks for root, and is not among the other tests.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator

import pytest
import semievol

from tests.images.running import Image, image

TARGETS = ("core", "embedding", "training", "engine")
MODULES = {
    "core": (
        "controller.server",
        "judging.server",
        "retrieval.server",
        "generation.router.server",
        "door.server",
        "door.app",
        "steps.main",
        "launchers.child",
        "common.healthcheck",
        "common.stores.s3",
        "retrieval.backends.milvus",
        "data.arrow",
    ),
    "embedding": ("embedding.server", "embedding.backends.sentence_transformers"),
    "training": ("training.server", "training.job", "training.backends.peft", "generation.server"),
    "engine": ("generation.server", "generation.backends.vllm"),
}
THIRD_PARTY = {
    "core": ("pymilvus", "milvus_lite", "minio", "kubernetes.client", "fastapi", "pyarrow", "datasets", "openai"),
    "embedding": ("sentence_transformers",),
    "training": ("transformers", "peft", "gguf"),
    "engine": ("vllm.v1.engine.async_llm", "peft"),
}
START_S = 300.0


@pytest.fixture(scope="module", params=TARGETS)
def built(request: pytest.FixtureRequest) -> Iterator[Image]:
    with image(request.param) as one:
        yield one


def _target(one: Image) -> str:
    return one.name.removeprefix("localhost/semievol-").partition(":")[0]


def test_an_image_says_what_it_is_and_whom_it_runs_as(built: Image) -> None:
    assert built.config["User"] == "65532:65532"
    assert built.config["Entrypoint"] == ["python", "-m"]
    assert built.config["WorkingDir"] == "/var/lib/semievol"
    labels = built.config["Labels"]
    assert labels["org.opencontainers.image.title"] == f"semievol-{_target(built)}"
    assert labels["org.opencontainers.image.version"] == semievol.__version__
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert re.fullmatch(r"[0-9a-f]{40}", labels["org.opencontainers.image.revision"])
    assert "org.opencontainers.image.source" in labels


def test_the_command_line_is_in_every_image(built: Image) -> None:
    done = built.run("semievol", "--help")
    assert done.returncode == 0, done.stderr
    assert "submit" in done.stdout


def test_the_entry_point_takes_the_name_of_a_module(built: Image) -> None:
    done = built.run(*built.config["Entrypoint"], *built.config["Cmd"])
    assert done.returncode == 0, done.stderr


def test_what_an_image_is_for_can_be_imported(built: Image) -> None:
    names = [f"semievol.{name}" for name in MODULES["core"] + MODULES[_target(built)]]
    names += THIRD_PARTY["core"] + THIRD_PARTY[_target(built)]
    assert (
        built.python(f"import importlib\nfor name in {sorted(set(names))!r}: importlib.import_module(name)\nprint('all')")
        == "all"
    )


def test_nothing_that_installs_or_compiles_is_left(built: Image) -> None:
    commands = ("pip", "pip3", "uv", "gcc", "cc", "g++", "make", "ninja", "git", "curl", "wget")
    done = built.run("sh", "-c", f"for one in {' '.join(commands)}; do command -v $one || true; done")
    assert (done.returncode, done.stdout) == (0, "")
    names = ("pip", "ensurepip", "uv", "hatchling", "pytest")
    assert built.python(f"from importlib.util import find_spec\nprint([name for name in {names!r} if find_spec(name)])") == "[]"


def test_only_the_two_places_for_it_can_be_written(built: Image) -> None:
    done = built.run(
        "sh",
        "-c",
        "id -u; for at in / /opt/semievol /etc /usr /var /tmp /var/lib/semievol; do touch $at/x 2>/dev/null && echo $at; done",
    )
    assert done.stdout.split() == ["65532", "/tmp", "/var/lib/semievol"]
    owned = subprocess.run(["find", built.root, "-xdev", "-uid", "65532"], capture_output=True, text=True, check=True).stdout
    assert owned.split() == [str(built.root / "var/lib/semievol")]


def test_bytecode_is_there_for_the_environment_and_believed(built: Image) -> None:
    """Byte 4 of a .pyc holds the flags of PEP 552: 1, by hash and unchecked, since copies of a layer have other times than its sources."""
    code = "import semievol, numpy, grpc\nfor one in (semievol, numpy, grpc): print(open(one.__cached__, 'rb').read(5)[4])"
    assert built.python(code).split() == ["1", "1", "1"]


def _serves(one: Image, module: str, environment: dict[str, str]) -> None:
    """Starts a server in the image, waits until it says that it serves, and ends it with SIGTERM."""
    command = one.command("python", "-m", module, environment=environment)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    end, lines = time.monotonic() + START_S, []
    try:
        for line in process.stderr:
            lines.append(line)
            if "serves at" in line:
                return
            assert time.monotonic() < end, "".join(lines)
        raise AssertionError("".join(lines))
    finally:
        process.kill()
        process.wait(30)
        process.stderr.close()


@pytest.mark.models
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("target", "module", "environment"),
    [
        ("embedding", "semievol.embedding.server", {"SEMIEVOL_EMBEDDING_ADDRESS": "127.0.0.1:50051"}),
        ("training", "semievol.training.server", {"SEMIEVOL_TRAINING_ADDRESS": "127.0.0.1:50055"}),
        ("training", "semievol.generation.server", {"SEMIEVOL_GENERATION_ADDRESS": "127.0.0.1:50053"}),
        (
            "engine",
            "semievol.generation.server",
            {
                "SEMIEVOL_GENERATION_ADDRESS": "127.0.0.1:50053",
                "SEMIEVOL_GENERATION_BACKEND": "vllm",
                "SEMIEVOL_VLLM_KV_CACHE_GIB": "1",
            },
        ),
    ],
    ids=["embedding", "training", "transformers", "vllm"],
)
def test_a_server_works_with_the_model_that_the_image_carries(target: str, module: str, environment: dict[str, str]) -> None:
    """It says that it serves only after it has done its work once (R12)."""
    with image(target) as one:
        _serves(one, module, environment)


@pytest.mark.parametrize("target", ["training", "engine"])
def test_the_bundled_model_is_used_where_it_lies(target: str) -> None:
    code = """
from pathlib import Path
from semievol.common.models import resolve_model
print(resolve_model("bundled:smollm2-135m", Path("/var/lib/semievol/cache")).directory.parent)
print([str(path) for path in Path("/var/lib/semievol").iterdir()])
"""
    with image(target) as one:
        assert one.python(code).split("\n") == ["/opt/semievol/models", "[]"]
