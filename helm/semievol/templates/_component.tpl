{{/* A component: ServiceAccount, Deployment, Service, budget, autoscaler, claim, monitor. Every component has the same keys.

root, name, port, portName (grpc), module; headless: also a headless Service; metrics: whether it has any
env: the room's own variables; and what "semievol.pod" takes besides */}}
{{- define "semievol.component" -}}
{{- $values := include "semievol.values" . | fromYaml -}}
{{- if $values.enabled -}}
{{- $context := merge (dict "values" $values "account" .name "portName" (.portName | default "grpc")) . -}}
{{- include "semievol.account" $context }}
---
{{ include "semievol.deployment" $context }}
---
{{ include "semievol.service" $context }}
{{- if .headless }}
---
{{ include "semievol.headless" $context }}
{{- end }}
{{- include "semievol.companions" $context }}
{{- end -}}
{{- end }}

{{/* {root, name, values, apiAccess} */}}
{{- define "semievol.account" -}}
{{- if .values.serviceAccount.create }}
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "semievol.serviceAccount" . }}
  labels:
    {{- include "semievol.labels" . | nindent 4 }}
  {{- with .values.serviceAccount.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: {{ .apiAccess | default false }}
{{- end }}
{{- end }}

{{- define "semievol.deployment" -}}
{{- $grpc := eq .portName "grpc" -}}
{{- $probes := .probes -}}
{{- if not $probes -}}
{{- $alive := dict "grpc" (dict "port" 8081 "service" "liveness") -}}
{{- $probes = dict "startup" $alive "liveness" $alive "readiness" (dict "grpc" (dict "port" 8081)) -}}
{{- end -}}
{{- $gpu := gt (int .values.gpu.count) 0 -}}
{{- $several := or .values.autoscaling.enabled (gt (int .values.replicas) 1) -}}
{{- $ports := list (dict "name" .portName "port" .port) -}}
{{- if $grpc -}}
{{- $ports = append $ports (dict "name" "health" "port" 8081) -}}
{{- end -}}
{{- $common := include "semievol.env.common" (dict "root" .root "tls" (.tls | default "server") "health" $grpc "models" .models) -}}
{{- $settings := include "semievol.env.settings" (dict "prefix" .prefix "settings" .values.settings) -}}
{{- $env := printf "%s\n%s\n%s" $common .env (trim $settings) | trim -}}
{{- $pod := merge (dict "tls" (.tls | default "server") "probes" $probes "ports" $ports "env" $env "args" (list .module)) . -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "semievol.fullname" .root }}-{{ .name }}
  labels:
    {{- include "semievol.labels" . | nindent 4 }}
spec:
  {{- if not .values.autoscaling.enabled }}
  replicas: {{ int .values.replicas }}
  {{- end }}
  revisionHistoryLimit: 5
  strategy:
    {{- if .values.strategy }}
    {{- toYaml .values.strategy | nindent 4 }}
    {{- else if or .values.persistence.enabled (and $gpu (not $several)) }}
    type: Recreate
    {{- else if $gpu }}
    type: RollingUpdate # one after the other, since no GPU is spare
    rollingUpdate: {maxSurge: 0, maxUnavailable: 1}
    {{- else }}
    type: RollingUpdate
    rollingUpdate: {maxSurge: 1, maxUnavailable: 0}
    {{- end }}
  selector:
    matchLabels:
      {{- include "semievol.selector" . | nindent 6 }}
  template:
    {{- include "semievol.pod" $pod | nindent 4 }}
{{- end }}

{{- define "semievol.service" -}}
{{- $service := .values.service -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "semievol.fullname" .root }}-{{ .name }}
  labels:
    {{- include "semievol.labels" . | nindent 4 }}
  {{- with $service.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ $service.type }}
  selector:
    {{- include "semievol.selector" . | nindent 4 }}
  ports:
    - name: {{ .portName }}
      port: {{ int $service.port | default .port }}
      targetPort: {{ .portName }}
      {{- if and (eq .portName "grpc") (eq .root.Values.tls.mode "off") }}
      appProtocol: kubernetes.io/h2c
      {{- end }}
      {{- if and (ne $service.type "ClusterIP") $service.nodePort }}
      nodePort: {{ int $service.nodePort }}
      {{- end }}
    {{- range .morePorts }}
    - {name: {{ .name }}, port: {{ .port }}, targetPort: {{ .name }}}
    {{- end }}
{{- end }}

{{/* Every pod's own address, for callers that spread their calls by themselves. {root, name, port, portName} and as `suffix` what ends its name */}}
{{- define "semievol.headless" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "semievol.fullname" .root }}-{{ .name }}{{ hasKey . "suffix" | ternary .suffix "-headless" }}
  labels:
    {{- include "semievol.labels" . | nindent 4 }}
spec:
  clusterIP: None
  {{- if .unready }}
  publishNotReadyAddresses: true
  {{- end }}
  selector:
    {{- include "semievol.selector" . | nindent 4 }}
  ports:
    - {name: {{ .portName }}, port: {{ .port }}, targetPort: {{ .port }}}
{{- end }}

{{/* What stands beside the pods: disruption budget, autoscaler, claim, monitor. */}}
{{- define "semievol.companions" -}}
{{- $name := printf "%s-%s" (include "semievol.fullname" .root) .name -}}
{{- $values := .values -}}
{{- if $values.pdb.enabled }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ $name }}
  labels:
    {{- include "semievol.labels" . | nindent 4 }}
spec:
  maxUnavailable: {{ $values.pdb.maxUnavailable }}
  selector:
    matchLabels:
      {{- include "semievol.selector" . | nindent 6 }}
{{- end }}
{{- if and $values.autoscaling.enabled (not .stateful) }}
---
{{ include "semievol.autoscaler" . }}
{{- end }}
{{- if not .stateful }}
{{- include "semievol.volumeClaim" . }}
{{- end }}
{{- if $values.monitor.enabled }}
---
{{ include "semievol.monitor" . }}
{{- end }}
{{- end }}

{{/* The claim of a pod's /var/lib/semievol, if it is the chart's. {root, name, values} */}}
{{- define "semievol.volumeClaim" -}}
{{- $persistence := .values.persistence -}}
{{- if and $persistence.enabled (not $persistence.existingClaim) }}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ include "semievol.fullname" .root }}-{{ .name }}
  labels:
    {{- include "semievol.labels" . | nindent 4 }}
  {{- if $persistence.retain }}
  annotations: {helm.sh/resource-policy: keep}
  {{- end }}
spec:
  {{- include "semievol.claim" $persistence | nindent 2 }}
{{- end }}
{{- end }}

{{- define "semievol.claim" -}}
accessModes: {{ toJson .accessModes }}
{{- with .storageClass }}
storageClassName: {{ . }}
{{- end }}
resources:
  requests: {storage: {{ .size }}}
{{- end }}

{{- define "semievol.autoscaler" -}}
{{- $name := printf "%s-%s" (include "semievol.fullname" .root) .name -}}
{{- $scaling := .values.autoscaling -}}
{{- if eq $scaling.kind "keda" -}}
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: {{ $name }}
  labels:
    {{- include "semievol.labels" . | nindent 4 }}
spec:
  scaleTargetRef: {name: {{ $name }}}
  minReplicaCount: {{ int $scaling.minReplicas }}
  maxReplicaCount: {{ int $scaling.maxReplicas }}
  triggers:
    {{- toYaml $scaling.triggers | nindent 4 }}
{{- else -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ $name }}
  labels:
    {{- include "semievol.labels" . | nindent 4 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: {{ $name }}}
  minReplicas: {{ int $scaling.minReplicas }}
  maxReplicas: {{ int $scaling.maxReplicas }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target: {type: Utilization, averageUtilization: {{ int $scaling.cpuUtilization }}}
    {{- with $scaling.metrics }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
{{- end }}

{{/* {metricsPort: name of the Service's port, metricsPath, metricsAuth: bool} */}}
{{- define "semievol.monitor" -}}
{{- $monitor := .values.monitor -}}
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  name: {{ include "semievol.fullname" .root }}-{{ .name }}
  labels:
    {{- include "semievol.labels" . | nindent 4 }}
    {{- with $monitor.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  selector:
    matchLabels:
      {{- include "semievol.selector" . | nindent 6 }}
  endpoints:
    - port: {{ .metricsPort }}
      path: {{ .metricsPath }}
      interval: {{ $monitor.interval }}
      {{- if and .metricsAuth (ne .root.Values.tls.mode "off") }}
      scheme: https
      tlsConfig:
        ca: {secret: {name: {{ include "semievol.tlsSecret" .root }}, key: ca.crt}}
        serverName: {{ include "semievol.fullname" .root }}-{{ .name }}
      {{- end }}
      {{- if and .metricsAuth .root.Values.auth.enabled }}
      authorization:
        type: Bearer
        credentials: {name: {{ include "semievol.authSecret" .root }}, key: token}
      {{- end }}
{{- end }}
