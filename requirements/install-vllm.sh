#!/usr/bin/env bash
# Adds vLLM to .venv (made by install.sh): for a CPU or for CUDA, as ACCELERATOR says, with exactly what vllm-*.txt pins. Safe to run again.
set -euo pipefail
cd "$(dirname "$0")/.."

: "${ACCELERATOR:?cpu or cuda; make setup-vllm sets it}"
lock=requirements/vllm-$ACCELERATOR.txt
printf 'setup: vLLM, the %s packages of %s\n' "$(grep -c '==' "$lock")" "$lock"
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --require-hashes -r "$lock"
# or else every start of an engine compiles anew where bytecode is not written
.venv/bin/python -m compileall -q -j 0 .venv/lib/python3.11/site-packages >/dev/null || true
