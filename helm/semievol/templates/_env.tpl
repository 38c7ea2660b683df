{{/* Environment variables of the suite's processes. */}}

{{/* A value as the settings read it: whole numbers without an exponent, lists and maps as JSON. */}}
{{- define "semievol.scalar" -}}
{{- if or (kindIs "map" .) (kindIs "slice" .) -}}
{{- toJson . -}}
{{- else if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- printf "%.0f" . -}}
{{- else -}}
{{- toString . -}}
{{- end -}}
{{- end }}

{{/* Settings by field name. {prefix, settings} */}}
{{- define "semievol.env.settings" -}}
{{- $prefix := .prefix -}}
{{- range $name, $value := .settings }}
- name: {{ printf "%s_%s" $prefix (upper $name) }}
  value: {{ include "semievol.scalar" $value | quote }}
{{- end }}
{{- end }}

{{/* What every process of ours has. {root, tls: server|client|none, health: bool, models: bool} */}}
{{- define "semievol.env.common" -}}
{{- $values := .root.Values -}}
- name: HOME
  value: /var/lib/semievol
- name: XDG_CACHE_HOME
  value: /var/lib/semievol/cache
{{- if .health }}
- name: SEMIEVOL_HEALTH_ADDRESS
  value: 0.0.0.0:8081
{{- end }}
{{- if and (ne $values.tls.mode "off") (ne .tls "none") }}
- name: SEMIEVOL_TLS_CA_FILE
  value: /etc/semievol/tls/ca.crt
{{- if or (eq .tls "server") $values.tls.mutual }}
- name: SEMIEVOL_TLS_CERT_FILE
  value: /etc/semievol/tls/tls.crt
- name: SEMIEVOL_TLS_KEY_FILE
  value: /etc/semievol/tls/tls.key
{{- end }}
{{- if and (eq .tls "server") $values.tls.mutual }}
- name: SEMIEVOL_TLS_REQUIRE_CLIENT_CERT
  value: "true"
{{- end }}
{{- end }}
{{- if .models }}
- name: OMP_NUM_THREADS # a container sees all cores of its node, whatever it may use of them
  valueFrom:
    resourceFieldRef: {containerName: main, resource: limits.cpu}
{{- if $values.models.offline }}
- name: HF_HUB_OFFLINE
  value: "1"
- name: TRANSFORMERS_OFFLINE
  value: "1"
{{- end }}
{{- if $values.models.hubSecret }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ $values.models.hubSecret }}, key: token}
{{- end }}
{{- end }}
{{- end }}

{{/* s3://BUCKET[/PREFIX] */}}
{{- define "semievol.store" -}}
{{- $store := .Values.objectStore -}}
{{- $bucket := $store.enabled | ternary $store.bucket $store.external.bucket -}}
{{- $prefix := $store.enabled | ternary $store.prefix $store.external.prefix | trimAll "/" -}}
{{- printf "s3://%s%s" $bucket (empty $prefix | ternary "" (printf "/%s" $prefix)) -}}
{{- end }}

{{- define "semievol.storeSecret" -}}
{{- .Values.objectStore.credentials.existingSecret | default (printf "%s-object-store" (include "semievol.fullname" .)) -}}
{{- end }}

{{/* Where the artifacts are, and what opens it */}}
{{- define "semievol.env.store" -}}
{{- $store := .Values.objectStore -}}
{{- if $store.enabled }}
- name: SEMIEVOL_S3_ENDPOINT
  value: http://{{ include "semievol.address" (dict "root" . "name" "object-store" "port" 9000) }}
{{- else }}
{{- with $store.external.endpoint }}
- name: SEMIEVOL_S3_ENDPOINT
  value: {{ printf "%s://%s" ($store.external.secure | ternary "https" "http") . }}
{{- end }}
{{- with $store.external.region }}
- name: SEMIEVOL_S3_REGION
  value: {{ . | quote }}
{{- end }}
{{- if $store.external.caSecret }}
- name: SSL_CERT_FILE
  value: /etc/semievol/store-ca/ca.crt
{{- end }}
{{- end }}
- name: AWS_ACCESS_KEY_ID
  valueFrom:
    secretKeyRef: {name: {{ include "semievol.storeSecret" . }}, key: {{ $store.credentials.accessKeyKey }}}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef: {name: {{ include "semievol.storeSecret" . }}, key: {{ $store.credentials.secretKeyKey }}}
{{- end }}

{{- define "semievol.milvusUri" -}}
{{- if .Values.milvus.enabled -}}
http://{{ include "semievol.address" (dict "root" . "name" "milvus" "port" 19530) }}
{{- else -}}
{{- .Values.milvus.external.uri -}}
{{- end -}}
{{- end }}

{{- define "semievol.env.milvusToken" -}}
{{- if and (not .Values.milvus.enabled) .Values.milvus.external.existingSecret }}
- name: SEMIEVOL_MILVUS_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ .Values.milvus.external.existingSecret }}, key: token}
{{- end }}
{{- if and (not .Values.milvus.enabled) .Values.milvus.external.caSecret }}
- name: GRPC_DEFAULT_SSL_ROOTS_FILE_PATH
  value: /etc/semievol/milvus-ca/ca.crt
{{- end }}
{{- end }}

{{/* An engine's settings, serving or a run's. */}}
{{- define "semievol.env.engine" -}}
- name: SEMIEVOL_GENERATION_ADDRESS
  value: 0.0.0.0:50053
- name: SEMIEVOL_GENERATION_BACKEND
  value: {{ .Values.engine.backend }}
- name: SEMIEVOL_GENERATION_MODEL
  value: {{ .Values.models.base | quote }}
- name: SEMIEVOL_GENERATION_ADAPTER_MODE
  value: {{ .Values.engine.adapterMode }}
- name: SEMIEVOL_GENERATION_STORE
  value: {{ include "semievol.store" . }}
- name: SEMIEVOL_GENERATION_CACHE
  value: /var/lib/semievol/cache
{{- include "semievol.env.store" . }}
{{- if eq .Values.engine.backend "vllm" }}
{{- include "semievol.env.settings" (dict "prefix" "SEMIEVOL_VLLM" "settings" .Values.engine.vllm) }}
{{- end }}
{{- end }}

{{/* What the Kubernetes launchers read; `owner`'s run ConfigMaps own the Jobs. */}}
{{- define "semievol.env.kubernetes" -}}
- name: SEMIEVOL_KUBERNETES_TEMPLATES
  value: /etc/semievol/jobs/templates.yaml
- name: SEMIEVOL_KUBERNETES_OWNER
  value: {{ include "semievol.fullname" . }}-controller
{{- end }}
