#!/usr/bin/env bash
# Builds the images localhost/minio:dev and localhost/milvus:dev of the servers that the tests run against, where there is no registry to take
# them from: MinIO from its source (build.sh minio), and Milvus 2.3.5 of the package `milvus`. load.sh brings them to the cluster;
# servers.yaml tells the chart of them. Needs buildah, .venv, and a base image (deploy/docker/build.sh makes one).
#
#   BASE   a Debian (default localhost/semievol-base:bookworm)
set -euo pipefail
cd "$(dirname "$0")/../.."
BASE=${BASE:-localhost/semievol-base:bookworm}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/semievol/bin
LABEL=dev.semievol.inputs

say() { printf 'servers: %s\n' "$*"; }
there() { [ "$(buildah inspect --type image --format "{{index .OCIv1.Config.Labels \"$LABEL\"}}" "$1" 2>/dev/null)" = "$2" ]; }
image() { # NAME INPUTS DIRECTORY: from the Dockerfile in it
  buildah build --quiet --isolation chroot --label "$LABEL=$2" --tag "$1" "$3" >/dev/null
  say "$1 is built"
}

deploy/devcluster/build.sh minio
binary=$(realpath "$cache/minio")
inputs=$(sha256sum "$0" | cut -c 1-16)
scratch=$(mktemp -d "${TMPDIR:-/tmp}/semievol-servers-XXXXXX")
trap 'rm -rf "$scratch"' EXIT

if ! there localhost/minio:dev "$inputs-${binary##*-}"; then
  mkdir "$scratch/minio"
  cp "$binary" "$scratch/minio/minio"
  printf 'FROM scratch\nCOPY minio /usr/bin/minio\nENV PATH=/usr/bin\nUSER 65532:65532\n' >"$scratch/minio/Dockerfile"
  image localhost/minio:dev "$inputs-${binary##*-}" "$scratch/minio"
fi

version=$(.venv/bin/python -c 'import milvus; print(milvus.__version__)')
if ! there localhost/milvus:dev "$inputs-$version"; then
  .venv/bin/python - "$scratch/milvus" <<'PYTHON'
import pathlib
import re
import sys

import milvus

directory = pathlib.Path(sys.argv[1])
milvus._initialize_data_files(str(directory))  # bin/
template = pathlib.Path(milvus.__file__).parent / "data" / "config.yaml.template"
ours = {
    "etcd_data_dir": "/var/lib/milvus/etcd",
    "local_storage_dir": "/var/lib/milvus/data",
    "rocksmq_data_dir": "/var/lib/milvus/rdb_data",
    "system_log_path": '""',
}
filled = re.sub(
    r"\{\{ *(\w+)(?:\(\w+\))?(?:: *([^}]*?))? *\}\}", lambda found: ours.get(found[1], found[2] or '""'), template.read_text()
)
(directory / "configs").mkdir()
(directory / "configs" / "milvus.yaml").write_text(filled)
(directory / "configs" / "glog.conf").write_text("--logtostderr=true\n--minloglevel=0\n")
for name in ("user.yaml", "embedEtcd.yaml"):  # what the chart mounts over
    (directory / "configs" / name).write_text("")
for digest in (directory / "bin").glob("*.md5"):
    digest.unlink()
PYTHON
  printf '%s\n' "FROM $BASE" 'COPY . /milvus/' 'RUN rm /milvus/Dockerfile && mkdir -p /var/lib/milvus /run/milvus' \
    'ENV PATH=/milvus/bin:/usr/bin:/bin LD_LIBRARY_PATH=/milvus/bin MILVUSCONF=/milvus/configs' 'WORKDIR /milvus' 'USER 65532:65532' \
    >"$scratch/milvus/Dockerfile"
  image localhost/milvus:dev "$inputs-$version" "$scratch/milvus"
fi
