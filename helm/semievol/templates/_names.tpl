{{/* Names, labels, addresses. What takes a dict says its keys. */}}

{{- define "semievol.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 30 | trimSuffix "-" -}}
{{- end }}

{{- define "semievol.fullname" -}}
{{- $name := include "semievol.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* What tells one component's pods from all others. A training Job's component is called as the service that launches it, hence the role.
     {root, name}; names of jobs: step, training-job, run-engine */}}
{{- define "semievol.selector" -}}
{{- $job := has .name (list "step" "training-job" "run-engine") -}}
app.kubernetes.io/name: semievol
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .name | trimSuffix "-job" }}
semievol.dev/role: {{ $job | ternary "job" "service" }}
{{- end }}

{{/* Labels of objects. {root, name}; without a name those of the whole release */}}
{{- define "semievol.labels" -}}
{{- if .name -}}
{{ include "semievol.selector" . }}
{{- else -}}
app.kubernetes.io/name: semievol
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: semievol
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* HOST:PORT of a Service of this release; `port` unless its values say another. {root, name, port} */}}
{{- define "semievol.address" -}}
{{- $service := (get .root.Values (.name | replace "object-store" "objectStore") | default dict).service | default dict -}}
{{- $port := int $service.port | default .port -}}
{{- printf "%s-%s.%s.svc.%s:%v" (include "semievol.fullname" .root) .name .root.Release.Namespace .root.Values.clusterDomain $port -}}
{{- end }}

{{/* The ServiceAccount's name. {root, name, values} */}}
{{- define "semievol.serviceAccount" -}}
{{- if .values.serviceAccount.name -}}
{{- .values.serviceAccount.name -}}
{{- else if .values.serviceAccount.create -}}
{{- printf "%s-%s" (include "semievol.fullname" .root) .name -}}
{{- else -}}
default
{{- end -}}
{{- end }}

{{/* Two maps as one, deeply; what `over` says counts, false and 0 included. {base, over} */}}
{{- define "semievol.merged" -}}
{{- $out := deepCopy .base -}}
{{- range $key, $value := .over -}}
{{- if and (kindIs "map" $value) (kindIs "map" (get $out $key)) -}}
{{- $_ := set $out $key (include "semievol.merged" (dict "base" (get $out $key) "over" $value) | fromYaml) -}}
{{- else if not (kindIs "invalid" $value) -}}
{{- $_ := set $out $key $value -}}
{{- end -}}
{{- end -}}
{{- toYaml $out -}}
{{- end }}

{{/* A component's values over the defaults, as YAML. {root, name} */}}
{{- define "semievol.values" -}}
{{- $jobs := dict "step" "step" "training-job" "training" "run-engine" "runEngine" -}}
{{- $own := dict -}}
{{- if hasKey $jobs .name -}}
{{- $own = get .root.Values.jobs (get $jobs .name) -}}
{{- else -}}
{{- $own = get .root.Values (.name | replace "object-store" "objectStore") -}}
{{- end -}}
{{- include "semievol.merged" (dict "base" .root.Values.defaults "over" ($own | default dict)) -}}
{{- end }}

{{/* The image's reference. {root, values, repository}: `repository` where the values name none */}}
{{- define "semievol.image" -}}
{{- $image := .values.image -}}
{{- $registry := $image.registry | default .root.Values.image.registry -}}
{{- $tag := $image.tag | default .root.Values.image.tag | default .root.Chart.AppVersion -}}
{{- $name := printf "%s%s" (empty $registry | ternary "" (printf "%s/" $registry)) ($image.repository | default .repository) -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $name $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name $tag -}}
{{- end -}}
{{- end }}

{{/* The image of what answers, by backend: pods of the engine bring no repository of their own. */}}
{{- define "semievol.engineRepository" -}}
{{- eq .Values.engine.backend "vllm" | ternary "semievol-engine" "semievol-training" -}}
{{- end }}

{{/* Whether hub models are downloaded: "true" or nothing */}}
{{- define "semievol.usesHub" -}}
{{- if not .Values.models.offline -}}
{{- range $model := list .Values.models.base .Values.models.embedding -}}
{{- if not (regexMatch "^(bundled:|/|https?://)" $model) -}}true{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}
