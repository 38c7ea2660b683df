#!/usr/bin/env bash
# Builds the servers that the tests run against and that no package brings, outside the repository: ${XDG_CACHE_HOME:-~/.cache}/semievol/bin.
# What is built already stays, so this is done in a moment. MinIO needs Go 1.24 or later, and takes some minutes.
#
#   GO   the go command (default: go, or /usr/local/go/bin/go)
set -euo pipefail

MINIO=v0.0.0-20260212201848-7aac2a2c5b7c
cache=${XDG_CACHE_HOME:-$HOME/.cache}/semievol/bin

say() { printf 'servers: %s\n' "$*"; }
fail() { printf 'servers: %s\n' "$@" >&2; exit 1; }

binary=$cache/minio-${MINIO##*-}
if [ -x "$binary" ]; then exit 0; fi
GO=${GO:-$(command -v go || echo /usr/local/go/bin/go)}
"$GO" version >/dev/null 2>&1 ||
  fail "the tests run against a real MinIO, and building it needs Go, which is not there." \
    "Install it (Debian, Ubuntu: apt-get install golang-go, where that is 1.24 or later; or go.dev), or name it: make test GO=/path/to/go"
say "building MinIO $MINIO with $("$GO" version | cut -d ' ' -f 3), which takes some minutes"
scratch=$(mktemp -d "${TMPDIR:-/tmp}/semievol-servers-XXXXXX")
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$cache"
GOFLAGS=-modcacherw CGO_ENABLED=0 GOBIN=$scratch "$GO" install "github.com/minio/minio@$MINIO" >"$scratch/log" 2>&1 ||
  fail "building MinIO failed:" "$(tail -n 20 "$scratch/log")"
install -m 755 "$scratch/minio" "$binary.$$"
mv "$binary.$$" "$binary" # whole or not at all, whoever else builds it meanwhile
say "MinIO is in $binary"
