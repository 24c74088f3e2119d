{{- define "foregate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "foregate.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "foregate.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "foregate.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "foregate.gateway" -}}{{ include "foregate.fullname" . }}-gateway{{- end }}
{{- define "foregate.control" -}}{{ include "foregate.fullname" . }}-control{{- end }}

{{/* The name of objects without a namespace: unique in the cluster. */}}
{{- define "foregate.wide" -}}{{ .Release.Namespace }}-{{ include "foregate.control" . }}{{- end }}

{{/* What is on: empty is no. */}}
{{- define "foregate.hasGateway" -}}{{ if has .Values.mode (list "gateway" "both") }}yes{{ end }}{{- end }}
{{- define "foregate.hasControl" -}}{{ if has .Values.mode (list "mesh" "both") }}yes{{ end }}{{- end }}
{{- define "foregate.hasKubernetes" -}}{{ if and (include "foregate.hasControl" .) .Values.control.kubernetes.enabled }}yes{{ end }}{{- end }}
{{- define "foregate.hasWebhooks" -}}
{{- if and (include "foregate.hasKubernetes" .) (or .Values.control.injection.enabled .Values.control.validation.enabled) }}yes{{ end }}
{{- end }}

{{/* The selector of a part: (dict "context" $ "part" "gateway"). */}}
{{- define "foregate.selector" -}}
app.kubernetes.io/name: {{ include "foregate.name" .context }}
app.kubernetes.io/instance: {{ .context.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "foregate.labels" -}}
{{ include "foregate.selector" . }}
app.kubernetes.io/version: {{ .context.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: {{ include "foregate.name" .context }}
app.kubernetes.io/managed-by: {{ .context.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .context.Chart.Name .context.Chart.Version | replace "+" "_" }}
{{- with .context.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "foregate.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ default $.Chart.AppVersion .tag }}{{ end }}
{{- end }}
{{- end }}

{{/* The name of the ServiceAccount of a part. */}}
{{- define "foregate.serviceAccount" -}}
{{- $own := printf "%s-%s" (include "foregate.fullname" .context) .part }}
{{- with (get .context.Values .part).serviceAccount }}{{ if .create }}{{ default $own .name }}{{ else }}{{ default "default" .name }}{{ end }}{{ end }}
{{- end }}

{{/* The DNS name of the control plane's Service. */}}
{{- define "foregate.controlHost" -}}{{ include "foregate.control" . }}.{{ .Release.Namespace }}.svc{{- end }}

{{- define "foregate.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: {{ int64 .Values.user }}
runAsGroup: {{ int64 .Values.user }}
fsGroup: {{ int64 .Values.user }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "foregate.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{/* Where pods of a part may stand. */}}
{{- define "foregate.placement" -}}
{{- $values := get .context.Values .part }}
topologySpreadConstraints:
{{- if $values.topologySpreadConstraints }}
  {{- toYaml $values.topologySpreadConstraints | nindent 2 }}
{{- else }}
{{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "foregate.selector" $ | nindent 8 }}
{{- end }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .context.Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* The probes of a container whose port has this name. */}}
{{- define "foregate.probes" -}}
startupProbe:
  httpGet: { path: /livez, port: {{ . }} }
  periodSeconds: 1
  failureThreshold: 120
livenessProbe:
  httpGet: { path: /livez, port: {{ . }} }
  periodSeconds: 10
  timeoutSeconds: 3
readinessProbe:
  httpGet: { path: /readyz, port: {{ . }} }
  periodSeconds: 5
  timeoutSeconds: 3
{{- end }}

{{/* Egress of a part, where it is bounded: to what is listed, and to DNS. */}}
{{- define "foregate.egress" -}}
- ports:
    - { port: 53, protocol: UDP }
    - { port: 53, protocol: TCP }
{{- toYaml . | nindent 0 }}
{{- end }}

{{/* Combinations that cannot work. */}}
{{- define "foregate.check" -}}
{{- $gateway := .Values.gateway }}
{{- $control := .Values.control }}
{{- if include "foregate.hasGateway" . }}
{{- if and (eq $gateway.policies.from "values") (not $gateway.policies.files) }}
{{- fail "gateway.policies.files is empty: without policies nothing is served" }}
{{- end }}
{{- if and (eq $gateway.policies.from "configMap") (not $gateway.policies.configMap) }}
{{- fail "gateway.policies.configMap names no ConfigMap, and gateway.policies.from says configMap" }}
{{- end }}
{{- if eq $gateway.policies.from "control" }}
{{- if and (not $gateway.control.address) (not (include "foregate.hasControl" .)) }}
{{- fail "gateway.control.address names no control plane, and mode: gateway deploys none; mode: both does" }}
{{- end }}
{{- if and $gateway.control.address (not $gateway.control.roots.configMap) (not $gateway.control.roots.secret) }}
{{- fail "gateway.control.roots names neither a ConfigMap nor a Secret with the certificates that the control plane is known by" }}
{{- end }}
{{- if and (not $gateway.control.address) (not $control.tokenReview.enabled) }}
{{- fail "gateways prove who they are by tokens of their service account: control.tokenReview.enabled must be true" }}
{{- end }}
{{- if and (not $gateway.control.address) $control.insecure.generateAuthority (not $gateway.control.roots.configMap) (not $gateway.control.roots.secret) (not (include "foregate.hasWebhooks" .)) }}
{{- fail "the control plane writes its roots where it serves webhooks: without control.injection and control.validation, gateway.control.roots must name them" }}
{{- end }}
{{- if and $gateway.control.roots.configMap $gateway.control.roots.secret }}
{{- fail "gateway.control.roots names both a ConfigMap and a Secret: leave one of them out" }}
{{- end }}
{{- end }}
{{- if and $gateway.autoscaling.enabled (gt (int $gateway.autoscaling.minReplicas) (int $gateway.autoscaling.maxReplicas)) }}
{{- fail "gateway.autoscaling.minReplicas is above maxReplicas" }}
{{- end }}
{{- end }}
{{- if include "foregate.hasControl" . }}
{{- if and (not $control.authority.secret) (not $control.insecure.generateAuthority) }}
{{- fail "there is no certificate authority: control.authority.secret names a Secret with roots, issuer and its key; for development, control.insecure.generateAuthority=true makes one" }}
{{- end }}
{{- if and $control.authority.secret $control.insecure.generateAuthority }}
{{- fail "an authority is both in a Secret (control.authority.secret) and to be generated (control.insecure.generateAuthority): leave one of them out" }}
{{- end }}
{{- if gt (int $control.replicas) 1 }}
{{- if $control.insecure.generateAuthority }}
{{- fail "control.replicas is above 1: each replica would generate an authority of its own; use control.authority.secret" }}
{{- end }}
{{- if $control.joinTokens.enabled }}
{{- fail "control.replicas is above 1: join tokens are known to the replica alone that made them" }}
{{- end }}
{{- end }}
{{- if and $control.injection.enabled (not $control.kubernetes.enabled) }}
{{- fail "control.injection.enabled needs control.kubernetes.enabled" }}
{{- end }}
{{- if and $control.injection.enabled (not $control.tokenReview.enabled) }}
{{- fail "sidecars prove who they are by tokens of service accounts: control.injection.enabled needs control.tokenReview.enabled" }}
{{- end }}
{{- end }}
{{- end }}
