#!/usr/bin/env bash
# Makes .venv and installs everything that lock.txt pins, then the project itself, editable. Safe to run again: what is there stays.
#
#   PYTHON       the interpreter to build .venv from (default python3.11)
#   ACCELERATOR  cpu or cuda: which build of torch (default: cuda where there is an NVIDIA GPU)
#   WHEELS       a directory with the CPU build of torch, asked before any index (default: none)
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3.11}
WHEELS=${WHEELS:-}
ACCELERATOR=${ACCELERATOR:-$([ -e /dev/nvidia0 ] || command -v nvidia-smi >/dev/null && echo cuda || echo cpu)}
UV_VERSION=0.13.9
torch_cpu=$(grep -v '^#' requirements/torch-cpu.txt)
quiet=--quiet
if [ -t 2 ]; then quiet=; fi # progress bars for people, one line a step for logs

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$@" >&2; exit 1; }
install() { .venv/bin/uv pip install $quiet --python .venv/bin/python --no-deps "$@"; }
installed_version() { .venv/bin/python -c "import importlib.metadata as m; print(m.version('$1'))" 2>/dev/null || true; }

make_venv() {
  if .venv/bin/python -m pip --version >/dev/null 2>&1; then return; fi
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null ||
    fail "$PYTHON is not a Python 3.11, and SemiEvol needs exactly that." \
      "Install it (Debian, Ubuntu: apt-get install python3.11 python3.11-venv) or name it: make setup PYTHON=/path/to/python3.11"
  say "making .venv with $("$PYTHON" --version)"
  "$PYTHON" -m venv --clear .venv ||
    fail "$PYTHON cannot make virtual environments; on Debian and Ubuntu: apt-get install python3.11-venv"
}

# The CPU build has a local version (+cpu), so no index can answer for it with the several GB of the CUDA build.
install_torch_cpu() {
  if [ -n "$WHEELS" ]; then
    say "$torch_cpu from $WHEELS"
    if install --no-index --find-links "$WHEELS" "$torch_cpu"; then return; fi
    say "not found there"
  fi
  say "$torch_cpu from the public index of CPU builds"
  if install --quiet --quiet --torch-backend cpu "$torch_cpu"; then return; fi
  say "it cannot be had there: taking the default build from PyPI, which works without a GPU but is several GB larger"
  install_torch_pypi
}

install_torch_pypi() {
  say "$(grep -o '^torch=*[0-9.]*' requirements/torch-pypi.txt) and its CUDA libraries from PyPI"
  install --require-hashes -r requirements/torch-pypi.txt
}

case $ACCELERATOR in cpu | cuda) ;; *) fail "ACCELERATOR is $ACCELERATOR; it must be cpu or cuda" ;; esac
make_venv
if [ "$(installed_version uv)" != "$UV_VERSION" ]; then
  say "uv $UV_VERSION"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
fi
say "the $(grep -c '==' requirements/lock.txt) packages of requirements/lock.txt"
install --require-hashes -r requirements/lock.txt
if [ "$ACCELERATOR" = cuda ]; then
  install_torch_pypi
elif [ "$(installed_version torch)" != "${torch_cpu#*==}" ]; then
  install_torch_cpu
fi
say "semievol itself, editable"
install --no-build-isolation --editable .
say "bytecode" # so that the first start is as quick as the second, and a read-only or bytecode-free environment as quick as any
.venv/bin/python -m compileall -q -j 0 .venv/lib/python3.11/site-packages services >/dev/null || true # templates in packages are no Python
say "the bundled model, prepared for all homes of this user" # or else the first run does it
HF_HUB_OFFLINE=1 .venv/bin/python -m semievol.common.models bundled:smollm2-135m >/dev/null 2>&1 ||
  say "it could not be prepared here (is ~/.cache writable?); the first run will do it"
