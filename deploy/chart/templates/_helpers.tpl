{{/* The name of an image. The argument holds the fields of .Values.image. */}}
{{- define "stentor.image" -}}
{{- if .useDigest -}}
{{ .repository }}@{{ required "useDigest needs digest" .digest }}
{{- else -}}
{{ .repository }}:{{ .tag }}
{{- end -}}
{{- end }}

{{/* The agent's image, as YAML. */}}
{{- define "stentor.agent.image" -}}
{{- toYaml (merge (dict "tag" (.Values.image.tag | default .Chart.AppVersion)) .Values.image) }}
{{- end }}

{{/* The operator's image: what is not given is the agent's. */}}
{{- define "stentor.operator.image" -}}
{{- $image := include "stentor.agent.image" . | fromYaml }}
{{- range $name, $value := .Values.operator.image }}
{{- if $value }}{{ $_ := set $image $name $value }}{{ end }}
{{- end }}
{{- toYaml $image }}
{{- end }}

{{- define "stentor.labels" -}}
app.kubernetes.io/part-of: stentor
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* The loopback address on which both programs serve their probes. */}}
{{- define "stentor.loopback" -}}
{{- if .Values.ipv4.enabled -}}127.0.0.1{{- else -}}::1{{- end -}}
{{- end }}

{{/* How to reach the API server: never by a Service that we carry out. */}}
{{- define "stentor.apiserver" -}}
{{- with .Values.k8sServiceHost }}
- name: KUBERNETES_SERVICE_HOST
  value: {{ . | quote }}
{{- end }}
{{- with .Values.k8sServicePort }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ . | toString | quote }}
{{- end }}
{{- end }}

{{/* A list, or what a user wrote instead of one, as words. */}}
{{- define "stentor.words" -}}
{{- if kindIs "slice" . -}}{{ join " " . }}{{- else -}}{{ . }}{{- end -}}
{{- end }}
