{{/* One pod template for everything that runs.

root, name (of the component), values (merged)
repository   image where the values name none
command, args, ports ({name, port}), env (YAML list)
probes       startup, readiness, liveness as YAML maps without timings
tls          server | client | none;  tokens, jobs, storeCa, models: bool, what is mounted
apiAccess    whether the pod has its ServiceAccount's token
job          restartPolicy Never, no probes
account      ServiceAccount's owner, if not `name`
init, mounts, volumes, annotations: further YAML
*/}}
{{- define "semievol.pod" -}}
{{- $root := .root -}}
{{- $values := .values -}}
metadata:
  labels:
    {{- include "semievol.selector" . | nindent 4 }}
    app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- if or .annotations $values.podAnnotations }}
  annotations:
    {{- with .annotations }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- with $values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
spec:
  serviceAccountName: {{ include "semievol.serviceAccount" . }}
  automountServiceAccountToken: {{ .apiAccess | default false }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ int $values.terminationGracePeriodSeconds }}
  {{- if .job }}
  restartPolicy: Never
  {{- end }}
  {{- with $root.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  securityContext:
    {{- toYaml $values.podSecurityContext | nindent 4 }}
  {{- with .init }}
  initContainers:
    {{- . | nindent 4 }}
  {{- end }}
  containers:
    - name: main
      image: {{ include "semievol.image" . }}
      imagePullPolicy: {{ $values.image.pullPolicy | default $root.Values.image.pullPolicy }}
      {{- with .command }}
      command: {{ toJson . }}
      {{- end }}
      {{- with .args }}
      args: {{ toJson . }}
      {{- end }}
      {{- with .ports }}
      ports:
        {{- range . }}
        - {name: {{ .name }}, containerPort: {{ .port }}}
        {{- end }}
      {{- end }}
      {{- $env := printf "%s\n%s" (.env | default "") ($values.env | empty | ternary "" (toYaml $values.env)) | trim }}
      {{- with $env }}
      env:
        {{- . | nindent 8 }}
      {{- end }}
      resources:
        {{- include "semievol.resources" . | nindent 8 }}
      {{- range $probe, $kind := .probes }}
      {{ $probe }}Probe:
        {{- toYaml (merge (deepCopy $kind) (get $values.probes $probe)) | nindent 8 }}
      {{- end }}
      {{- if and .ports (not .job) (gt (int $values.preStopSeconds) 0) }}
      lifecycle:
        preStop:
          sleep: {seconds: {{ int $values.preStopSeconds }}}
      {{- end }}
      terminationMessagePolicy: FallbackToLogsOnError
      securityContext:
        {{- toYaml $values.securityContext | nindent 8 }}
      volumeMounts:
        {{- include "semievol.pod.mounts" . | nindent 8 }}
  volumes:
    {{- include "semievol.pod.volumes" . | nindent 4 }}
  {{- include "semievol.pod.scheduling" . | nindent 2 }}
{{- end }}

{{/* Requests and limits, with the GPUs. {values} */}}
{{- define "semievol.resources" -}}
{{- $resources := deepCopy (.values.resources | default dict) -}}
{{- $gpus := int .values.gpu.count -}}
{{- if gt $gpus 0 -}}
{{- range $kind := list "requests" "limits" -}}
{{- $_ := set $resources $kind (merge (dict $.values.gpu.resourceName (toString $gpus)) (get $resources $kind | default dict)) -}}
{{- end -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end }}

{{- define "semievol.pod.mounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if not .foreign }}
- {name: state, mountPath: /var/lib/semievol}
{{- end }}
{{- if .values.shmSize }}
- {name: shm, mountPath: /dev/shm}
{{- end }}
{{- if and (ne .root.Values.tls.mode "off") (ne .tls "none") }}
- {name: tls, mountPath: /etc/semievol/tls, readOnly: true}
{{- end }}
{{- if and .tokens .root.Values.auth.enabled }}
- {name: tokens, mountPath: /etc/semievol/tokens, readOnly: true}
{{- end }}
{{- if .jobs }}
- {name: jobs, mountPath: /etc/semievol/jobs, readOnly: true}
{{- end }}
{{- if and .storeCa (not .root.Values.objectStore.enabled) .root.Values.objectStore.external.caSecret }}
- {name: store-ca, mountPath: /etc/semievol/store-ca, readOnly: true}
{{- end }}
{{- if and .models .root.Values.models.existingClaim }}
- {name: models, mountPath: /models, readOnly: true}
{{- end }}
{{- with .mounts }}
{{ . }}
{{- end }}
{{- with .values.volumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "semievol.pod.volumes" -}}
{{- $persistence := .values.persistence -}}
- name: tmp
  emptyDir: {}
{{- if not .foreign }}
- name: state
  {{- if $persistence.enabled }}
  persistentVolumeClaim: {claimName: {{ $persistence.existingClaim | default (printf "%s-%s" (include "semievol.fullname" .root) .name) }}}
  {{- else }}
  emptyDir: {sizeLimit: {{ $persistence.size }}}
  {{- end }}
{{- end }}
{{- with .values.shmSize }}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ . }}}
{{- end }}
{{- if and (ne .root.Values.tls.mode "off") (ne .tls "none") }}
- name: tls
  secret:
    secretName: {{ include "semievol.tlsSecret" .root }}
    defaultMode: 0440
    {{- if not (or (eq .tls "server") .root.Values.tls.mutual) }}
    items: [{key: ca.crt, path: ca.crt}]
    {{- end }}
{{- end }}
{{- if and .tokens .root.Values.auth.enabled }}
- name: tokens
  secret: {secretName: {{ include "semievol.authSecret" .root }}, defaultMode: 0440}
{{- end }}
{{- if .jobs }}
- name: jobs
  configMap: {name: {{ include "semievol.fullname" .root }}-jobs}
{{- end }}
{{- if and .storeCa (not .root.Values.objectStore.enabled) .root.Values.objectStore.external.caSecret }}
- name: store-ca
  secret: {secretName: {{ .root.Values.objectStore.external.caSecret }}, items: [{key: ca.crt, path: ca.crt}]}
{{- end }}
{{- if and .models .root.Values.models.existingClaim }}
- name: models
  persistentVolumeClaim: {claimName: {{ .root.Values.models.existingClaim }}, readOnly: true}
{{- end }}
{{- with .volumes }}
{{ . }}
{{- end }}
{{- with .values.volumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "semievol.pod.scheduling" -}}
{{- $values := .values -}}
{{- range $key := list "nodeSelector" "tolerations" "topologySpreadConstraints" }}
{{- with get $values $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- range $key := list "priorityClassName" "runtimeClassName" }}
{{- with get $values $key }}
{{ $key }}: {{ . }}
{{- end }}
{{- end }}
{{- if $values.affinity }}
affinity:
  {{- toYaml $values.affinity | nindent 2 }}
{{- else if not .job }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 1
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "semievol.selector" . | nindent 14 }}
{{- end }}
{{- end }}
