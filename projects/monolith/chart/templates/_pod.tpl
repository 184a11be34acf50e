{{/* Environment of the app, the same in every container that runs it. */}}
{{- define "monolith.env" -}}
{{ include "monolith.databaseEnv" . }}
- name: DATABASE_CA_FILE
  value: /etc/monolith/database/ca.crt
- name: HEAD_SHA
  value: {{ include "monolith.image" . | splitList ":sha-" | last | quote }}
{{- if .Values.preview.enabled }}
- name: PR_NUMBER
  value: {{ .Values.preview.id | quote }}
- name: PR_ENV_SEAL
  value: {{ .Values.preview.seal | quote }}
- name: ACCESS_TEAM_DOMAIN
  value: {{ .Values.preview.access.teamDomain | quote }}
- name: ACCESS_AUD
  value: {{ .Values.preview.access.aud | quote }}
- name: ACCESS_EMAILS
  value: {{ .Values.preview.access.emails | join "," | quote }}
- name: ACCESS_SERVICE_CLIENTS
  value: {{ .Values.preview.access.serviceClients | join "," | quote }}
{{- end }}
{{- if .Values.preview.egressAllow }}
- name: EGRESS_ALLOW
  value: {{ include "monolith.egressAllow" . | quote }}
{{- end }}
{{- end }}

{{/* Credentials and settings of startup points, for the app alone. */}}
{{- define "monolith.credentials" -}}
{{- range $variable, $secret := .Values.secrets }}
- name: {{ $variable }}
  valueFrom:
    secretKeyRef:
      name: {{ $secret.name | quote }}
      key: {{ $secret.key | quote }}
{{- end }}
{{- range $variable, $text := .Values.settings }}
- name: {{ $variable }}
  value: {{ $text | quote }}
{{- end }}
{{- end }}

{{/* Environment of every container: PR_ENV is a literal in each, as admission wants it. */}}
{{- define "monolith.databaseEnv" -}}
- name: PR_ENV
  value: {{ .Values.prEnv | quote }}
- name: DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ include "monolith.database" . }}-app
      key: uri
{{- end }}

{{/* preview.egressAllow as the app reads it. */}}
{{- define "monolith.egressAllow" -}}
{{- range $i, $to := .Values.preview.egressAllow }}
{{- if $i }},{{ end }}{{ $to.host }}:{{ $to.port | int }}
{{- end }}
{{- end }}

{{/* What every container has in common. The end of a refused container's log becomes its message in the pod's status. */}}
{{- define "monolith.container" -}}
terminationMessagePolicy: FallbackToLogsOnError
securityContext:
  allowPrivilegeEscalation: false
  capabilities:
    drop: [ALL]
  readOnlyRootFilesystem: true
resources:
  {{- toYaml .Values.resources | nindent 2 }}
{{- end }}

{{/* The authority of the database, and of nothing else. */}}
{{- define "monolith.authorityMount" -}}
- name: database-authority
  mountPath: /etc/monolith/database
  readOnly: true
{{- end }}
