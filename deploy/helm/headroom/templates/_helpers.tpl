{{- define "headroom.name" -}}
{{- if contains "headroom" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-headroom" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "headroom.selector" -}}
app.kubernetes.io/name: headroom
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "headroom.labels" -}}
{{ include "headroom.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "headroom.tag" -}}
{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "headroom.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false {{- /* Kubernetes would add HEADROOM_* variables of its own for our Service */}}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "headroom.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- /* What every process is told. Secrets are files. */}}
{{- define "headroom.environment" -}}
- {name: HEADROOM_DATA_DIR, value: /data}
- {name: HEADROOM_DATABASE_URL, value: {{ required "database.url: a PostgreSQL of yours, such as postgresql://headroom@postgres:5432/headroom" .Values.database.url | quote }}}
{{- if .Values.secret.databasePassword }}
- {name: HEADROOM_DATABASE_PASSWORD_FILE, value: /run/secrets/headroom/{{ .Values.secret.databasePassword }}}
{{- end }}
- {name: HEADROOM_BROKER_URL_FILE, value: /run/secrets/headroom/{{ .Values.secret.brokerUrl }}}
{{- if .Values.secret.hubToken }}
- {name: HEADROOM_HUB_TOKEN_FILE, value: /run/secrets/headroom/{{ .Values.secret.hubToken }}}
{{- end }}
{{- if .Values.data.modelsClaim }}
- {name: HEADROOM_MODELS_DIR, value: /models}
{{- end }}
{{- if .Values.storage.url }}
- {name: HEADROOM_STORAGE_URL, value: {{ .Values.storage.url | quote }}}
{{- end }}
{{- if .Values.secret.awsCredentials }}
- {name: AWS_SHARED_CREDENTIALS_FILE, value: /run/secrets/headroom/{{ .Values.secret.awsCredentials }}}
{{- end }}
- {name: HEADROOM_AUTH, value: keys}
- {name: HEADROOM_LOG_FORMAT, value: json}
{{- range $name, $value := .Values.settings }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{- define "headroom.mounts" -}}
- {name: data, mountPath: /data}
- {name: tmp, mountPath: /tmp}
- {name: secrets, mountPath: /run/secrets/headroom, readOnly: true}
{{- if .Values.data.modelsClaim }}
- {name: models, mountPath: /models, readOnly: true}
{{- end }}
{{- end }}

{{- define "headroom.volumes" -}}
- name: data
{{- if or .Values.data.existingClaim (not .Values.storage.url) }}
  persistentVolumeClaim:
    claimName: {{ required "storage.url: a bucket for corpora and results, or data.existingClaim: a ReadWriteMany claim that all pods share" .Values.data.existingClaim }}
{{- else }}
  emptyDir: {}
{{- end }}
- name: tmp
  emptyDir: {}
- name: secrets
  secret:
    secretName: {{ .Values.secret.name }}
    defaultMode: 0440
    items:
    {{- range compact (list .Values.secret.databasePassword .Values.secret.brokerUrl .Values.secret.hubToken .Values.secret.awsCredentials) }}
      - {key: {{ . }}, path: {{ . }}}
    {{- end }}
{{- if .Values.data.modelsClaim }}
- name: models
  persistentVolumeClaim: {claimName: {{ .Values.data.modelsClaim }}, readOnly: true}
{{- end }}
{{- end }}

{{- define "headroom.scheduling" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
