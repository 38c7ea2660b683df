#!/usr/bin/env bash
# Builds the programs that tests, the development cluster and the chart's checks need and no package brings, from Go modules, into
# ${XDG_CACHE_HOME:-~/.cache}/semievol/bin: build.sh [NAME...]. NAME is a program, or kubernetes for all of Kubernetes; without one,
# everything is built. What is built already stays, so this is done in a moment then. A program lies there as NAME-VERSION, and NAME is a
# link to the version that was asked for last.
#
#   GO   the go command (default: go, or /usr/local/go/bin/go)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/semievol/bin

KUBERNETES=(kubectl kube-apiserver kube-controller-manager kube-proxy kube-scheduler kubelet)
OTHERS=(busybox coredns helm helm-docs helm-unittest kubeconform local-path-provisioner minio)

say() { printf 'build: %s\n' "$*"; }
fail() { printf 'build: %s\n' "$@" >&2; exit 1; }

# PROGRAM: the Go package that it is built from, "@", and the version. Those without a version need a go.mod of their own, beside this script.
package() {
  case $1 in
    kubectl | kube-*) echo "k8s.io/kubernetes/cmd/$1@" ;;
    kubelet) echo "k8s.io/kubernetes/cmd/kubelet@" ;;
    coredns) echo github.com/coredns/coredns@v1.15.0 ;;
    helm) echo helm.sh/helm/v3/cmd/helm@v3.22.0 ;;
    helm-docs) echo github.com/norwoodj/helm-docs/cmd/helm-docs@v1.14.2 ;;
    helm-unittest) echo github.com/helm-unittest/helm-unittest/cmd/helm-unittest@ ;;
    kubeconform) echo github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0 ;;
    local-path-provisioner) echo github.com/rancher/local-path-provisioner@v0.0.30 ;;
    minio) echo github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c ;; # the tests' S3 server
    busybox) echo busybox-static@debian ;; # a Debian package
  esac
}

# PROGRAM: the directory of the go.mod that builds it.
module() {
  case $1 in
    helm-unittest) echo "$here/modules/helm-unittest" ;;
    *) echo "$here/modules/kubernetes" ;;
  esac
}

version() {
  local source
  source=$(package "$1")
  if [ "${source##*@}" ]; then
    echo "${source##*@}"
  else
    awk -v path="${source%/cmd/*}" '$1 == "require" { $0 = substr($0, 9) } $1 == path && NF > 1 { print $2 }' "$(module "$1")/go.mod"
  fi
}

need_go() {
  GO=${GO:-$(command -v go || echo /usr/local/go/bin/go)}
  "$GO" version >/dev/null 2>&1 || fail "building $1 needs Go, which is not there." \
    "Install it (Debian: apt-get install golang-go, where that is 1.26 or later; or go.dev), or name it: GO=/path/to/go $0"
}

# PROGRAM VERSION DIRECTORY: each leaves the program in the directory.
build_in_module() {
  local flags="-s -w" number=${2#v} minor
  cd "$(module "$1")"
  if [[ $(package "$1") == k8s.io/* ]]; then # Helm, for one, reads all three from the API server
    minor=${number#*.}
    flags+=$(printf ' -X k8s.io/component-base/version.%s' "gitVersion=$2" "gitMajor=${number%%.*}" "gitMinor=${minor%%.*}")
  fi
  "$GO" build -trimpath -ldflags "$flags" -o "$3/$1" "$(package "$1" | cut -d @ -f 1)"
}
build_from_proxy() { GOBIN=$3 "$GO" install -trimpath -ldflags "-s -w" "$(package "$1")"; }
unpack_busybox() {
  cd "$3"
  apt-get download busybox-static || { apt-get update && apt-get download busybox-static; }
  dpkg-deb --extract ./*.deb .
  mv bin/busybox busybox
}

build() {
  local program=$1 version=$2 way=build_from_proxy start=$SECONDS scratch
  case $(package "$program") in
    *@) way=build_in_module ;;
    *@debian) way=unpack_busybox ;;
  esac
  if [ $way != unpack_busybox ]; then need_go "$program"; fi
  say "building $program $version"
  scratch=$(mktemp -d "${TMPDIR:-/tmp}/semievol-build-XXXXXX")
  # shellcheck disable=SC2064 # this directory
  trap "rm -rf '$scratch'" EXIT
  (GOFLAGS="${GOFLAGS:-} -modcacherw" CGO_ENABLED=0 "$way" "$program" "$version" "$scratch") >"$scratch/log" 2>&1 ||
    fail "building $program failed:" "$(tail -n 20 "$scratch/log")"
  install -m 755 "$scratch/$program" "$cache/$program-$version.$$"
  mv "$cache/$program-$version.$$" "$cache/$program-$version" # whole or not at all
  rm -rf "$scratch"
  say "built $program in $((SECONDS - start)) s"
}

link() {
  if [ "$(readlink "$cache/$1")" != "$1-$2" ]; then
    ln -s "$1-$2" "$cache/$1.$$"
    mv -T "$cache/$1.$$" "$cache/$1"
  fi
}

programs=()
for name in "${@:-kubernetes}"; do
  case $name in
    kubernetes) programs+=("${KUBERNETES[@]}") ;;
    *) [[ " ${KUBERNETES[*]} ${OTHERS[*]} " == *" $name "* ]] || fail "$name is not known; there are: kubernetes ${KUBERNETES[*]} ${OTHERS[*]}"
      programs+=("$name") ;;
  esac
done
if [ $# = 0 ]; then programs+=("${OTHERS[@]}"); fi

mkdir -p "$cache"
for program in "${programs[@]}"; do
  version=$(version "$program")
  [ "$version" ] || fail "the go.mod for $program names no version of it"
  if [ ! -x "$cache/$program-$version" ]; then
    exec 8>"$cache/.$program.lock" # two callers build a program once
    flock --nonblock 8 || { say "waiting for another's build of $program"; flock 8; }
    [ -x "$cache/$program-$version" ] || build "$program" "$version"
    exec 8>&-
  fi
  link "$program" "$version"
done
