#!/usr/bin/env bash
# Takes the cluster down with all that is in it: processes, mounts, interfaces, control groups, files. down.sh: twice is fine, and so is a
# cluster that is half up. Nothing that up.sh did not make is touched.
set -euo pipefail
# shellcheck source=deploy/devcluster/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

TIMEOUT_S=60

# WHAT COMMAND...: waits until the command fails.
await_end() {
  local what=$1 end=$((SECONDS + TIMEOUT_S))
  shift
  while "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$end" ] || fail "$what still there after $TIMEOUT_S s; run down.sh again"
    sleep 0.1
  done
}

# Ends the node's first process, and with it, says the kernel, all others in its namespaces.
end_node() {
  local pid
  if pid=$(node_pid); then
    kill -KILL "$pid"
    await_end "the node's processes are" node_pid
  fi
}

# The kernel removes the link when the last process of the node's network namespace is gone, soon after the rest.
remove_link() {
  ip link delete "$LINK" 2>/dev/null || true
  await_end "the link $LINK is" ip link show "$LINK"
}

cgroups() { find /sys/fs/cgroup -mindepth 1 -maxdepth 2 -type d -name "$CGROUP"; }
cgroups_there() { [ -n "$(cgroups)" ]; }

remove_cgroups() {
  cgroups | while read -r cgroup; do find "$cgroup" -depth -type d -exec rmdir {} \; 2>/dev/null || true; done
  ! cgroups_there
}

remove_files() {
  ! grep -q " $STATE/" /proc/self/mountinfo || fail "something is mounted below $STATE, so it stays:" "$(grep " $STATE/" /proc/self/mountinfo)"
  rm -rf --one-file-system "$STATE" "$HOME/.kube/cache/discovery/${NODE_ADDRESS}_6443"
  rmdir --ignore-fail-on-non-empty "$STATES"
}

need_root
[ -e "$STATE" ] || cgroups_there || ip link show "$LINK" >/dev/null 2>&1 || { say "not there"; exit 0; }
take_turn
start=$SECONDS
end_node
remove_link
end=$((SECONDS + TIMEOUT_S))
until remove_cgroups; do
  [ "$SECONDS" -lt "$end" ] || fail "control groups are still in use: $(cgroups)"
  sleep 0.2
done
remove_files
say "down after $((SECONDS - start)) s"
