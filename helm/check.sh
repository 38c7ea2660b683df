#!/usr/bin/env bash
# What the chart must pass: check.sh KUBERNETES_VERSION... . The programs are built by deploy/devcluster/build.sh; nothing is installed anywhere.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/semievol
chart=helm/semievol
schemas=$cache/kubernetes-schemas
scratch=$(mktemp -d "${TMPDIR:-/tmp}/semievol-chart-XXXXXX")
trap 'rm -rf "$scratch"' EXIT
failed=0

check() { # WHAT COMMAND...: its output is shown where it fails
  local what=$1
  shift
  if "$@" >"$scratch/log" 2>&1; then
    echo "chart: $what: ok"
  else
    echo "chart: $what: FAILED"
    cat "$scratch/log"
    failed=1
  fi
}

render() { "$cache/bin/helm" template semievol "$chart" --namespace semievol "$@"; }
drift() {
  cp -r "$chart" "$scratch/drift"
  (cd "$scratch/drift" && "$cache/bin/helm-docs" --log-level warning) || return
  diff "$chart/README.md" "$scratch/drift/README.md" || { echo "run make chart-docs"; return 1; }
}
valid() { # VERSION: every values file (in a condition, bash goes on after errors: hence the returns)
  local version=$1 values
  for values in "$chart"/values.yaml "$chart"/values-*.yaml; do
    render --kube-version "$version" --values "$values" >"$scratch/rendered.yaml" || return
    templates "$scratch/rendered.yaml" >"$scratch/templates.yaml" || return
    "$cache/bin/kubeconform" -strict -summary -kubernetes-version "$version" -skip ServiceMonitor,ScaledObject,Certificate \
      -schema-location "$schemas/{{ .NormalizedKubernetesVersion }}/{{ .ResourceKind }}{{ .KindSuffix }}.json" \
      "$scratch/rendered.yaml" "$scratch/templates.yaml" || return
  done
}
templates() { # FILE: the pod templates of Jobs and engine pods, as objects
  .venv/bin/python -m tests.charts "$1"
}

check "helm lint" "$cache/bin/helm" lint --strict --quiet --kube-version "$1" "$chart"
for values in "$chart"/values-*.yaml; do
  check "helm lint, $(basename "$values")" "$cache/bin/helm" lint --strict --quiet --kube-version "$1" --values "$values" "$chart"
done
check "unit tests" "$cache/bin/helm-unittest" --strict --color=false "$chart"
check "schema of values" .venv/bin/python helm/schema.py --check
check "README" drift
for version in "$@"; do
  if [ ! -f "$schemas/v$version/_definitions.json" ]; then
    check "schemas of Kubernetes $version" .venv/bin/python helm/kubernetes_schemas.py "$version" "$schemas"
  fi
  check "Kubernetes $version" valid "$version"
done
exit "$failed"
