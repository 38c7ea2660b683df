#!/usr/bin/env bash
# Installs the Debian packages that a node and the building of images need, where they are missing. packages.sh
set -euo pipefail

say() { printf 'packages: %s\n' "$*"; }
fail() { printf 'packages: %s\n' "$@" >&2; exit 1; }

# A file of each, which tells that it is there however it came to be.
declare -A FILES=(
  [containerd]=/usr/bin/ctr
  [runc]=/usr/sbin/runc
  [etcd-server]=/usr/bin/etcd
  [containernetworking-plugins]=/usr/lib/cni/ptp
  [iptables]=/usr/sbin/iptables
  [iproute2]=/usr/bin/ip
  [util-linux]=/usr/bin/nsenter
  [openssl]=/usr/bin/openssl
  [buildah]=/usr/bin/buildah
  [debootstrap]=/usr/sbin/debootstrap
)

missing=()
for package in "${!FILES[@]}"; do [ -e "${FILES[$package]}" ] || missing+=("$package"); done
if [ ${#missing[@]} = 0 ]; then exit 0; fi
command -v apt-get >/dev/null || fail "these are missing, and only Debian's can be installed from here: ${missing[*]}"
[ "$(id -u)" = 0 ] || fail "these are missing: ${missing[*]}" "Install them: sudo apt-get install --no-install-recommends ${missing[*]}"

# The packages' own services are not wanted: the cluster runs its own, apart from the machine's.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
fi
say "installing ${missing[*]}"
install=(env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-remove --no-install-recommends "${missing[@]}")
log=$("${install[@]}" 2>&1) || log=$(apt-get update --quiet 2>&1 && "${install[@]}" 2>&1) || fail "that failed:" "$(tail -n 20 <<<"$log")"
