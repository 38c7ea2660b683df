#!/usr/bin/env bash
# Brings images to the cluster: load.sh IMAGE... An IMAGE is a name that buildah knows, or the path of an archive of one image, as
# `docker save` or `buildah push ... docker-archive:FILE` writes it. An image that the cluster has already is left alone.
set -euo pipefail
# shellcheck source=deploy/devcluster/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

LABEL=semievol.dev/source # on an image of the cluster: the id of what it was loaded from. Its id in the cluster may differ, as formats do.

# ARCHIVE KEY: what the archive's manifest.json says; every image in it once, one a line.
archived() {
  tar --seek -xOf "$1" manifest.json | grep -oE "\"$2\": *(\"[^\"]*\"|\[[^]]*\])" | grep -oE '"[^"]*"' | tr -d '"' | grep -vx "$2"
}

# NAME ID: whether the cluster's image of that name was loaded from the image with that id.
is_there() { images ls "name==$1" | grep -qF "$LABEL=$2"; }

# NAME ID COMMAND...: loads the archive that the command writes, unless it is there.
load() {
  local name=$1 id=$2 start=$SECONDS
  shift 2
  if is_there "$name" "$id"; then
    say "$name is there"
    return
  fi
  if [ -n "$(images ls -q "name==$name")" ]; then images label "$name" "$LABEL=" >/dev/null; fi # none, should this be cut short
  "$@" | images import - >/dev/null
  [ -n "$(images ls -q "name==$name")" ] || fail "the archive has no image of the name $name"
  images label "$name" "$LABEL=$id" >/dev/null
  say "$name loaded in $((SECONDS - start)) s"
}

load_archive() {
  local names
  names=$(archived "$1" RepoTags) || fail "$1 is no archive of an image, or of one without a name"
  [ "$(wc -l <<<"$names")" = 1 ] || fail "$1 holds several names, and only one can be loaded from an archive:" "$names"
  load "$names" "$(archived "$1" Config | grep -oE '[0-9a-f]{64}')" cat "$1"
}

load_built() {
  local id name
  id=$(buildah inspect --type image --format '{{.FromImageID}}' "$1" 2>/dev/null) ||
    fail "$1 is neither a file nor an image that buildah knows (buildah images lists those)"
  name=$(buildah images --format '{{.Name}}:{{.Tag}}' "$1" | head -n 1)
  load "$name" "$id" buildah push --quiet "$1" "docker-archive:/dev/stdout:$name"
}

need_root
[ $# -gt 0 ] || fail "which images? load.sh IMAGE..."
node_pid >/dev/null || fail "the cluster is not up: run deploy/devcluster/up.sh"
for image in "$@"; do
  if [ -f "$image" ]; then load_archive "$image"; else load_built "$image"; fi
done
