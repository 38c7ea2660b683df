{{/* A server with a volume, one replica: ServiceAccount, StatefulSet, Service, budget, monitor.

root, name, ports ({name, port}), dataPath; and what "semievol.pod" takes besides */}}
{{- define "semievol.stateful" -}}
{{- $values := include "semievol.values" . | fromYaml -}}
{{- $own := get .root.Values (.name | replace "object-store" "objectStore") -}}
{{- $name := printf "%s-%s" (include "semievol.fullname" .root) .name -}}
{{- $persistence := $values.persistence -}}
{{- $env := .env | default "" -}}
{{- $settings := dict "values" $values "command" $own.command "foreign" true "tls" "none" "stateful" true "portName" (first .ports).name "port" (first .ports).port "morePorts" (rest .ports) "env" $env -}}
{{- $context := merge $settings . -}}
{{- $mounts := printf "- {name: data, mountPath: %s}\n%s" .dataPath (.mounts | default "") | trim -}}
{{- $volumes := .volumes | default "" -}}
{{- if not $persistence.enabled -}}
{{- $volumes = printf "- {name: data, emptyDir: {sizeLimit: %s}}\n%s" $persistence.size $volumes | trim -}}
{{- else if $persistence.existingClaim -}}
{{- $volumes = printf "- {name: data, persistentVolumeClaim: {claimName: %s}}\n%s" $persistence.existingClaim $volumes | trim -}}
{{- end -}}
{{- $pod := merge (dict "mounts" $mounts "volumes" $volumes) $context -}}
{{- include "semievol.account" $context }}
---
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {{ $name }}
  labels:
    {{- include "semievol.labels" . | nindent 4 }}
spec:
  replicas: 1
  serviceName: {{ $name }}
  selector:
    matchLabels:
      {{- include "semievol.selector" . | nindent 6 }}
  template:
    {{- include "semievol.pod" $pod | nindent 4 }}
  {{- if and $persistence.enabled (not $persistence.existingClaim) }}
  persistentVolumeClaimRetentionPolicy:
    whenDeleted: {{ $persistence.retain | ternary "Retain" "Delete" }}
    whenScaled: Retain
  volumeClaimTemplates:
    - metadata:
        name: data
        labels:
          {{- include "semievol.selector" . | nindent 10 }}
      spec:
        {{- include "semievol.claim" $persistence | nindent 8 }}
  {{- end }}
---
{{ include "semievol.service" $context }}
{{- include "semievol.companions" $context }}
{{- end }}
