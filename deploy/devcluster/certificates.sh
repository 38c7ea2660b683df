#!/usr/bin/env bash
# The cluster's certificate authority, its certificates and kubeconfigs: certificates.sh DIRECTORY ADDRESS. What is there stays.
set -euo pipefail

directory=$1 address=$2
DAYS=3650

key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; }

# FILE USER GROUP [NAMES]: a certificate for a client, and for a server too where it has names.
certificate() {
  local file=$1 user=$2 group=$3 names=${4:-}
  key "$file"
  openssl req -new -key "$file.key" -subj "${group:+/O=$group}/CN=$user" |
    openssl x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days $DAYS -out "$file.crt" 2>/dev/null -extfile <(
      echo "extendedKeyUsage=clientAuth${names:+,serverAuth}"
      if [ -n "$names" ]; then echo "subjectAltName=$names"; fi
    )
}

# FILE: a kubeconfig that holds its certificates itself, so it can be copied anywhere.
kubeconfig() {
  cat <<YAML
apiVersion: v1
kind: Config
current-context: semievol-devcluster
contexts:
  - name: semievol-devcluster
    context: {cluster: semievol-devcluster, user: $1}
clusters:
  - name: semievol-devcluster
    cluster: {server: "https://$address:6443", certificate-authority-data: $(base64 -w0 ca.crt)}
users:
  - name: $1
    user: {client-certificate-data: $(base64 -w0 "$1.crt"), client-key-data: $(base64 -w0 "$1.key")}
YAML
}

if [ -e "$directory/complete" ]; then exit 0; fi
umask 077
mkdir -p "$directory"
cd "$directory"

key ca
openssl req -x509 -new -key ca.key -subj /CN=semievol-devcluster -days $DAYS -out ca.crt
services=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local
certificate apiserver kube-apiserver "" "$services,DNS:localhost,IP:127.0.0.1,IP:$address,IP:10.96.0.1"
certificate apiserver-kubelet kube-apiserver-kubelet-client system:masters
certificate node1 system:node:node1 system:nodes "DNS:node1,IP:$address"
certificate admin devcluster-admin system:masters
certificate controller-manager system:kube-controller-manager ""
certificate scheduler system:kube-scheduler ""
certificate proxy system:kube-proxy ""
key service-accounts
openssl ec -in service-accounts.key -pubout -out service-accounts.pub 2>/dev/null
for user in node1 admin controller-manager scheduler proxy; do kubeconfig "$user" >"$user.kubeconfig"; done
touch complete
