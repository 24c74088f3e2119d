"""The chart, rendered as people install it: valid, hardened, and of one piece."""

import copy
import pathlib
import re
import unittest

import helm_python
import yaml

import hardening
from support import CASES, CHART, DEPLOY, NAMESPACE, ROOT, find, rendered, validate

CLUSTER_WIDE = {
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "GatewayClass",
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
}
WORKLOADS = ("Deployment", "StatefulSet")


def each():
    return ((case, document) for case in CASES for document in rendered(case))


def workloads():
    return ((case, document) for case, document in each() if document["kind"] in WORKLOADS)


def settings(documents, replica=0):
    config = find(documents, "ConfigMap", "foregate-control")
    return yaml.safe_load(config["data"][f"foregate-control-{replica}.yaml"])


class Chart(unittest.TestCase):
    def test_it_has_no_finding_of_the_linter(self):
        for case, values in CASES.items():
            report = helm_python.lint(CHART, values, strict=True, namespace=NAMESPACE, kube_version="v1.30.0")
            # An icon is for catalogues.
            messages = [one for one in report["messages"] if one["error"] != "icon is recommended"]
            self.assertEqual((messages, report["errors"]), ([], []), case)

    def test_an_api_server_takes_every_object_as_it_is(self):
        for case, document in each():
            with self.subTest(case=case, kind=document["kind"], name=document["metadata"]["name"]):
                validate(document)

    def test_what_an_api_server_would_refuse_is_found(self):
        # Proof that the test before can fail.
        deployment = copy.deepcopy(find(rendered("gateway"), "Deployment"))
        deployment["spec"]["template"]["spec"]["containers"][0]["imagePullPolice"] = "Always"
        with self.assertRaises(Exception):
            validate(deployment)
        monitor = copy.deepcopy(find(rendered("both"), "ServiceMonitor", "foregate-gateway"))
        monitor["spec"]["endpoints"][0]["prot"] = "metrics"
        with self.assertRaises(Exception):
            validate(monitor)

    def test_each_mode_deploys_what_it_says(self):
        kinds = {case: {document["kind"] for document in rendered(case)} for case in CASES}
        self.assertIn("Deployment", kinds["gateway"])
        self.assertNotIn("StatefulSet", kinds["gateway"])
        self.assertNotIn("ClusterRole", kinds["gateway"])
        self.assertIn("StatefulSet", kinds["mesh"])
        self.assertNotIn("Deployment", kinds["mesh"])
        self.assertLessEqual(CLUSTER_WIDE - {"CustomResourceDefinition"}, kinds["mesh"])
        self.assertLessEqual({"Deployment", "StatefulSet", "ServiceMonitor"}, kinds["both"])
        self.assertLessEqual({"HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy"}, kinds["gateway of a ConfigMap"])
        alone = kinds["control plane without a cluster"]
        self.assertFalse({"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration", "GatewayClass", "Role"} & alone)
        self.assertNotIn("MutatingWebhookConfiguration", kinds["mesh that injects nothing"])
        self.assertIn("ValidatingWebhookConfiguration", kinds["mesh that injects nothing"])

    def test_definitions_are_installed_where_the_controller_runs_and_stay(self):
        # The chart has them by a link, `files/crds`.
        names = {yaml.safe_load(path.read_text())["metadata"]["name"] for path in DEPLOY.glob("crds/*.yaml")}
        for case in CASES:
            found = [document for document in rendered(case) if document["kind"] == "CustomResourceDefinition"]
            wanted = names if case in ("mesh", "mesh for development") or case.startswith("both") else set()
            self.assertEqual({crd["metadata"]["name"] for crd in found}, wanted, case)
            for crd in found:
                self.assertEqual(crd["metadata"]["annotations"]["helm.sh/resource-policy"], "keep")

    def test_names_are_unique_and_of_the_release(self):
        for case in CASES:
            seen = set()
            for document in rendered(case):
                metadata = document["metadata"]
                key = (document["kind"], metadata.get("namespace"), metadata["name"])
                self.assertNotIn(key, seen, case)
                seen.add(key)
                if document["kind"] in ("CustomResourceDefinition",):
                    continue
                self.assertEqual("namespace" in metadata, document["kind"] not in CLUSTER_WIDE, key)
                labels = metadata["labels"]
                for label in ("name", "instance", "component", "version", "part-of", "managed-by"):
                    self.assertTrue(labels[f"app.kubernetes.io/{label}"], key)
                self.assertTrue(labels["helm.sh/chart"].startswith("foregate-"), key)

    def test_pods_pass_the_restricted_standard(self):
        for case, workload in workloads():
            self.assertEqual(hardening.faults(workload["spec"]["template"]["spec"]), [], case)

    def test_a_pod_that_is_not_hardened_is_found(self):
        spec = find(rendered("gateway"), "Deployment")["spec"]["template"]["spec"]
        for change, told in (
            (lambda pod, one: pod.update(hostNetwork=True), "hostNetwork"),
            (lambda pod, one: pod["securityContext"].pop("seccompProfile"), "seccompProfile"),
            (lambda pod, one: pod["securityContext"].update(runAsNonRoot=False), "gateway: runAsNonRoot"),
            (lambda pod, one: one["securityContext"].update(readOnlyRootFilesystem=False), "gateway: readOnlyRootFilesystem"),
            (lambda pod, one: one["securityContext"]["capabilities"].update(add=["NET_ADMIN"]), "gateway: capabilities"),
            (lambda pod, one: one.update(resources={}), "gateway: resources"),
            (lambda pod, one: pod["volumes"].append({"name": "host", "hostPath": {"path": "/"}}), "volume host of kind hostPath"),
        ):
            changed = copy.deepcopy(spec)
            change(changed, changed["containers"][0])
            self.assertEqual(hardening.faults(changed), [told])

    def test_every_volume_is_there_and_used(self):
        for case, workload in workloads():
            pod = workload["spec"]["template"]["spec"]
            claims = workload["spec"].get("volumeClaimTemplates", [])
            there = {one["name"] for one in pod["volumes"]} | {claim["metadata"]["name"] for claim in claims}
            every = pod["containers"] + pod.get("initContainers", [])
            used = {mount["name"] for one in every for mount in one["volumeMounts"]}
            self.assertEqual(there, used, case)

    def test_selectors_find_the_pods_of_their_part_and_no_others(self):
        for case in CASES:
            pods = {one["metadata"]["name"]: one["spec"]["template"] for one in rendered(case) if one["kind"] in WORKLOADS}

            def matching(selector):
                fits = lambda labels: selector.items() <= labels.items()
                return {name for name, pod in pods.items() if fits(pod["metadata"]["labels"])}

            for document in rendered(case):
                spec, kind = document.get("spec", {}), document["kind"]
                part = {f"foregate-{document['metadata'].get('labels', {}).get('app.kubernetes.io/component')}"}
                if kind == "Service":
                    self.assertEqual(matching(spec["selector"]), part, case)
                    (pod,) = part
                    names = {port["name"] for one in pods[pod]["spec"]["containers"] for port in one["ports"]}
                    self.assertLessEqual({port["targetPort"] for port in spec["ports"]}, names, case)
                elif kind in WORKLOADS + ("PodDisruptionBudget",):
                    self.assertEqual(matching(spec["selector"]["matchLabels"]), part, case)
                elif kind == "NetworkPolicy":
                    self.assertEqual(matching(spec["podSelector"]["matchLabels"]), part, case)
                elif kind == "HorizontalPodAutoscaler":
                    self.assertEqual({spec["scaleTargetRef"]["name"]}, part, case)
                    self.assertNotIn("replicas", find(rendered(case), "Deployment")["spec"], case)
                elif kind == "ServiceMonitor":
                    services = [one for one in rendered(case) if one["kind"] == "Service"]
                    wanted = spec["selector"]["matchLabels"].items()
                    found = [one for one in services if wanted <= one["metadata"]["labels"].items()]
                    self.assertEqual(len(found), 1, case)
                    self.assertIn(spec["endpoints"][0]["port"], {port["name"] for port in found[0]["spec"]["ports"]})

    def test_clients_do_not_get_at_metrics_and_the_admin_pages_stay_on_loopback(self):
        for case in CASES:
            for document in rendered(case):
                if document["kind"] == "Service" and not document["metadata"]["name"].endswith("-metrics"):
                    targets = {port["targetPort"] for port in document["spec"]["ports"]}
                    self.assertFalse(targets & {"probes", "metrics"}, case)
                elif document["kind"] == "Deployment":
                    (container,) = document["spec"]["template"]["spec"]["containers"]
                    self.assertFalse([word for word in container["args"] if word.startswith("--admin")], case)

    def test_no_secret_is_written_down(self):
        for case, document in each():
            self.assertNotEqual(document["kind"], "Secret", case)
            if document["kind"] != "CustomResourceDefinition":
                self.assertIsNone(re.search("(?i)private key|password:", yaml.safe_dump(document)), case)

    def test_the_drain_ends_before_the_pod_is_killed(self):
        for case, workload in workloads():
            pod = workload["spec"]["template"]["spec"]
            if workload["kind"] == "Deployment":
                (container,) = pod["containers"]
                (drain,) = [word for word in container["args"] if word.startswith("--drain-timeout=")]
                seconds = int(drain.removeprefix("--drain-timeout=").removesuffix("s"))
                delay = container["lifecycle"]["preStop"]["sleep"]["seconds"]
                self.assertGreater(pod["terminationGracePeriodSeconds"], seconds + delay, case)

    def test_each_replica_of_the_control_plane_has_settings_of_its_own(self):
        documents = rendered("mesh")
        files = find(documents, "ConfigMap", "foregate-control")["data"]
        self.assertEqual(sorted(files), [f"foregate-control-{replica}.yaml" for replica in range(3)])
        whole = [settings(documents, replica) for replica in range(3)]
        self.assertEqual([one["kubernetes"].pop("identity") for one in whole], [name.removesuffix(".yaml") for name in files])
        self.assertTrue(all(one == whole[0] for one in whole))
        self.assertEqual(whole[0]["kubernetes"]["webhooks"]["injection"]["uid"], 2102)

    def test_settings_name_only_files_that_are_mounted(self):
        for case in CASES:
            documents = rendered(case)
            if not [one for one in documents if one["kind"] == "StatefulSet"]:
                continue
            (container,) = find(documents, "StatefulSet")["spec"]["template"]["spec"]["containers"]
            folders = [mount["mountPath"] + "/" for mount in container["volumeMounts"]]
            text = yaml.safe_dump(settings(documents))
            for path in re.findall(r"(?<=[ '\"])/(?:etc|var)/[^\s'\"]+", text):
                self.assertTrue([folder for folder in folders if path.startswith(folder)], f"{case}: {path}")

    def test_gateway_and_inference_server_share_a_socket_and_a_user(self):
        pod = find(rendered("both, and everything said"), "Deployment")["spec"]["template"]["spec"]
        (gateway,), (inference,) = pod["containers"], pod["initContainers"]
        self.assertEqual(inference["restartPolicy"], "Always")
        (socket,) = [word.partition("=")[2] for word in inference["args"] if word.startswith("--grpc-socket=")]
        self.assertIn(f"--inference-sidecar=unix:{socket}", gateway["args"])
        for container in (gateway, inference):
            folders = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            self.assertEqual(folders[str(pathlib.PurePath(socket).parent)], "inference")
            self.assertNotIn("runAsUser", container["securityContext"], "that of the pod holds for both")

    def test_gateways_are_granted_what_they_ask_for(self):
        documents = rendered("both, and everything said")
        account = find(documents, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"]
        self.assertEqual(account, "edge")
        grants = settings(documents)["grants"]
        self.assertEqual(grants[0], {"identities": ["spiffe://cluster.local/ns/crm/sa/edge"], "gateways": ["crm/edge"]})
        self.assertEqual(grants[1]["gateways"], ["leads/*"])

    def test_gateways_see_the_roots_and_not_the_key(self):
        for case in ("both", "gateway of a control plane elsewhere"):
            volumes = find(rendered(case), "Deployment")["spec"]["template"]["spec"]["volumes"]
            (roots,) = [volume for volume in volumes if volume["name"] == "roots"]
            self.assertEqual(roots["secret"]["items"], [{"key": "ca.crt", "path": "ca.crt"}], case)

    def test_webhooks_lead_to_the_port_and_names_of_the_settings(self):
        for case in ("mesh", "both", "mesh that injects nothing"):
            documents = rendered(case)
            told = settings(documents)["kubernetes"]["webhooks"]
            service = find(documents, "Service", "foregate-control")
            ports = {port["port"]: port["targetPort"] for port in service["spec"]["ports"]}
            (container,) = find(documents, "StatefulSet")["spec"]["template"]["spec"]["containers"]
            numbers = {port["name"]: port["containerPort"] for port in container["ports"]}
            for hook in (one for one in documents if one["kind"].endswith("WebhookConfiguration")):
                self.assertEqual(hook["metadata"]["name"], told["configuration"], case)
                for webhook in hook["webhooks"]:
                    client = webhook["clientConfig"]["service"]
                    self.assertIn(f"{client['name']}.{client['namespace']}.svc", told["names"])
                    self.assertEqual(told["listen"], f"[::]:{numbers[ports[client['port']]]}")
                    self.assertIn(client["path"], ("/inject", "/validate"))
                    self.assertLessEqual(webhook["timeoutSeconds"], 10)

    def test_a_webhook_is_never_asked_about_the_control_plane_itself(self):
        for case in ("mesh", "both"):
            (webhook,) = find(rendered(case), "MutatingWebhookConfiguration")["webhooks"]
            (exception,) = webhook["objectSelector"]["matchExpressions"]
            self.assertEqual((exception["operator"], exception["values"]), ("NotIn", ["false"]))
            for workload in (one for one in rendered(case) if one["kind"] in WORKLOADS):
                labels = workload["spec"]["template"]["metadata"]["labels"]
                self.assertIn(labels[exception["key"]], exception["values"])


class Access(unittest.TestCase):
    """Who may do what in the cluster."""

    def test_nothing_is_allowed_by_a_wildcard_or_to_read_all_secrets_at_once(self):
        for case, document in each():
            for rule in document.get("rules", []) if document["kind"].endswith("Role") else []:
                words = rule["apiGroups"] + rule["resources"] + rule["verbs"]
                self.assertNotIn("*", words, case)
                self.assertFalse({"delete", "deletecollection", "escalate", "bind", "impersonate"} & set(rule["verbs"]), case)

    def test_secrets_can_be_read_in_named_namespaces_alone(self):
        documents = rendered("both, and everything said")
        wide = find(documents, "ClusterRole")
        self.assertFalse([rule for rule in wide["rules"] if "secrets" in rule["resources"]])
        narrow = [one for one in documents if one["kind"] == "Role" and one["metadata"]["name"].endswith("-references")]
        self.assertEqual({one["metadata"]["namespace"] for one in narrow}, {"crm", "leads"})

    def test_roles_are_bound_to_the_control_plane_alone(self):
        for case in CASES:
            documents = rendered(case)
            names = {(one["kind"], one["metadata"]["name"]) for one in documents if one["kind"].endswith("Role")}
            for binding in (one for one in documents if one["kind"].endswith("RoleBinding")):
                self.assertIn((binding["roleRef"]["kind"], binding["roleRef"]["name"]), names, case)
                (subject,) = binding["subjects"]
                pod = find(documents, "StatefulSet")["spec"]["template"]["spec"]
                self.assertEqual((subject["name"], subject["namespace"]), (pod["serviceAccountName"], NAMESPACE), case)

    def test_it_is_what_the_code_asks_for_and_no_more(self):
        source = ROOT / "control" / "plane" / "src" / "kubernetes" / "rbac.rs"
        if not source.exists():
            self.skipTest("the controller is not in this tree")
        text = source.read_text()
        groups = {"GATEWAY_GROUP": "gateway.networking.k8s.io", "FOREGATE_GROUP": "foregate.dev"}
        asked = set()
        pattern = r"Rule\s*\{\s*group:\s*([^,]+),\s*resources:\s*&\[([^\]]*)\],\s*verbs:\s*&\[([^\]]*)\],\s*at_home:\s*(true|false),?\s*\}"
        for group, resources, verbs, at_home in re.findall(pattern, text):
            group = groups.get(group, group.strip('"'))
            for resource in re.findall(r'"([^"]+)"', resources):
                asked |= {(group, resource, verb, at_home == "true") for verb in re.findall(r'"([^"]+)"', verbs)}
        self.assertGreater(len(asked), 30)
        allowed = set()
        for document in rendered("mesh"):
            for rule in document.get("rules", []) if document["kind"].endswith("Role") else []:
                at_home = document["kind"] == "Role"
                allowed |= {
                    (group, resource, verb, at_home)
                    for group in rule["apiGroups"]
                    for resource in rule["resources"]
                    for verb in rule["verbs"]
                }
        reviews = {("authentication.k8s.io", "tokenreviews", "create", False)}
        self.assertEqual(allowed - reviews, asked)


if __name__ == "__main__":
    unittest.main()
