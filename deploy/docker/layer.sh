#!/bin/sh
# layer NAME...: installs what /requirements/NAME.txt pins, and nothing else, into /layer, laid out as the environment in /opt/semievol is.
# layer --project DIRECTORY: builds the project and installs that.
# Bytecode is written here, once, and is not checked against times: root file systems are read-only, and copies have new times.
set -eu

export PYTHONPATH=/opt/build UV_NO_CACHE=1 UV_LINK_MODE=copy UV_SYSTEM_CERTS=1 UV_HTTP_TIMEOUT=180
python=/opt/semievol/bin/python
install() { /opt/build/bin/uv pip install --quiet --python "$python" --prefix /layer --no-deps --no-progress "$@"; }
fail() { printf 'layer: %s\n' "$@" >&2; exit 1; }

# The version names the CPU build (+cpu), so that no index answers with the several GB of the default one; its index publishes no hashes.
install_torch_cpu() {
  if [ -n "$(ls /wheels/torch-*.whl 2>/dev/null)" ]; then
    install --no-index --find-links /wheels -r /requirements/torch-cpu.txt && return
  fi
  install --torch-backend cpu -r /requirements/torch-cpu.txt ||
    fail "The CPU build of torch can be had neither from the build context 'wheels' nor from the public index of CPU builds." \
      "Put $(grep -v '^#' /requirements/torch-cpu.txt) for this platform into a directory and name it: build.sh with WHEELS=DIRECTORY."
}

mkdir -p /layer
if [ "$1" = --project ]; then
  (cd "$2" && "$python" -m hatchling build -t wheel -d /wheel >/dev/null)
  install /wheel/*.whl
else
  for name in "$@"; do
    case $name in
      torch-cpu) install_torch_cpu ;;
      *) install --require-hashes -r "/requirements/$name.txt" ;;
    esac
  done
fi
# Tests, headers and static libraries of packages: nothing here compiles against them.
packages=/layer/lib/python3.11/site-packages
find "$packages/torch/bin" -type f ! -name torch_shm_manager -delete 2>/dev/null || true
for unused in torch/include torch/test pandas/tests pyarrow/include pyarrow/tests; do
  if [ "$unused" != torch/include ] || ! [ -d "$packages/triton" ]; then rm -rf "${packages:?}/$unused"; fi
done
rm -rf /layer/.lock
unset PYTHONPATH
"$python" -m compileall -q -j 0 -s /layer -p /opt/semievol --invalidation-mode unchecked-hash /layer/lib >/dev/null || true # templates are no Python
