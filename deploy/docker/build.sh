#!/usr/bin/env bash
# build.sh [TARGET...]: builds the images core, embedding, training and engine (all of them by default) as REGISTRY/semievol-TARGET:TAG.
# An image whose inputs have not changed is left as it is, so a second run takes a moment.
#
#   BUILDER      docker, podman or buildah (default: the first of them that works; buildah is installed where apt-get can)
#   BASE         the base image, with Python 3.11 and pip (default: the Dockerfile's; with buildah one made here with debootstrap, so that no
#                image registry is needed)
#   ACCELERATOR  cpu or cuda (default cpu)
#   WHEELS       a directory with the CPU build of torch (default: none; the public index of CPU builds)
#   REGISTRY     first part of the names (default localhost)
#   TAG          (default dev, or dev-cuda)
#   SOURCE       where the source is, for the labels (default: git's origin, where that is a web address)
set -euo pipefail
cd "$(dirname "$0")/../.."

ACCELERATOR=${ACCELERATOR:-cpu}
REGISTRY=${REGISTRY:-localhost}
TAG=${TAG:-dev$([ "$ACCELERATOR" = cpu ] || echo "-$ACCELERATOR")}
WHEELS=${WHEELS:-}
TARGETS=(core embedding training engine)
LOCAL_BASE=localhost/semievol-base
LOCAL_SUITE=bookworm # the Debian that has Python 3.11
LABEL=dev.semievol.inputs

say() { printf 'images: %s\n' "$*"; }
fail() { printf 'images: %s\n' "$@" >&2; exit 1; }
apt_can() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }
apt_install() { # PACKAGE...
  say "installing $* with apt-get"
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends "$@"; } >/dev/null ||
    fail "apt-get could not install $*"
}

find_builder() {
  local one
  for one in docker podman; do
    if command -v "$one" >/dev/null && "$one" info >/dev/null 2>&1; then echo "$one"; return; fi
  done
  echo buildah
}

need() { # COMMAND...: installs what is missing
  local missing=() one
  for one in "$@"; do command -v "$one" >/dev/null || missing+=("$one"); done
  if [ ${#missing[@]} = 0 ]; then return; fi
  apt_can || fail "${missing[*]} is not installed. With Debian or Ubuntu, as root: apt-get install ${missing[*]}. Or start Docker, or podman."
  apt_install "${missing[@]}"
}

label_of() { # IMAGE: the digest of what it was built from, empty where there is no such image
  case $BUILDER in
    buildah) buildah inspect --type image --format "{{index .OCIv1.Config.Labels \"$LABEL\"}}" "$1" 2>/dev/null || true ;;
    *) "$BUILDER" image inspect --format "{{index .Config.Labels \"$LABEL\"}}" "$1" 2>/dev/null || true ;;
  esac
}

digest() { sha256sum | cut -c 1-64; }

# Debian with its Python and pip, and no more: what the public image has, but for the place where Python lies.
make_base() {
  local recipe scratch
  recipe=$(declare -f make_base trim_base | cat - <(echo "$LOCAL_SUITE") | digest)
  if [ "$(label_of "$LOCAL_BASE:$LOCAL_SUITE")" = "$recipe" ]; then return; fi
  need debootstrap
  say "$LOCAL_BASE:$LOCAL_SUITE, with debootstrap"
  scratch=$(mktemp -d "${TMPDIR:-/tmp}/semievol-base-XXXXXX")
  trap "rm -rf '$scratch'" EXIT
  debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip "$LOCAL_SUITE" "$scratch/root" >"$scratch/log" 2>&1 ||
    fail "debootstrap failed:" "$(tail -n 5 "$scratch/log")"
  trim_base "$scratch/root"
  printf 'FROM scratch\nCOPY root/ /\nCMD ["python3"]\n' >"$scratch/Dockerfile"
  buildah build --quiet --label "$LABEL=$recipe" --tag "$LOCAL_BASE:$LOCAL_SUITE" "$scratch" >/dev/null
  rm -rf "$scratch"
  trap - EXIT
}
trim_base() {
  rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/* "$1"/var/log/* "$1"/debootstrap
  find "$1"/usr/share/{doc,info,locale,man} -mindepth 1 -delete
}

inputs() { # everything that an image is made from; which target it is says its name
  {
    echo "$BUILDER $ACCELERATOR ${BASE:-}"
    if [ -n "${BASE:-}" ] && [ "$BUILDER" = buildah ]; then label_of "$BASE"; fi
    ls "${WHEELS:-/nonexistent}" 2>/dev/null | grep '^torch-' || true
    find deploy/docker requirements/images requirements/torch-cpu.txt services LICENSE README.md pyproject.toml -type f \
      ! -name '*.pyc' ! -name '*.pyi' ! -name build.sh -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
  } | digest
}

build() { # TARGET
  local target=$1 image=$REGISTRY/semievol-$1:$TAG start=$SECONDS options=()
  if [ "$(label_of "$image")" = "$INPUTS" ]; then
    say "$image is there already"
    return
  fi
  options=(--file deploy/docker/Dockerfile --target "$target" --tag "$image" --label "$LABEL=$INPUTS"
    --build-arg "ACCELERATOR=$ACCELERATOR" --build-arg "VERSION=$VERSION" --build-arg "REVISION=$REVISION" --build-arg "SOURCE=$SOURCE")
  if [ -n "${BASE:-}" ]; then options+=(--build-arg "BASE=$BASE"); fi
  if [ -n "$WHEELS" ]; then options+=(--build-context "wheels=$(realpath "$WHEELS")"); fi
  say "building $image"
  case $BUILDER in
    # chroot, and the machine's network and certificate authorities: it builds wherever it may unpack a file system
    buildah)
      buildah build --quiet --layers --isolation chroot --network host --volume /etc/ssl/certs:/etc/ssl/certs:ro \
        --ignorefile deploy/docker/Dockerfile.dockerignore "${options[@]}" . >/dev/null ;;
    podman) podman build --quiet --layers --ignorefile deploy/docker/Dockerfile.dockerignore "${options[@]}" . >/dev/null ;;
    docker) DOCKER_BUILDKIT=1 docker build --quiet "${options[@]}" . >/dev/null ;;
  esac || fail "$image was not built; the reason is above"
  say "$image, $((SECONDS - start)) s"
}

case $ACCELERATOR in cpu | cuda) ;; *) fail "ACCELERATOR is $ACCELERATOR; it must be cpu or cuda" ;; esac
if [ $# = 0 ]; then set -- "${TARGETS[@]}"; fi
for target in "$@"; do
  case " ${TARGETS[*]} " in *" $target "*) ;; *) fail "There is no image $target; there are ${TARGETS[*]}." ;; esac
done
if [ -n "$WHEELS" ] && [ ! -d "$WHEELS" ]; then fail "WHEELS is $WHEELS, and that is no directory"; fi
BUILDER=${BUILDER:-$(find_builder)}
if [ "$BUILDER" = buildah ]; then
  need buildah
  if [ -z "${BASE:-}" ]; then
    make_base
    BASE=$LOCAL_BASE:$LOCAL_SUITE
  fi
fi
VERSION=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
REVISION=$(git rev-parse HEAD 2>/dev/null || true)
SOURCE=${SOURCE:-$(git remote get-url origin 2>/dev/null | grep '^https://' | sed 's#//[^/@]*@#//#' || true)}
INPUTS=$(inputs)
for target in "$@"; do build "$target"; done
