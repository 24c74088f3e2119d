"""What Pod Security `restricted` and the good manners of a cluster ask of a pod."""


def faults(spec):
    """Everything that is wrong with the spec of a pod, in words."""
    return list(_faults(spec))


def _faults(spec):
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield name
    if "automountServiceAccountToken" not in spec:
        yield "automountServiceAccountToken is left to the default"
    if not spec.get("topologySpreadConstraints"):
        yield "not spread"
    pod = spec.get("securityContext", {})
    if pod.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "seccompProfile"
    for sysctl in pod.get("sysctls", []):
        if sysctl["name"] != "net.ipv4.ip_unprivileged_port_start":
            yield f"sysctl {sysctl['name']}"
    for volume in spec.get("volumes", []):
        (kind,) = set(volume) - {"name"}
        if kind not in ("configMap", "csi", "downwardAPI", "emptyDir", "persistentVolumeClaim", "projected", "secret"):
            yield f"volume {volume['name']} of kind {kind}"
        if kind == "emptyDir" and "sizeLimit" not in volume["emptyDir"]:
            yield f"volume {volume['name']} has no bound"
    for container in spec.get("initContainers", []) + spec["containers"]:
        for fault in _container(container, pod):
            yield f"{container['name']}: {fault}"


def _container(container, pod):
    own = container.get("securityContext", {})
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "readOnlyRootFilesystem"
    if own.get("privileged"):
        yield "privileged"
    if own.get("capabilities") != {"drop": ["ALL"]}:
        yield "capabilities"
    if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield "runAsNonRoot"
    if not own.get("runAsUser", pod.get("runAsUser")):
        yield "runAsUser"
    resources = container.get("resources", {})
    if not {"cpu", "memory"} <= set(resources.get("requests", {})) or "memory" not in resources.get("limits", {}):
        yield "resources"
    ports = {port["name"] for port in container.get("ports", [])}
    # What nobody reaches from outside of its pod, the kubelet neither, has nothing to ask.
    for probe in ("startupProbe", "livenessProbe", "readinessProbe") if ports else ():
        asked = container.get(probe, {}).get("httpGet", {})
        if asked.get("port") not in ports:
            yield f"{probe} asks no port of the container"
        elif asked["path"] != ("/readyz" if probe == "readinessProbe" else "/livez"):
            yield f"{probe} asks {asked['path']}"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield "hostPort"
    for variable in container.get("env", []):
        if any(word in variable["name"].lower() for word in ("password", "token", "secret")) and "value" in variable:
            yield f"variable {variable['name']} holds a secret"
