#!/usr/bin/env bash
# Brings up a real Kubernetes of one node on this machine: up.sh. Anything that it needs is installed and built first; what is up stays as it is, and
# what is left of a crash or a reboot comes back with all its objects. Settings, beside those in common.sh:
#   GPUS   so many nvidia.com/gpu are counted on the node, though no device is there (default: as before, or none)
set -euo pipefail
# shellcheck source=deploy/devcluster/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

BINARIES=(kube-apiserver kube-controller-manager kube-proxy kube-scheduler kubectl kubelet coredns local-path-provisioner busybox)
TIMEOUT_S=120 # for each wait; on two cores that do nothing else all of them together take some ten seconds

# WHAT COMMAND...: waits until the command succeeds.
await() {
  local what=$1 end=$((SECONDS + TIMEOUT_S))
  shift
  until "$@" >/dev/null 2>&1; do
    node_pid >/dev/null || fail "the node's first process ended:" "$(tail -n 20 "$STATE/log/init.log")"
    [ "$SECONDS" -lt "$end" ] || fail "$what not there after $TIMEOUT_S s; the logs are in $STATE/log, and the last words of each:" \
      "$(cd "$STATE/log" && tail -n 3 -- *.log)"
    sleep 0.2
  done
}

check_addresses() {
  [ ! -e "$STATE/address" ] || [ "$(cat "$STATE/address")" = "$NODE_ADDRESS" ] ||
    fail "this cluster's node has the address $(cat "$STATE/address"): take it down first, or leave DEVCLUSTER_NET as it was"
  local taken
  taken=$(ip -oneline -4 address show | awk -v own="$LINK" -v net="$NET." '$2 != own && index($4, net) == 1 { print $2 " has " $4 }')
  [ -z "$taken" ] || fail "the network $NET.0/24 is in use: $taken" "Name another one, such as DEVCLUSTER_NET=10.90.77"
}

write_state() {
  local name
  mkdir -p "$STATE"/{bin,log,node,run,var/lib,var/log,var/tmp}
  chmod 700 "$STATE"
  ln -sfn /run "$STATE/var/run"
  cp -R "$HERE/common.sh" "$HERE/node/." "$STATE/node/"
  for name in "${BINARIES[@]}"; do # a link where it can be, so that a later build does not change a cluster that runs
    cp --force --link --dereference "$CACHE/$name" "$STATE/bin/$name" 2>/dev/null || cp --force --dereference "$CACHE/$name" "$STATE/bin/$name"
  done
  bash "$HERE/certificates.sh" "$STATE/pki" "$NODE_ADDRESS"
  echo "$NODE_ADDRESS" >"$STATE/address"
  install -m 600 "$STATE/pki/admin.kubeconfig" "$STATE/kubeconfig"
}

make_cgroups() {
  local hierarchy
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    sed 's/\(^\| \)/ +/g' /sys/fs/cgroup/cgroup.controllers >/sys/fs/cgroup/cgroup.subtree_control
    mkdir -p "/sys/fs/cgroup/$CGROUP"
  else
    for hierarchy in /sys/fs/cgroup/*/; do mkdir -p "$hierarchy$CGROUP"; done
  fi
}

start_node() {
  local settings=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "HOME=$HOME" "DEVCLUSTER=$NAME" "DEVCLUSTER_NET=$NET")
  rm -f "$STATE/node.pid"
  # Only these variables: a proxy of the caller's, say, is nothing for an API server. And not the lock, which is this script's.
  env -i "${settings[@]}" ${XDG_STATE_HOME:+"XDG_STATE_HOME=$XDG_STATE_HOME"} \
    setsid unshare --mount --net --pid --uts --ipc --fork bash "$STATE/node/init.sh" >>"$STATE/log/init.log" 2>&1 </dev/null 9<&- &
  local outer=$! end=$((SECONDS + 10))
  until node_pid >/dev/null; do
    if [ "$SECONDS" -ge "$end" ] || ! kill -0 "$outer" 2>/dev/null; then
      fail "the node's first process did not start:" "$(tail -n 20 "$STATE/log/init.log")"
    fi
    sleep 0.05
  done
}

lay_link() {
  if ! ip link show "$LINK" >/dev/null 2>&1; then
    ip link add "$LINK" type veth peer name eth0 netns "$(node_pid)"
    ip address add "$HOST_ADDRESS/24" dev "$LINK"
    ip link set "$LINK" up
    # tests that ask an engine's pod, as a controller in the cluster does, run on this machine; the route goes with the link
    ip route add "$PODS" via "$NODE_ADDRESS" 2>/dev/null ||
      say "there is a route to $PODS already (another cluster's?), so this one's pods cannot be reached from this machine"
  fi
}

# The one image that a cluster cannot do without: busybox, which is the pods' pause process and makes the volumes' directories, and is there
# for tests. An archive as `docker save` writes it, on standard output.
base_image() {
  local scratch applet
  scratch=$(mktemp -d)
  # shellcheck disable=SC2064 # this directory; and the trap is the subshell's, since this is a part of a pipeline
  trap "rm -rf '$scratch'" EXIT
  mkdir -p "$scratch/root/bin"
  install -m 755 "$CACHE/busybox" "$scratch/root/bin/busybox"
  for applet in $("$CACHE/busybox" --list); do [ "$applet" = busybox ] || ln -s busybox "$scratch/root/bin/$applet"; done
  tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$scratch/root" -cf "$scratch/layer.tar" .
  cat >"$scratch/config.json" <<JSON
{"architecture": "$(dpkg --print-architecture)", "os": "linux", "config": {"Env": ["PATH=/bin"], "User": "65535:65535",
 "Entrypoint": ["/bin/busybox", "sleep", "2147483647"]},
 "rootfs": {"type": "layers", "diff_ids": ["sha256:$(sha256sum "$scratch/layer.tar" | cut -d ' ' -f 1)"]}}
JSON
  echo '[{"Config": "config.json", "RepoTags": ["localhost/pause:devcluster", "localhost/busybox:devcluster"], "Layers": ["layer.tar"]}]' \
    >"$scratch/manifest.json"
  tar -C "$scratch" -c manifest.json config.json layer.tar
}

load_base_image() {
  await containerd on_node ctr version
  [ -n "$(images ls -q name==localhost/busybox:devcluster)" ] || base_image | images import - >/dev/null
}

kubelet_is_up() { [ "$(cluster get --raw /api/v1/nodes/node1/proxy/healthz)" = ok ]; }
# A node that comes back has its state of before in the API server, so one from before this start does not count.
node_is_ready() {
  local ready heartbeat
  read -r ready heartbeat < <(cluster get node node1 \
    --output='jsonpath={range .status.conditions[?(@.type=="Ready")]}{.status} {.lastHeartbeatTime}{"\n"}{end}')
  [ "$ready" = True ] && [ "$(date --date="$heartbeat" +%s)" -ge "$(stat --format=%Y "$STATE/node.pid")" ]
}
dns_is_up() { on_node bash -c '</dev/tcp/10.244.255.53/53'; }

# Counted by the scheduler like real ones. A kubelet that starts forgets them, so this is said at every call.
set_gpus() {
  if [ -n "${GPUS:-}" ]; then echo "$GPUS" >"$STATE/gpus"; fi
  local gpus
  gpus=$(cat "$STATE/gpus" 2>/dev/null || echo 0)
  if [ "$gpus" = 0 ]; then gpus=null; else gpus="\"$gpus\""; fi
  cluster patch node node1 --subresource=status --type=merge \
    -p "{\"status\": {\"capacity\": {\"nvidia.com/gpu\": $gpus}, \"allocatable\": {\"nvidia.com/gpu\": $gpus}}}" >/dev/null
}

need_root
[[ ${GPUS:-0} =~ ^[0-9]+$ ]] || fail "GPUS is $GPUS: it takes a number"
"$HERE/packages.sh"
"$HERE/build.sh" "${BINARIES[@]}"
take_turn
start=$SECONDS
if ! node_pid >/dev/null; then
  check_addresses
  write_state
  make_cgroups
  start_node
fi
lay_link
load_base_image
await "the API server" cluster get --raw=/readyz
cluster apply --filename="$HERE/manifests" >/dev/null
await "the kubelet" kubelet_is_up
await "a ready node" node_is_ready
await "the DNS server" dns_is_up
await "the default service account" cluster get serviceaccount default
set_gpus
say "up after $((SECONDS - start)) s: $(cluster get node node1 --no-headers)"
say "export KUBECONFIG=$STATE/kubeconfig"
