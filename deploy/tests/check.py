# SPDX-License-Identifier: MIT OR Apache-2.0
"""Renders the chart and the kustomization and checks what comes out.

Both are the same, are valid for Kubernetes and for prometheus-operator, and have the rules of the tree. Values that
are set take effect; hostile ones are refused or stay inside of their string.
"""

import copy
import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import helm_python as helm
import kubernetes_validate
import yaml
from cloudcoil.models.prometheus_operator import v1

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/ebpf-exporters"
NAME = "ebpf-exporters"
VERSIONS = ["1.25", "1.33", "1.37"]
ALL = {
    "admin": {"enabled": True}, "podMonitor": {"enabled": True}, "prometheusRule": {"enabled": True},
    "kubelet": {"enabled": True},
}
# The flags without which the kubelet has nothing to name.
GROUPS = {"fileops": ["--fileops.cgroup"], "schedlat": ["--schedlat.cgroup"]}
# Without the rules, in which no value is.
MOST = {"admin": {"enabled": True}, "podMonitor": {"enabled": True}}

# What would break out of a string of YAML, of a template, or of an argument.
HOSTILE = [
    'a"b', "a'b", "a\nb: c", "a\n---\nkind: Pod", "{{ .Release.Name }}", "{{", "}}", "$(PATH)", "a: b", "# a", "*a",
    "&a", "!!int 1", "[a", "{a", "%a", "@a", "`id`", "\\", "\t", "\u00e9\u2028\U0001f600", " a ", "null", "true", "1e3",
    "0x10", "a,b", "x" * 100_000,
]
# What is none of the types that an option may have.
WRONG = [{"a": {"b": 1}}, [[1]], 1.5, -1, "\x00"]

# One value for every option that takes free text, and where the text goes.
FREE = {
    "podAnnotations": lambda text: {"podAnnotations": {"a/b": text}},
    "flags": lambda text: {"flags": {"syscall": ["--" + text]}},
    "tolerations": lambda text: {"tolerations": [{"key": "k", "operator": "Equal", "value": text}]},
    "seLinuxOptions": lambda text: {"seLinuxOptions": {"type": text}},
    "podMonitor.endpoint": lambda text: {"podMonitor": {"endpoint": {"params": {"a": [text]}}}},
    "podMonitor.spec": lambda text: {"podMonitor": {"spec": {"jobLabel": text}}},
    "podMonitor.relabelings": lambda text: {"podMonitor": {"relabelings": [{"replacement": text}]}},
    "podMonitor.metricRelabelings": lambda text: {"podMonitor": {"metricRelabelings": [{"replacement": text}]}},
    "localhostProfile": lambda text: {"seccompProfile": {"type": "Localhost", "localhostProfile": text}},
    "affinity": lambda text: {"affinity": {"nodeAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": {"matchExpressions": [{"key": "k", "operator": "In", "values": [text]}]}}
        ]
    }}},
}

# Helm's library warns of values of another type than the default, which is what is tested here.
sys.stderr = os.fdopen(os.dup(2), "w")
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
# Schemas are read again for each document else.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)

failures = []
chart = helm.Chart.load(str(CHART))
renderings = 0
refusals = 0


def check(is_right, what):
    if not is_right:
        failures.append(what)


def render(values, name=NAME, namespace=NAME):
    """The documents that the chart makes, by kind. What the schema or a template refuses is an error of Helm."""
    global renderings
    renderings += 1
    files = chart.render(values, name=name, namespace=namespace)
    documents = [
        document
        for path, text in files.items()
        if not path.endswith(".txt")
        for document in yaml.load_all(text, yaml.CSafeLoader)
        if document
    ]
    return {document["kind"]: document for document in documents}


def refuses(values):
    try:
        render(values)
    except helm.HelmError:
        return True
    return False


def is_refused_by_schema(values):
    global refusals
    refusals += 1
    try:
        chart.validate_schema(values)
    except helm.HelmError:
        return True
    return False


def kustomized(folder, made=None):
    """What the files of a kustomization say, by kind, in which a patch adds to what has its kind; with those that a
    component adds to."""
    folder = folder.resolve()
    own = load(folder / "kustomization.yaml")
    made = made or {}
    for path in own["resources"]:
        path = folder / path
        made |= kustomized(path) if path.is_dir() else {load(path)["kind"]: load(path)}
    for path in own.get("components", []):
        made = kustomized(folder / path, made)
    for patch in own.get("patches", []):
        patch = load(folder / patch["path"])
        made[patch["kind"]] = patched(made[patch["kind"]], patch)
    return made


def patched(first, second):
    """As `merged`, with lists of named members too, which containers are; a list of texts takes the place of another."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first | {key: patched(first[key], value) if key in first else value for key, value in second.items()}
    if isinstance(first, list) and all(isinstance(one, dict) for one in second):
        made = {one["name"]: one for one in first}
        for one in second:
            made[one["name"]] = patched(made.get(one["name"]), one)
        return list(made.values())
    return second


def by_kubectl(folder):
    """The same by kubectl, where there is one that is new enough to say which kustomize it has."""
    kubectl = shutil.which("kubectl")
    if not kubectl:
        return None
    version = subprocess.run([kubectl, "version", "--client"], capture_output=True, text=True, check=False)
    if "Kustomize Version" not in version.stdout:
        return None
    made = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    check(made.returncode == 0 and not made.stderr, f"kubectl kustomize {folder}: {made.stderr}")
    return {document["kind"]: document for document in yaml.load_all(made.stdout, yaml.CSafeLoader) if document}


def load(path):
    return yaml.load(path.read_text(), yaml.CSafeLoader)


def validate(documents, what):
    models = {"PodMonitor": v1.PodMonitor, "PrometheusRule": v1.PrometheusRule}
    for kind, document in documents.items():
        if kind in models:
            model = models[kind].model_validate(document)
            known = json.loads(model.model_dump_json(by_alias=True, exclude_unset=True))
            check(known == document, f"{what}: {kind} has what prometheus-operator does not know: {known}")
            continue
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                failures.append(f"{what}: {kind} on Kubernetes {version}: {list(error.path)}: {error.message}")


def spec(documents):
    return documents["DaemonSet"]["spec"]["template"]["spec"]


def added(documents, container):
    return spec(documents)["containers"][container]["securityContext"]["capabilities"]["add"]


def replaced(tree, old, new):
    """A copy in which a text is another text wherever it is."""
    if isinstance(tree, dict):
        return {key: replaced(value, old, new) for key, value in tree.items()}
    if isinstance(tree, list):
        return [replaced(value, old, new) for value in tree]
    return tree.replace(old, new) if isinstance(tree, str) else tree


def options(schema, path=()):
    """The paths of all options, down to those that are no objects with options of their own."""
    for name, inner in schema.get("properties", {}).items():
        if "properties" in inner:
            yield from options(inner, path + (name,))
        else:
            yield path + (name,)


def at(path, value):
    for name in reversed(path):
        value = {name: value}
    return value


def sameness():
    """Returns what was asked: the files themselves, and kubectl."""
    asked = ["kustomization"]
    for folder, values in [("deploy/kubernetes", {}), ("deploy/tests/all", ALL | {"flags": GROUPS})]:
        ours = render(values)
        validate(ours, "chart")
        for what, theirs in [("kustomization", kustomized(ROOT / folder)), ("kubectl", by_kubectl(ROOT / folder))]:
            if theirs is None:
                continue
            if what not in asked:
                asked.append(what)
            # A release is in a namespace that is there already.
            namespace = theirs.pop("Namespace")["metadata"]["name"]
            check(namespace == NAME, f"{folder}: its namespace is {namespace}")
            validate(theirs, folder)
            check(ours.keys() == theirs.keys(), f"{folder} has {list(theirs)}, the chart {list(ours)}")
            for documents in [ours, theirs]:
                # The order of these means nothing, and kubectl changes it.
                named = [spec(documents)["containers"], spec(documents).get("volumes", [])]
                named += [one["volumeMounts"] for one in named[0] if "volumeMounts" in one]
                for those in named:
                    those.sort(key=lambda one: one["name"])
            for kind in ours.keys() & theirs.keys():
                same = ours[kind] == theirs[kind]
                check(same, f"{folder}, {what}: {kind} is not that of the chart:\n{theirs[kind]}\n{ours[kind]}")
    return asked


def rules():
    groups = []
    for folder in ["alerts", "rules"]:
        for path in sorted((ROOT / folder).glob("*.yml")):
            groups += load(path)["groups"]
    made = render(ALL)["PrometheusRule"]["spec"]["groups"]
    check(len(groups) > 30 and made == groups, "PrometheusRule is not what alerts/ and rules/ have")


    names = [rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule]
    left = render({"prometheusRule": {"enabled": True, "disabled": names}})["PrometheusRule"]["spec"]["groups"]
    records = [rule for group in groups for rule in group["rules"] if "record" in rule]
    check([rule for group in left for rule in group["rules"]] == records, "other rules than these alerts are left out")
    one = render({"prometheusRule": {"enabled": True, "disabled": names[:1]}})["PrometheusRule"]["spec"]["groups"]
    others = [rule for group in groups for rule in group["rules"] if rule.get("alert") != names[0]]
    check([rule for group in one for rule in group["rules"]] == others, f"more than {names[0]} is left out")


def monitor():
    """What users add to the PodMonitor takes the place of nothing that the chart sets."""
    plain = render(MOST)["PodMonitor"]["spec"]
    rule = {"targetLabel": "a", "replacement": "b"}
    own = {"port": "a", "path": "/b", "relabelings": [], "metricRelabelings": [], "scheme": "https"}
    values = {"endpoint": own, "relabelings": [rule], "spec": {"selector": {}, "podMetricsEndpoints": []}}
    made = render(merged(MOST, {"podMonitor": values}))["PodMonitor"]["spec"]
    for endpoint in plain["podMetricsEndpoints"]:
        endpoint["scheme"] = "https"
        endpoint["relabelings"].append(rule)
    check(made == plain, f"the PodMonitor is {made}")


def web():
    """Both containers have the secret, and probes that need no password."""
    for container in spec(render({"web": {"configSecret": "a"}, "admin": {"enabled": True}}))["containers"]:
        arguments = [one for one in container["args"] if one.startswith("--web.config.file=")]
        folders = [one["mountPath"] for one in container["volumeMounts"] if one["name"] == "web"]
        check(arguments == [f"--web.config.file={folders[0]}/web.yml"], f"{container['name']} has {arguments}")
        for probe in ["readinessProbe", "livenessProbe"]:
            check("tcpSocket" in container[probe] and "httpGet" not in container[probe], f"a {probe} with a password")


def documented():
    """The values in docs/kubernetes.md: each by itself, and all together."""
    known = json.loads((CHART / "values.schema.json").read_text())["properties"].keys()
    blocks = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs/kubernetes.md").read_text(), re.DOTALL | re.MULTILINE)
    blocks = [block for block in map(yaml.safe_load, blocks) if block.keys() <= known]
    check(len(blocks) > 4, f"docs/kubernetes.md has {len(blocks)} blocks of values")
    for values in blocks + [functools.reduce(merged, blocks)]:
        try:
            validate(render(values), f"docs/kubernetes.md: {values}")
        except helm.HelmError as error:
            failures.append(f"docs/kubernetes.md: {values}: {error}")


def rights():
    first = render({})
    check(added(first, 0) == ["BPF", "PERFMON"], f"the first container has {added(first, 0)}")
    check(spec(first)["hostNetwork"] is False and spec(first)["hostPID"] is True, "namespaces by default")
    check("hostPath" in spec(first)["volumes"][0] and len(spec(first)["volumes"]) == 1, "volumes by default")
    dns = render({"admin": {"enabled": True, "exporters": ["dns"]}})
    check(added(dns, 1) == ["BPF", "PERFMON", "SYS_ADMIN"], f"dns has {added(dns, 1)}")
    check(spec(dns)["hostNetwork"] is False, "dns has the network of the host")
    both = render({"admin": {"enabled": True}})
    check("NET_ADMIN" in added(both, 1) and spec(both)["hostNetwork"] is True, "wireguard lacks what it needs")
    own = render({"admin": {"enabled": True}, "hostNetwork": False})
    check(spec(own)["hostNetwork"] is False, "hostNetwork: false has no effect")
    named = render({"kubelet": {"enabled": True}, "admin": {"enabled": True}})
    check(named["ClusterRole"]["rules"] == [{"apiGroups": [""], "resources": ["nodes/pods"], "verbs": ["get"]}], "role")
    account = named["DaemonSet"]["spec"]["template"]["spec"]["serviceAccountName"]
    check(named["ClusterRoleBinding"]["subjects"][0]["name"] == account, "the role is bound to another account")
    holders = [one["name"] for one in spec(named)["containers"] if "token" in json.dumps(one.get("volumeMounts", []))]
    check(holders == ["exporters"], f"the token is in {holders}")
    check(spec(named)["automountServiceAccountToken"] is False, "the token is in all containers")
    for values in [{}, ALL, {"extraCapabilities": ["SYS_RESOURCE"]}, {"kubelet": {"enabled": True}}]:
        for container in spec(render(values))["containers"]:
            security = container["securityContext"]
            check(
                security["capabilities"]["drop"] == ["ALL"]
                and security["privileged"] is False
                and security["allowPrivilegeEscalation"] is False
                and security["readOnlyRootFilesystem"] is True
                and all(mount["readOnly"] for mount in container.get("volumeMounts", [])),
                f"{container['name']} with {values} has {security}",
            )


def effects():
    """Every option, set to something else than its default, changes what is rendered, and that is valid."""
    set_ = {
        # Helm's own: values of all charts, and the condition of a chart that is part of another.
        ("global",): None,
        ("enabled",): None,
        ("image", "repository"): "registry.example:5000/a/b",
        ("image", "tag"): "v2",
        ("image", "digest"): "sha256:" + "0" * 64,
        ("image", "pullPolicy"): "Always",
        ("imagePullSecrets",): [{"name": "a.b"}],
        ("exporters",): ["tcp"],
        ("flags",): {"syscall": ["--syscall.latency"]},
        ("log", "level"): "debug",
        ("log", "format"): "json",
        ("port",): 19434,
        ("web", "configSecret"): "a.b",
        ("resources",): {"limits": {"memory": "1Gi"}},
        ("admin", "enabled"): False,
        ("admin", "exporters"): ["dns"],
        ("admin", "port"): 19436,
        ("admin", "resources"): {"requests": {"cpu": 1}},
        ("kubelet", "enabled"): True,
        ("kubelet", "port"): 10251,
        ("kubelet", "insecureSkipVerify"): True,
        ("hostPID",): False,
        ("hostNetwork",): False,
        ("hostCgroups",): False,
        ("hostBoot",): True,
        ("extraCapabilities",): ["SYS_RESOURCE"],
        ("seccompProfile",): {"type": "Localhost", "localhostProfile": "a.json"},
        ("seLinuxOptions",): {"type": "spc_t"},
        ("nodeSelector",): {"a/b": "c"},
        ("tolerations",): [],
        ("affinity",): {"nodeAffinity": {}},
        ("priorityClassName",): "system-node-critical",
        ("maxUnavailable",): 3,
        ("podLabels",): {"a": "b"},
        ("podAnnotations",): {"a": "b"},
        ("serviceAccount", "create"): False,
        ("serviceAccount", "name"): "other",
        ("nameOverride",): "other",
        ("fullnameOverride",): "other",
        ("podMonitor", "enabled"): False,
        ("podMonitor", "labels"): {"a": "b"},
        ("podMonitor", "interval"): "30s",
        ("podMonitor", "scrapeTimeout"): "5s",
        ("podMonitor", "relabelings"): [{"targetLabel": "a", "replacement": "b"}],
        ("podMonitor", "metricRelabelings"): [{"action": "drop", "sourceLabels": ["a"], "regex": "b"}],
        ("podMonitor", "endpoint"): {"scheme": "https", "tlsConfig": {"insecureSkipVerify": True}},
        ("podMonitor", "spec"): {"scrapeClassicHistograms": True, "sampleLimit": 10000},
        ("prometheusRule", "enabled"): False,
        ("prometheusRule", "labels"): {"a": "b"},
        ("prometheusRule", "disabled"): ["PageCacheHitRateLow"],
    }
    schema = inlined(json.loads((CHART / "values.schema.json").read_text()))
    known = set(options(schema))
    check(known == set_.keys(), f"options without a test, or tests without an option: {known ^ set_.keys()}")
    check(not is_refused_by_schema({}), "the schema refuses everything")
    for path, value in set_.items():
        if value is None:
            continue
        # Options of what is off have no effect.
        others = merged(ALL, {"kubelet": {"enabled": path[0] == "kubelet" and path[1] != "enabled"}})
        made = render(merged(others, at(path, value)))
        check(made != render(others), f"{path} has no effect")
        validate(made, str(path))
    return known


def inlined(schema):
    """The schema with definitions in their places, where they have options."""
    definitions = schema["definitions"]

    def walk(node):
        if isinstance(node, dict):
            reference = node.get("$ref", "").removeprefix("#/definitions/")
            # What is one value for users stays one.
            if reference and reference not in ["resources"]:
                return walk(definitions[reference])
            return {key: walk(value) for key, value in node.items()}
        return [walk(value) for value in node] if isinstance(node, list) else node

    made = walk({key: value for key, value in schema.items() if key != "definitions"})
    for name in ["seccompProfile", "seLinuxOptions"]:
        made["properties"][name] = {"type": "object"}
    return made


def merged(first, second):
    made = copy.deepcopy(first)
    for key, value in second.items():
        both = isinstance(value, dict) and isinstance(made.get(key), dict)
        made[key] = merged(made[key], value) if both else value
    return made


def hostile(known):
    for name, values in FREE.items():
        benign = render(merged(MOST, values("benign")))
        for text in HOSTILE:
            try:
                made = render(merged(MOST, values(text)))
            except helm.HelmError:
                continue
            except yaml.YAMLError as error:
                failures.append(f"{name} with {text[:40]!r} breaks out of its string: {error}")
                continue
            shown = text.replace("$", "$$") if name == "flags" else text
            check(made == replaced(benign, "benign", shown), f"{name} with {text[:40]!r} changes more than its text")
        check(values("benign") and "benign" in json.dumps(benign), f"{name} is not shown at all")
    # All others take no free text: a hostile one is refused, and so is another type.
    for path in known - {("global",), ("affinity",), ("podMonitor", "endpoint"), ("podMonitor", "spec")}:
        for value in HOSTILE + WRONG:
            if path in [("image", "tag")] and value in ["null", "true", "1e3", "0x10"]:
                # Well-formed tags.
                continue
            if value in ["null", "true", "1e3", "0x10"] and path[-1] in ["name", "nameOverride", "fullnameOverride",
                                                                          "priorityClassName", "repository",
                                                                          "configSecret"]:
                made = render(merged(MOST, at(path, value)))
                check(value in json.dumps(made), f"{path}: {value} is lost")
                validate(made, str(path))
                continue
            check(is_refused_by_schema(at(path, value)), f"{path} may be {str(value)[:40]!r}")
    for values in [
        {"unknown": 1},
        {"exporters": []},
        {"exporters": ["tcp", "tcp"]},
        {"exporters": ["none"]},
        {"exporters": ["dns"]},
        {"exporters": ["--folder=x"]},
        {"admin": {"enabled": True, "exporters": ["tcp"]}},
        {"admin": {"enabled": True, "port": 9434}},
        {"flags": {"dns": ["--a"]}},
        {"flags": {"tcp": ["a"]}},
        {"extraCapabilities": ["ALL"]},
        {"extraCapabilities": ["CAP_SYS_ADMIN"]},
        {"podLabels": {"a": "x" * 64}},
        {"podLabels": {"a\nb": "c"}},
        {"podAnnotations": {"a b": "c"}},
        {"maxUnavailable": "0%"},
        {"seccompProfile": {"type": "Localhost"}},
        {"prometheusRule": {"enabled": True, "disabled": ["NoSuchAlert"]}},
        {"serviceAccount": {"create": False}, "kubelet": {"enabled": True}},
        {"resources": {"limits": {"memory": "256 Mi"}}},
    ]:
        check(refuses(values), f"{values} is not refused")
    longest = render(ALL, "a" * 53)
    check(len(longest["DaemonSet"]["metadata"]["name"]) <= 63, "the longest name is too long")
    validate(longest, "the longest name")
    own = render({"podLabels": {"app.kubernetes.io/name": "other"}})
    labels = own["DaemonSet"]["spec"]["template"]["metadata"]["labels"]
    check(labels["app.kubernetes.io/name"] == NAME, "a label of users takes the place of one that is selected by")


def main():
    found = helm.lint(str(CHART), strict=True)
    # Severity 1 is advice: no icon.
    said = [message for message in found["messages"] if message["severity"] > 1]
    check(not said and not found["errors"], f"helm lint: {said} {found['errors']}")
    asked = sameness()
    rules()
    monitor()
    web()
    documented()
    rights()
    known = effects()
    hostile(known)
    for failure in failures:
        print(f"deploy: {failure[:2000]}", file=sys.stderr)
    if failures:
        return 1
    print(
        f"deploy: {renderings} renderings of the chart and {refusals} refusals of its schema are right; "
        f"{' and '.join(asked)}: the same"
    )
    return 0


sys.exit(main())
