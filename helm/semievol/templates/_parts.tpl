{{/* Parts that several components have. */}}

{{/* Waits for what comes with the release and starts as slowly as the suite: makes the embedded store's bucket, waits for the embedded
     Milvus. A server of yours is not waited for: who needs it says what is wrong with it. {root, name, store: bool, milvus: bool} */}}
{{- define "semievol.prepare" -}}
{{- if or .store .milvus -}}
{{- $values := include "semievol.values" . | fromYaml -}}
{{- $args := list "semievol.cluster.prepare" -}}
{{- if .store -}}
{{- $args = concat $args (list "--make-bucket" (include "semievol.store" .root)) -}}
{{- end -}}
{{- if .milvus -}}
{{- $args = concat $args (list "--milvus" (include "semievol.milvusUri" .root)) -}}
{{- end -}}
- name: prepare
  image: {{ include "semievol.image" (dict "root" .root "values" $values) }}
  imagePullPolicy: {{ $values.image.pullPolicy | default .root.Values.image.pullPolicy }}
  args: {{ toJson $args }}
  env:
    - name: HOME
      value: /var/lib/semievol
    {{- if .store }}
    {{- include "semievol.env.store" .root | trim | nindent 4 }}
    {{- end }}
  resources:
    requests: {cpu: 50m, memory: 128Mi}
    limits: {memory: 512Mi}
  terminationMessagePolicy: FallbackToLogsOnError
  securityContext:
    {{- toYaml $values.securityContext | nindent 4 }}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    - {name: state, mountPath: /var/lib/semievol}
{{- end -}}
{{- end }}

{{/* So that new templates of jobs count at once. */}}
{{- define "semievol.jobsChecksum" -}}
checksum/jobs: {{ include "semievol.jobs" . | sha256sum }}
{{- end }}

{{/* {root, name} */}}
{{- define "semievol.binding" -}}
{{- $values := include "semievol.values" . | fromYaml -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ include "semievol.fullname" .root }}-{{ .name }}
  labels:
    {{- include "semievol.labels" . | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ include "semievol.fullname" .root }}-{{ .name }}
subjects:
  - kind: ServiceAccount
    name: {{ include "semievol.serviceAccount" (merge (dict "values" $values) .) }}
    namespace: {{ .root.Release.Namespace }}
{{- end }}
