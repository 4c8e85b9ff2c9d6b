{{/* Names of templates are those of all charts of a release: hence the prefix. */}}
{{- define "ebpf-exporters.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "ebpf-exporters.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains (include "ebpf-exporters.name" .) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "ebpf-exporters.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "ebpf-exporters.serviceAccount" -}}
{{- if and .Values.kubelet.enabled (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) -}}
{{- fail "kubelet.enabled gives a right to the service account: name it in serviceAccount.name, or set serviceAccount.create" -}}
{{- end -}}
{{- .Values.serviceAccount.name | default (ternary (include "ebpf-exporters.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "ebpf-exporters.selector" -}}
app.kubernetes.io/name: {{ include "ebpf-exporters.name" . | toJson }}
app.kubernetes.io/instance: {{ .Release.Name | toJson }}
{{- end -}}

{{- define "ebpf-exporters.labels" -}}
{{ include "ebpf-exporters.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | toJson }}
{{- end -}}

{{- define "ebpf-exporters.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* What the exporters of a container need, as JSON: capabilities, and whether it is the host's network. */}}
{{- define "ebpf-exporters.rights" -}}
{{- $known := .root.Files.Get "files/exporters.yaml" | fromYaml -}}
{{- $all := .root.Values.extraCapabilities -}}
{{- $network := false -}}
{{- range .exporters -}}
{{- $rights := get $known . -}}
{{- if not $rights -}}
{{- fail (printf "there is no exporter %s; there are: %s" . (keys $known | sortAlpha | join ", ")) -}}
{{- end -}}
{{- $all = concat $all $rights.capabilities -}}
{{- $network = or $network $rights.hostNetwork -}}
{{- if $.only -}}
{{- range $rights.capabilities -}}
{{- if not (has . $.only) -}}
{{- fail (printf "an exporter in exporters needs CAP_%s: name it in admin.exporters, and set admin.enabled" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- dict "capabilities" ($all | uniq | sortAlpha) "hostNetwork" $network | toJson -}}
{{- end -}}

{{- define "ebpf-exporters.rights.exporters" -}}
{{- include "ebpf-exporters.rights" (dict "root" . "exporters" .Values.exporters "only" (list "BPF" "PERFMON")) -}}
{{- end -}}

{{- define "ebpf-exporters.rights.admin" -}}
{{- include "ebpf-exporters.rights" (dict "root" . "exporters" .Values.admin.exporters "only" list) -}}
{{- end -}}

{{/* What a probe asks. A kubelet has neither a password nor a certificate: it only connects where one may be needed. */}}
{{- define "ebpf-exporters.probe" -}}
{{- if .root.Values.web.configSecret -}}
tcpSocket:
  port: {{ .port }}
{{- else -}}
httpGet:
  path: {{ .path }}
  port: {{ .port }}
{{- end -}}
{{- end -}}

{{/* A container: root, name, port (its name), number, exporters, rights, resources, mounts (paths by name), kubelet (or nothing). */}}
{{- define "ebpf-exporters.container" -}}
- name: {{ .name }}
  image: {{ include "ebpf-exporters.image" .root | toJson }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  args:
    - --web.listen-address=:{{ .number | int }}
    - --log.level={{ .root.Values.log.level }}
    - --log.format={{ .root.Values.log.format }}
    {{- if .root.Values.web.configSecret }}
    - --web.config.file=/etc/ebpf-exporters/web/web.yml
    {{- end }}
    {{- with .kubelet }}
    - --kubelet.url=https://$(NODE_IP):{{ .port | int }}
    {{- if .insecureSkipVerify }}
    - --kubelet.insecure-skip-verify
    {{- end }}
    {{- end }}
    {{- range .exporters }}
    - {{ . | toJson }}
    {{- end }}
    {{- range $name, $flags := .root.Values.flags }}
    {{- if has $name $.exporters }}
    {{- range $flags }}
    {{- /* Kubernetes takes $(NAME) for a variable, and $$ for a $. */}}
    - {{ printf "--arg=%s=%s" $name . | replace "$" "$$" | toJson }}
    {{- end }}
    {{- end }}
    {{- end }}
  {{- if .kubelet }}
  env:
    - name: NODE_IP
      valueFrom:
        fieldRef:
          fieldPath: status.hostIP
  {{- end }}
  ports:
    - name: {{ .port }}
      containerPort: {{ .number | int }}
      protocol: TCP
  readinessProbe:
    {{- include "ebpf-exporters.probe" (dict "root" .root "path" "/-/ready" "port" .port) | nindent 4 }}
    periodSeconds: 10
    timeoutSeconds: 5
  livenessProbe:
    {{- include "ebpf-exporters.probe" (dict "root" .root "path" "/-/healthy" "port" .port) | nindent 4 }}
    periodSeconds: 30
    timeoutSeconds: 10
    failureThreshold: 5
  resources: {{ .resources | toJson }}
  securityContext:
    privileged: false
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities:
      drop: [ALL]
      add: {{ .rights.capabilities | toJson }}
  {{- with .mounts }}
  volumeMounts:
    {{- range $name, $path := . }}
    - name: {{ $name }}
      mountPath: {{ $path }}
      readOnly: true
    {{- end }}
  {{- end }}
{{- end -}}

{{/* Groups of alerts and recording rules without the alerts that are left out. A group is never empty. */}}
{{- define "ebpf-exporters.groups" -}}
{{- $unknown := .Values.prometheusRule.disabled -}}
{{- $groups := list -}}
{{- range .Files.Get "files/groups.yaml" | fromYamlArray -}}
{{- $rules := list -}}
{{- range .rules -}}
{{- if and .alert (has .alert $.Values.prometheusRule.disabled) -}}
{{- $unknown = without $unknown .alert -}}
{{- else -}}
{{- $rules = append $rules . -}}
{{- end -}}
{{- end -}}
{{- if $rules -}}
{{- $groups = append $groups (set . "rules" $rules) -}}
{{- end -}}
{{- end -}}
{{- if $unknown -}}
{{- fail (printf "prometheusRule.disabled: there is no alert %s" (first $unknown)) -}}
{{- end -}}
{{- toYaml $groups -}}
{{- end -}}
