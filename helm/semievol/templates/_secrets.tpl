{{/* Names of Secrets, and what the certificate is good for. */}}

{{- define "semievol.authSecret" -}}
{{- .Values.auth.existingSecret | default (printf "%s-auth" (include "semievol.fullname" .)) -}}
{{- end }}

{{- define "semievol.tlsSecret" -}}
{{- .Values.tls.existingSecret | default (printf "%s-tls" (include "semievol.fullname" .)) -}}
{{- end }}

{{/* Every name under which something of the release is called: one certificate for all. localhost is a port-forward's. */}}
{{- define "semievol.tlsNames" -}}
{{- $root := . -}}
{{- $names := list "localhost" -}}
{{- range $name := list "embedding" "retrieval" "judging" "training" "controller" "router" "door" "engine" "engine-headless" -}}
{{- $host := printf "%s-%s" (include "semievol.fullname" $root) $name -}}
{{- $inside := printf "%s.%s" $host $root.Release.Namespace -}}
{{- $names = concat $names (list $host $inside (printf "%s.svc" $inside) (printf "%s.svc.%s" $inside $root.Values.clusterDomain)) -}}
{{- end -}}
{{- range $name := list "engine-headless" "run-engine" -}}
{{- $inside := printf "*.%s-%s.%s.svc" (include "semievol.fullname" $root) $name $root.Release.Namespace -}}
{{- $names = concat $names (list $inside (printf "%s.%s" $inside $root.Values.clusterDomain)) -}}
{{- end -}}
{{- range .Values.tls.extraNames -}}
{{- if not (regexMatch "^[0-9.]+$|:" .) -}}{{- $names = append $names . -}}{{- end -}}
{{- end -}}
{{- toJson $names -}}
{{- end }}

{{- define "semievol.tlsAddresses" -}}
{{- $addresses := list "127.0.0.1" -}}
{{- range .Values.tls.extraNames -}}
{{- if regexMatch "^[0-9.]+$|:" . -}}{{- $addresses = append $addresses . -}}{{- end -}}
{{- end -}}
{{- toJson $addresses -}}
{{- end }}
