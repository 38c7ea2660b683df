{{/* What the launchers make pods from: whole, but for names, owners, arguments and labels of the run. */}}
{{- define "semievol.jobs" -}}
step:
  {{- include "semievol.job" (dict "root" . "name" "step" "storeCa" true
    "env" (include "semievol.env.store" .)) | nindent 2 }}
training:
  {{- include "semievol.job" (dict "root" . "name" "training-job" "storeCa" true "models" true "prefix" "SEMIEVOL_TRAINING"
    "env" (include "semievol.env.store" .)) | nindent 2 }}
engine:
  {{- include "semievol.job" (dict "root" . "name" "run-engine" "tls" "server" "storeCa" true "models" true "prefix" "SEMIEVOL_GENERATION"
    "repository" (include "semievol.engineRepository" .) "ports" (list (dict "name" "grpc" "port" 50053) (dict "name" "health" "port" 8081))
    "env" (include "semievol.env.engine" .)) | nindent 2 }}
{{- end }}

{{/* One entry; engines are pods, not Jobs. {root, name, env, prefix, ...} */}}
{{- define "semievol.job" -}}
{{- $values := include "semievol.values" . | fromYaml -}}
{{- $engine := eq .name "run-engine" -}}
{{- $queue := .root.Values.jobs.queueName -}}
{{- $common := include "semievol.env.common" (dict "root" .root "tls" (.tls | default "client") "health" $engine "models" .models) -}}
{{- $settings := include "semievol.env.settings" (dict "prefix" .prefix "settings" $values.settings) -}}
{{- $env := printf "%s\n%s\n%s" $common (trim .env) (trim $settings) | trim -}}
{{- if not $engine -}}
job:
  labels:
    {{- include "semievol.selector" . | nindent 4 }}
    {{- with $queue }}
    kueue.x-k8s.io/queue-name: {{ . }}
    {{- end }}
  annotations: {}
  suspend: {{ not (empty $queue) }}
  ttlSecondsAfterFinished: {{ int $values.ttlSecondsAfterFinished }}
  activeDeadlineSeconds: {{ int $values.activeDeadlineSeconds | default "null" }}
{{ end -}}
template:
{{- $pod := dict "tls" (.tls | default "client") "values" $values "env" $env "job" true }}
{{- if $engine }}
{{- $alive := dict "grpc" (dict "port" 8081 "service" "liveness") }}
{{- $_ := set $pod "probes" (dict "startup" $alive "liveness" $alive "readiness" (dict "grpc" (dict "port" 8081))) }}
{{- $_ := set $pod "args" (list "semievol.generation.server") }}
{{- end }}
  {{- include "semievol.pod" (merge $pod .) | nindent 2 }}
  {{- if $engine }}
    subdomain: {{ include "semievol.fullname" .root }}-run-engine
  {{- end }}
{{- end }}
