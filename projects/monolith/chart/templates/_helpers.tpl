{{/* Name of every object of the app. */}}
{{- define "monolith.name" -}}
{{ .Chart.Name }}{{ include "monolith.suffix" . }}
{{- end }}

{{/* Name of the database: production's, or the pull request's clone. */}}
{{- define "monolith.database" -}}
{{ include "monolith.source" . }}{{ include "monolith.suffix" . }}
{{- end }}

{{/* Name of production's database, which the app knows as SOURCE. */}}
{{- define "monolith.source" -}}
{{ .Chart.Name }}-pg
{{- end }}

{{/* What a preview's names end in. */}}
{{- define "monolith.suffix" -}}
{{ if .Values.preview.enabled }}-pr-{{ .Values.preview.id }}{{ end }}
{{- end }}

{{/* Hostname of a preview. It was judged before: it holds this pull request's number, just below the domain. */}}
{{- define "monolith.host" -}}
{{ .Values.preview.host | default (printf "%s.%s" .Values.preview.id .Values.preview.domain) }}
{{- end }}

{{/* Image of the app. */}}
{{- define "monolith.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default (printf "sha-%s" .Values.preview.headSha) }}
{{- end }}

{{/* Labels by which the app's pods are found; production's and a preview's never overlap. */}}
{{- define "monolith.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ include "monolith.name" . }}
{{- end }}

{{/* Labels of every object. Nothing here changes with a commit. */}}
{{- define "monolith.labels" -}}
{{ include "monolith.selector" . }}
{{- if .Values.preview.enabled }}
app.kubernetes.io/part-of: {{ .Chart.Name }}-preview
monolith.jomcgi.dev/pr: {{ .Values.preview.id | quote }}
{{- else }}
app.kubernetes.io/part-of: {{ .Chart.Name }}
{{- end }}
{{- end }}

{{/* Annotation of an object's sync wave. */}}
{{- define "monolith.wave" -}}
argocd.argoproj.io/sync-wave: {{ . | quote }}
{{- end }}
