#!/usr/bin/env bash
# The node's first process, which up.sh starts in PID, mount, network, UTS and IPC namespaces of their own. When it ends, for whatever reason,
# the kernel ends every process of the node and takes its mounts, interfaces and packet filter away: that is all that down.sh has to do.
# up.sh copies this file and its neighbours to $STATE/node; inside, $STATE is /run/devcluster.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR/..
. "$(dirname "$0")/common.sh"

root=/run/devcluster
bin=$root/bin
pki=$root/pki
DNS_ADDRESS=10.244.255.53 # in the pods' range, outside the node's share of it; also in resolv.conf and manifests/dns.yaml

# The machine's /proc is still mounted here, so this is the process id that the machine knows.
announce() {
  local pid
  read -r pid _ </proc/self/stat
  printf '%s %s\n' "$pid" "$(began "$pid")" >"$STATE/node.pid.new"
  mv "$STATE/node.pid.new" "$STATE/node.pid"
}

# The node's own /var, /run and /tmp, so that containerd, the kubelet, CNI and their sockets can keep their usual paths and touch nothing of
# the machine's. $STATE may lie below any of the three, so it is bound inside before they cover it.
own_files() {
  cd /
  mount --no-mtab -t tmpfs -o mode=755 tmpfs "$STATE/run"
  mkdir "$STATE$root" "$STATE/run/lock"
  mount --no-mtab --bind "$STATE" "$STATE$root"
  mount --no-mtab --move "$STATE/run" /run
  mount --no-mtab --bind "$root/var" /var
  mount --no-mtab -t tmpfs tmpfs /tmp
  mount --no-mtab -t proc proc /proc
  hostname node1
  # Settings of the kernel's that are the whole machine's are not the node's to change. The kubelet insists on six of them, so it finds what it
  # wants in files that lie over the real ones.
  local area pair file
  for area in fs kernel vm; do
    mount --no-mtab --bind "/proc/sys/$area" "/proc/sys/$area"
    mount --no-mtab -o remount,bind,ro "/proc/sys/$area"
  done
  for pair in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    file=$(mktemp /run/sysctl-XXXXXX)
    echo "${pair#*=}" >"$file"
    mount --no-mtab --bind "$file" "/proc/sys/${pair%=*}"
  done
  mount --no-mtab --make-rshared / # volumes that pods mount with propagation want a shared root; it is shared with nobody outside
}

# up.sh lays the link as soon as it knows this process. The default route has to be there, since the API server and the kubelet look for it,
# but the machine forwards nothing.
own_network() {
  until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
  ip link set lo up
  ip address add "$DNS_ADDRESS/32" dev lo
  ip address add "$NODE_ADDRESS/24" dev eth0
  ip link set eth0 up
  ip route add default via "$HOST_ADDRESS"
  echo 1 >/proc/sys/net/ipv4/ip_forward
}

# NAME COMMAND...: runs it for ever, as a service manager would.
keep() {
  local name=$1 status
  shift
  while :; do
    status=0
    "$@" >>"$root/log/$name.log" 2>&1 </dev/null || status=$?
    printf '%(%FT%TZ)T %s ended with %s\n' -1 "$name" "$status" >>"$root/log/init.log"
    sleep 1
  done
}

etcd_server() {
  etcd --data-dir /var/lib/etcd --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 --initial-cluster default=http://127.0.0.1:2380
}

api_server() {
  "$bin/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --advertise-address="$NODE_ADDRESS" --service-cluster-ip-range=10.96.0.0/16 \
    --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" --client-ca-file="$pki/ca.crt" \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true \
    --service-account-issuer=https://kubernetes.default.svc.cluster.local \
    --service-account-signing-key-file="$pki/service-accounts.key" --service-account-key-file="$pki/service-accounts.pub" \
    --kubelet-client-certificate="$pki/apiserver-kubelet.crt" --kubelet-client-key="$pki/apiserver-kubelet.key" \
    --kubelet-certificate-authority="$pki/ca.crt" --kubelet-preferred-address-types=InternalIP
}

controllers() {
  "$bin/kube-controller-manager" --kubeconfig="$pki/controller-manager.kubeconfig" --leader-elect=false --use-service-account-credentials \
    --service-account-private-key-file="$pki/service-accounts.key" --root-ca-file="$pki/ca.crt" \
    --cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key"
}

node_agent() {
  "$bin/kubelet" --config="$root/node/kubelet.yaml" --kubeconfig="$pki/node1.kubeconfig" --node-ip="$NODE_ADDRESS" --cgroup-root="/$CGROUP" \
    --cert-dir=/var/lib/kubelet/pki
}

provisioner() {
  "$bin/local-path-provisioner" start --kubeconfig="$pki/admin.kubeconfig" --namespace=kube-system --config="$root/node/volumes.json" \
    --helper-pod-file="$root/node/volume-helper.yaml" --configmap-name=local-path-config --service-account-name=local-path-helper
}

main() {
  announce
  own_files
  own_network
  keep containerd containerd --config "$root/node/containerd.toml" &
  keep etcd etcd_server &
  keep kube-apiserver api_server &
  until "$bin/kubectl" --kubeconfig="$pki/admin.kubeconfig" get --raw=/readyz >/dev/null 2>&1; do sleep 0.2; done
  keep kube-controller-manager controllers &
  keep kube-scheduler "$bin/kube-scheduler" --kubeconfig="$pki/scheduler.kubeconfig" --leader-elect=false &
  keep kubelet node_agent &
  keep kube-proxy "$bin/kube-proxy" --config="$root/node/kube-proxy.yaml" &
  keep coredns "$bin/coredns" -conf "$root/node/Corefile" &
  keep local-path-provisioner provisioner &
  wait
}

main # read whole before it runs
