# Sourced by the scripts beside it: what a cluster is called, where it lies, and whether it runs. Two clusters can stand side by side:
#   DEVCLUSTER       the cluster's name (default: devcluster)
#   DEVCLUSTER_NET   the first three numbers of the network between this machine and the node (default: 10.89.0)
# shellcheck shell=bash disable=SC2034 # what one script does not use, another does

NAME=${DEVCLUSTER:-devcluster}
NET=${DEVCLUSTER_NET:-10.89.0}
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/semievol/bin
STATES=${XDG_STATE_HOME:-$HOME/.local/state}/semievol
STATE=$STATES/$NAME # all that a cluster writes, but for its control groups
LINK=sv-$NAME       # this machine's end of the link; the other end is the node's eth0
CGROUP=semievol-$NAME
HOST_ADDRESS=$NET.1
NODE_ADDRESS=$NET.2
PODS=10.244.0.0/24 # as node/cni/10-pods.conflist has it

say() { printf '%s: %s\n' "$NAME" "$*"; }
fail() { printf "$NAME: %s\n" "$@" >&2; exit 1; }

[[ $NAME =~ ^[a-z][a-z0-9-]{0,11}$ ]] ||
  fail "DEVCLUSTER is $NAME: it takes 1 to 12 of a-z, 0-9 and -, since a network link is named after it"
[[ $NET =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]] || fail "DEVCLUSTER_NET is $NET: it takes three numbers, as in 10.89.0"

need_root() { [ "$(id -u)" = 0 ] || fail "a node needs namespaces, mounts and control groups, so this needs root (sudo -E keeps HOME)"; }

# One script at a time, whoever calls: up and down of one user's clusters wait for one another. The directory itself is locked, so
# no lock file stays behind.
take_turn() {
  mkdir -p "$STATES"
  exec 9<"$STATES"
  flock --nonblock 9 || { say "waiting for another script that works on a cluster"; flock 9; }
  [ "$STATES" -ef /dev/fd/9 ] || take_turn # a down.sh that had the turn before has removed it
}

# PID: when that process began, as text that no other process of this or an earlier boot shares; fails where it runs no more.
began() {
  local stat fields
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  read -ra fields <<<"${stat##*) }" # the fields after the command's name, which may hold anything; the first is number 3 of proc(5)
  [ "${fields[0]}" != Z ] || return 1
  printf '%s@%s\n' "${fields[19]}" "$(cat /proc/sys/kernel/random/boot_id)"
}

# The process id of the node's first process; fails where the node does not run. A process that merely got the same id is not it.
node_pid() {
  local pid since
  { read -r pid since <"$STATE/node.pid"; } 2>/dev/null && [ "$(began "$pid")" = "$since" ] && printf '%s\n' "$pid"
}

# COMMAND...: runs it on the node, in all its namespaces; standard input is passed on.
on_node() {
  local pid
  pid=$(node_pid) || fail "the cluster is not up: run deploy/devcluster/up.sh"
  nsenter --target "$pid" --mount --uts --ipc --net --pid -- "$@"
}

images() { on_node ctr --namespace k8s.io images "$@"; }

cluster() { "$CACHE/kubectl" --kubeconfig "$STATE/kubeconfig" --cache-dir "$STATE/kubectl-cache" "$@"; }
