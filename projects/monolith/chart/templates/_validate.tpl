{{/* Refuse values that contradict themselves; what is impossible alone, the schema refuses. */}}
{{- define "monolith.validate" -}}
{{- if .Values.preview.enabled }}
{{- include "monolith.validatePreview" . }}
{{- include "monolith.validateAccess" . }}
{{- include "monolith.validateSnapshot" . }}
{{- include "monolith.validateEgress" . }}
{{- else }}
{{- include "monolith.validateProduction" . }}
{{- end }}
{{- end }}

{{/* Refuse a preview that is not wholly one pull request's. */}}
{{- define "monolith.validatePreview" -}}
{{- if not (regexMatch "^[1-9][0-9]{0,8}$" .Values.preview.id) }}
{{- fail (printf "Refused to render a preview: expected preview.id to be a pull request's number, the values say %q. Set preview.id to it, as a string." .Values.preview.id) }}
{{- end }}
{{- if not (regexMatch "^[0-9a-f]{40}$" .Values.preview.headSha) }}
{{- fail (printf "Refused to render a preview: expected preview.headSha to be a commit's 40 hexadecimal digits, the values say %q. Set preview.headSha to the pull request's head." .Values.preview.headSha) }}
{{- end }}
{{- if not (has .Values.image.tag (list "" (printf "sha-%s" .Values.preview.headSha))) }}
{{- fail (printf "Refused to render a preview: expected image.tag to be %q, the image of preview.headSha, the values say %q. Leave image.tag out." (printf "sha-%s" .Values.preview.headSha) .Values.image.tag) }}
{{- end }}
{{- $host := printf "%s.%s" .Values.preview.id .Values.preview.domain }}
{{- if not (has .Values.preview.host (list "" $host (printf "pr-%s" $host))) }}
{{- fail (printf "Refused to render a preview: expected preview.host to be %q or %q, the values say %q. Leave preview.host out, or correct preview.id or preview.domain." $host (printf "pr-%s" $host) .Values.preview.host) }}
{{- end }}
{{- if not .Values.prEnv }}
{{- fail "Refused to render a preview: expected prEnv to be true, the values say false. Set prEnv to true." }}
{{- end }}
{{- if .Values.secrets }}
{{- fail (printf "Refused to render a preview: expected no secrets, the values name %s. Take secrets out: a preview's values stand over the chart's defaults, never over production's." (keys .Values.secrets | sortAlpha | join ", ")) }}
{{- end }}
{{- if .Values.settings }}
{{- fail (printf "Refused to render a preview: expected no settings of jobs, the values name %s. Take settings out: a preview runs no job." (keys .Values.settings | sortAlpha | join ", ")) }}
{{- end }}
{{- if .Values.cluster.enabled }}
{{- fail "Refused to render a preview: expected cluster.enabled to be false, the values say true. Set cluster.enabled to false: a preview has a clone, never production's database." }}
{{- end }}
{{- end }}

{{/* Refuse a preview that nobody's word would shut; the app would not start either. */}}
{{- define "monolith.validateAccess" -}}
{{- range $name := list "teamDomain" "aud" "emails" "serviceClients" }}
{{- if not (get $.Values.preview.access $name) }}
{{- fail (printf "Refused to render a preview: expected preview.access.%s, the values say %v. Set it as deploy/platform/gateway/securitypolicy.yaml does." $name (get $.Values.preview.access $name | toJson)) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Refuse two answers, or none, to where the clone's data comes from. */}}
{{- define "monolith.validateSnapshot" -}}
{{- if and .Values.preview.snapshotName (ne .Values.preview.snapshotMethod "volumeSnapshot") }}
{{- fail (printf "Refused to render a preview: expected no preview.snapshotMethod beside preview.snapshotName %q, the values say %q. Leave one of the two out." .Values.preview.snapshotName .Values.preview.snapshotMethod) }}
{{- end }}
{{- if and (eq .Values.preview.snapshotMethod "backup") (not .Values.preview.snapshotGeneration) }}
{{- fail "Refused to render a preview: expected preview.snapshotGeneration beside preview.snapshotMethod \"backup\", the values say \"\". Set it to what this pull request never had: a Backup whose name was used before fails." }}
{{- end }}
{{- if and (ne .Values.preview.snapshotMethod "backup") .Values.preview.snapshotGeneration }}
{{- fail (printf "Refused to render a preview: expected preview.snapshotGeneration only beside preview.snapshotMethod \"backup\", the values say %q. Leave it out." .Values.preview.snapshotGeneration) }}
{{- end }}
{{- end }}

{{/* Refuse a hole in the wall that tripwire or wall would read otherwise, or that leads into the cluster. */}}
{{- define "monolith.validateEgress" -}}
{{- range $i, $to := .Values.preview.egressAllow }}
{{- if not (regexMatch "^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)+$" $to.host) }}
{{- fail (printf "Refused to render a preview: expected preview.egressAllow[%d].host to be a full name or an IPv4 address in lower case, the values say %q. Write it without scheme, port and wildcard." $i $to.host) }}
{{- end }}
{{- range $cidr := $to.cidrs }}
{{- if not (regexMatch "^(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])([.](25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])){3}/(1[6-9]|2[0-9]|3[0-2])$" $cidr) }}
{{- fail (printf "Refused to render a preview: expected preview.egressAllow[%d].cidrs to hold IPv4 networks of /16 to /32, the values say %q. Name the addresses of %s more narrowly." $i $cidr $to.host) }}
{{- end }}
{{- if regexMatch "^(0|10|127|169[.]254|172[.](1[6-9]|2[0-9]|3[01])|192[.]168|100[.](6[4-9]|[7-9][0-9]|1[01][0-9]|12[0-7])|22[4-9]|2[3-5][0-9])[.]" $cidr }}
{{- fail (printf "Refused to render a preview: expected preview.egressAllow[%d].cidrs to hold public addresses, the values say %q. Take it out: a preview reaches nothing in the cluster but its clone." $i $cidr) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Refuse a release that is neither a preview nor production. */}}
{{- define "monolith.validateProduction" -}}
{{- range $name := list "id" "headSha" "host" "snapshotName" "snapshotGeneration" "egressAllow" }}
{{- if get $.Values.preview $name }}
{{- fail (printf "Refused to render production: expected no preview.%s, the values say %v. Set preview.enabled to true, or leave it out." $name (get $.Values.preview $name | toJson)) }}
{{- end }}
{{- end }}
{{- if ne .Values.preview.seal "optional" }}
{{- fail (printf "Refused to render production: expected no preview.seal, the values say %q. Set preview.enabled to true, or leave it out." .Values.preview.seal) }}
{{- end }}
{{- range $name := list "teamDomain" "aud" "emails" "serviceClients" }}
{{- if get $.Values.preview.access $name }}
{{- fail (printf "Refused to render production: expected no preview.access.%s, the values say %v. Set preview.enabled to true, or leave it out." $name (get $.Values.preview.access $name | toJson)) }}
{{- end }}
{{- end }}
{{- if ne (hasKey .Values.settings "CHANGELOG_REPOSITORIES") (hasKey .Values.settings "CHANGELOG_CHANNEL") }}
{{- fail (printf "Refused to render production: expected settings.CHANGELOG_REPOSITORIES and settings.CHANGELOG_CHANNEL together, the values name %s. Set both, or neither." (keys .Values.settings | sortAlpha | join ", ")) }}
{{- end }}
{{- if not .Values.image.tag }}
{{- fail "Refused to render production: expected image.tag to name a commit's image, the values say \"\". Set image.tag to sha- and the commit's 40 hexadecimal digits." }}
{{- end }}
{{- if .Values.prEnv }}
{{- fail "Refused to render production: expected prEnv to be false, the values say true. Set prEnv to false for production, or preview.enabled to true for a preview." }}
{{- end }}
{{- end }}
