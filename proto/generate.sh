#!/usr/bin/env bash
# Generates the Python code of every .proto file: modules, type stubs and gRPC stubs, beside the packages that use them.
#   generate.sh [DIRECTORY]   writes into DIRECTORY (default services)
#   generate.sh --check       writes nothing; fails where services/ differs from what would be generated
set -euo pipefail
cd "$(dirname "$0")/.."

generate() { # DIRECTORY
  find proto -name '*.proto' | sort | PATH=$PWD/.venv/bin:$PATH xargs .venv/bin/python -m grpc_tools.protoc --proto_path=proto \
    --python_out="$1" --grpc_python_out="$1" --mypy_out="quiet:$1" --mypy_grpc_out="quiet:$1"
}

copy_generated() { # FROM TO: the generated files alone, in their folders
  (cd "$1" && find . -name '*_pb2*.py' -o -name '*_pb2*.pyi') | while read -r file; do
    mkdir -p "$2/$(dirname "$file")"
    cp "$1/$file" "$2/$file"
  done
}

if [ "${1:-}" != --check ]; then
  generate "${1:-services}"
  exit
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/committed" "$scratch/generated"
copy_generated services "$scratch/committed"
generate "$scratch/generated"
if ! diff --recursive --brief "$scratch/committed" "$scratch/generated" | sed "s#$scratch/##g"; then
  echo "The generated code in services/ is not what proto/ gives: run make proto and commit the result." >&2
  exit 1
fi
