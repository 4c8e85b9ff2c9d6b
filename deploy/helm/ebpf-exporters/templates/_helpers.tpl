{{- define "name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains (include "name" .) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "selector" -}}
app.kubernetes.io/name: {{ include "name" . | toJson }}
app.kubernetes.io/instance: {{ .Release.Name | toJson }}
{{- end -}}

{{- define "labels" -}}
{{ include "selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | toJson }}
{{- end -}}

{{- define "image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* What the exporters of a container need, as JSON: capabilities, and whether it is the host's network. */}}
{{- define "rights" -}}
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

{{- define "rights.exporters" -}}
{{- include "rights" (dict "root" . "exporters" .Values.exporters "only" (list "BPF" "PERFMON")) -}}
{{- end -}}

{{- define "rights.admin" -}}
{{- include "rights" (dict "root" . "exporters" .Values.admin.exporters "only" list) -}}
{{- end -}}

{{/* A container: root, name, port (its name), number, exporters, rights, resources, mounts (paths by name), kubelet (or nothing). */}}
{{- define "container" -}}
- name: {{ .name }}
  image: {{ include "image" .root | toJson }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  args:
    - --web.listen-address=:{{ .number | int }}
    - --log.level={{ .root.Values.log.level }}
    - --log.format={{ .root.Values.log.format }}
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
    httpGet:
      path: /-/ready
      port: {{ .port }}
    periodSeconds: 10
    timeoutSeconds: 5
  livenessProbe:
    httpGet:
      path: /-/healthy
      port: {{ .port }}
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
