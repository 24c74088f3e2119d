"""The real commands under traffic in which every refusal and error happens, seen by the real Prometheus: every panel shows
something, every rule records something, every alert fires for what it is about, and clears once that is mended."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

import yaml

from observed import materials, policies, traffic
from observed.rules import shortened
from observed.services import Cluster, Collector, Crm, Issuer, tls
from observed.stage import Process, Prometheus, Redis, free_port, gateway, until
from support import DEPLOY, ROOT, binary

RULES = [rule for name in ("recording", "alerts") for group in yaml.safe_load((DEPLOY / "prometheus" / f"{name}.yaml").read_text())["groups"] for rule in group["rules"]]
LISTENERS = ("http", "https", "mesh", "tcp", "balanced")
ALERTS = sorted({rule["alert"] for rule in RULES if "alert" in rule})

# What this script cannot bring about, and why.
NOT_REFUSED = {
    "Internal": "a defect of the gateway",
    "HeadTimeout": "what is no request yet is told by its status, and not counted",
    "HeadersTooLarge": "what is no request yet is told by its status, and not counted",
    "BackendInvalid": "what leads nowhere does not compile",
    "LoopDetected": "needs redirected connections; tests of the mesh provoke it",
}
NOT_RAISED = {
    "ForegatePanics": "needs a defect of the gateway",
    "ForegateKeysStale": "is about an age of ten minutes and more, not about a window that can be shorter",
    "ForegateObjectsStuck": "needs faults that no object of a cluster is to blame for",
}
# A gateway that was built without optimisation, on a machine that is busy, is slow by itself.
OF_THE_MACHINE = {"ForegateLatencyBudgetBurns"}
# Alerts about what is wrong on this stage from the beginning on.
FROM_THE_BEGINNING = {"ForegateCertificateExpires", "ForegateCredentialExpires", "ForegateKeysMissing", "ForegateRevisionsDiffer", "ForegateUpstreamGone"}


class Stage:
    """All processes, and what became of the script."""

    def __init__(self, stack):
        self.stack = stack
        self.folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.answers = []
        self.cleared, self.alerts = set(), []
        self.files()
        self.start()

    def run(self, process):
        self.stack.callback(process.end)
        return process

    def served(self, service):
        self.stack.callback(service.stop)
        return service

    def files(self):
        folder = self.folder
        self.authority = materials.Authority(folder, "authority")
        certificate, key = self.authority.leaf("edge", "DNS:edge.test", 1)
        self.crm, self.crm_tls = (self.served(Crm(context)) for context in (None, tls(certificate, key)))
        self.tokens = materials.Tokens(folder)
        self.issuer = self.served(Issuer(self.tokens.set))
        self.collector = self.served(Collector())
        self.api_key, consumer = materials.consumer()
        self.identity = materials.identity(folder / "identity", self.authority)
        (folder / "secret").write_text("secret")
        os.chmod(folder / "secret", 0o600)
        self.redis = self.run(Redis(folder))
        # Bound, so that it is nobody else's; nothing listens there.
        reserved = self.stack.enter_context(socket.socket())
        reserved.bind(("127.0.0.1", 0))
        self.closed = reserved.getsockname()[1]
        self.places = {
            "bundles": materials.BUNDLES,
            "closed": self.closed,
            "consumer": consumer,
            "crm": self.crm.port,
            "crm_tls": self.crm_tls.port,
            "edition": 1,
            "idp": self.issuer.url,
            "redis": self.redis.port,
            "secret": folder / "secret",
            **materials.stored(folder),
        }
        self.policies = folder / "policies"
        self.secrets = self.policies / "secrets" / "edge"
        self.secrets.mkdir(parents=True)
        shutil.copy(certificate, self.secrets / "tls.crt")
        shutil.copy(key, self.secrets / "tls.key")
        (self.policies / "contract.yaml").write_text(policies.CONTRACT)
        self.publish(policies.documents(self.places))

    def publish(self, text):
        """Writes the policies in one step."""
        part = self.folder / "part"
        part.write_text(text)
        part.rename(self.policies / "gateway.yaml")

    def start(self):
        folder = self.folder
        models = folder / "models"
        models.mkdir()
        shutil.copytree(materials.BUNDLES / "lead-score-logistic", models / "lead-score-logistic")
        self.inference_port = free_port()
        self.infer()
        self.plane()
        words = [self.policies, "--identity", f"dir:{self.identity}", "--state-dir", folder / "state", "--state-interval", "100ms"]
        words += ["--inference-sidecar", f"unix:{folder}/inference.sock", "--head-timeout", "1s", "--body-timeout", "1s"]
        words += ["--max-body-memory", "4MiB", "--decision-sample", "1/1", "--drain-timeout", "1s", "--drain-notice", "0s"]
        words += ["--traces", f"http://127.0.0.1:{self.collector.port}", "--trace-sample", "1"]
        words += ["--logs", f"http://127.0.0.1:{self.collector.port}"]
        self.log = folder / "log"
        self.log.mkdir()
        materials.said(binary("foregate"), "decisions", "key", "--seal", folder / "log.key")
        words += ["--decision-log", self.log / "decisions", "--decision-log-key", f"file:{folder}/log.key", "--decision-log-required", "--decision-log-max-size", "16KiB"]
        words += [word for name in LISTENERS for word in ("--bind", f"edge/{name}=127.0.0.1:0")]
        # Nobody reads the access log for now: at some time, its queue is full.
        self.edge = self.run(gateway(*words, stdout=subprocess.PIPE))
        callers = (traffic.Caller(self.edge.port(listener=f"edge/{name}")) for name in LISTENERS)
        self.http, self.https, self.mesh, self.tcp, self.balanced = callers
        admin = lambda process: f"127.0.0.1:{process.port('admin listening')}"
        targets = {
            "gateway": [admin(self.edge), admin(self.inner)],
            "control": [admin(self.control), admin(self.cluster)],
            "inference": [f"127.0.0.1:{self.inference_port}"],
        }
        self.began = time.time()
        self.prometheus = self.run(Prometheus(folder, targets))

    def infer(self):
        words = [binary("foregate-inference"), "serve", "--models", self.folder / "models", "--http", f"127.0.0.1:{self.inference_port}"]
        self.inference = self.run(Process([*words, "--grpc", "127.0.0.1:0", "--grpc-socket", self.folder / "inference.sock"]))
        until(lambda: "".join(self.inference.lines), (self.folder / "inference.sock").exists)

    def plane(self):
        """A control plane with a gateway, and one with a cluster."""
        folder = self.folder / "plane"
        (folder / "policies").mkdir(parents=True)
        (folder / "policies" / "gateway.yaml").write_text(policies.FLEET.format(crm=self.crm.port))
        common = {"trustDomain": "mesh.test", "listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "names": ["127.0.0.1"], "insecure": {"generateAuthority": True}}
        grants = [{"identities": ["spiffe://mesh.test/ns/crm/sa/gateway"], "gateways": ["default/inner"]}]
        more = {"joinTokens": {}, "authority": {"lifetime": "15s"}, "sources": [{"name": "policies", "folder": {"path": str(folder / "policies")}}], "grants": grants}
        self.settings = {**common, **more}
        self.control, self.control_file = self.controlled(folder, "control", self.settings)
        self.settings |= {"listen": f"127.0.0.1:{self.control.port()}", "admin": f"127.0.0.1:{self.control.port('admin listening')}"}
        (folder / "roots.pem").write_text(materials.said(binary("foregate-control"), "authority", "roots", "--config", self.control_file))
        self.inner = self.join()
        self.inner_http = traffic.Caller(self.inner.port(listener="inner/http"))
        kubernetes = self.served(Cluster())
        self.stack.callback(kubernetes.released.set)
        cluster = {"name": "none", "cluster": {"server": f"http://127.0.0.1:{kubernetes.port}"}}
        context = {"name": "none", "context": {"cluster": "none", "user": "none"}}
        kubeconfig = {"apiVersion": "v1", "kind": "Config", "clusters": [cluster], "contexts": [context], "users": [{"name": "none", "user": {"token": "none"}}], "current-context": "none"}
        (folder / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
        self.webhooks = traffic.Caller(free_port())
        hooks = {"listen": f"127.0.0.1:{self.webhooks.port}", "names": ["localhost"], "injection": {"image": "foregate:0", "control": "https://localhost:8443"}}
        watched = {"namespace": "foregate", "identity": "foregate-control-0", "kubeconfig": str(folder / "kubeconfig"), "webhooks": hooks}
        self.cluster, _ = self.controlled(folder, "cluster", {**common, "kubernetes": watched})

    def token(self):
        """A join token that is good for one certificate, in the file of the gateway behind the control plane."""
        file = self.folder / "plane" / "token"
        file.write_text(materials.said(binary("foregate-control"), "token", "create", "--config", self.control_file, "--identity", "ns/crm/sa/gateway"))
        os.chmod(file, 0o600)
        return file

    def join(self, admin=0):
        folder = self.folder / "plane"
        words = ["--control", f"https://{self.settings['listen']}", "--control-ca", folder / "roots.pem", "--control-token", self.token(), "--identity", "control"]
        return self.run(gateway(*words, "--state-dir", folder / "state-inner", "--bind", "inner/http=127.0.0.1:0", admin=admin))

    def controls(self, **changes):
        """Starts the control plane again where it was."""
        self.control, _ = self.controlled(self.folder / "plane", "control", {**self.settings, **changes})

    def controlled(self, folder, name, settings):
        file = folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**settings, "stateDir": str(folder / f"state-{name}")}))
        process = self.run(Process([binary("foregate-control"), "run", "--config", file]))
        process.port()
        return process, file

    # The script.

    def play(self):
        prometheus = self.prometheus
        self.well()
        prometheus.scraped()
        self.quiet = {alert for alert, _ in prometheus.firing()}
        self.top = [shown for shown in panels() if shown.panel["gridPos"]["y"] == 1 and not prometheus.values(shown.filled)]
        with self.http.open("/events/events") as connection:
            events = connection.getresponse()
            events.readline()
            self.callers("one")
            self.models()
            prometheus.scraped()
            self.callers("two")
            self.models()
            self.fires("ForegateAvailabilityBudgetBurns", "ForegateUpstreamFails", "ForegateLoadShed")
            self.fires("ForegateModelDrifts", "ForegateCanaryTakenOff", "ForegateFeaturesStale")
            self.configurations()
            self.sidecar()
            with self.throttled(self.inner):
                self.store()
                self.decisions()
                self.spans()
                self.fires("ForegateEventLoopDelayed")
        self.flood()
        prometheus.scraped()
        self.missing = {(shown.dashboard, shown.panel["title"], shown.target["expr"]) for shown in panels() if not prometheus.values(shown.filled)}
        self.recorded = {rule["record"] for rule in RULES if "record" in rule and prometheus.values(rule["record"])}
        self.unknown = {selector for rule in RULES for selector in selectors(rule["expr"]) if not prometheus.values(selector)}
        self.choices = [self.chosen(model) for model in dashboards().values()]
        self.exemplars = prometheus.ask("query_exemplars", query="http_server_request_duration_seconds_bucket", start=self.began, end=time.time())
        self.mended()
        self.fleet()
        self.refused = {labels["reason"] for labels, _ in prometheus.values("foregate_refusals_total")}
        self.farewell()
        self.fired = prometheus.fired()
        self.clears(*({alert for alert, _ in self.fired} - self.cleared))

    def chosen(self, dashboard):
        """What each variable of a dashboard that asks Prometheus offers."""
        found = {}
        for variable in dashboard["templating"]["list"]:
            if asked := re.fullmatch(r"label_values\((.+), (\w+)\)", variable.get("definition", "")):
                found[variable["name"]] = {labels.get(asked[2]) for labels, _ in self.prometheus.values(filled(asked[1]))}
        return found

    def fires(self, *alerts, meanwhile=lambda: None):
        """Waits until each alert has fired, in each severity."""
        wanted = {(rule["alert"], rule["labels"]["severity"]) for rule in RULES if rule.get("alert") in alerts}

        def fired():
            meanwhile()
            return wanted <= self.prometheus.fired()

        until(lambda: f"{wanted - self.prometheus.fired()} firing", fired)
        self.alerts += self.prometheus.ask("alerts")["alerts"]

    def clears(self, *alerts):
        """Waits until alerts that have fired do so no more."""
        firing = lambda: set(alerts) & {alert for alert, _ in self.prometheus.firing()}
        assert set(alerts) <= {alert for alert, _ in self.prometheus.fired()}, alerts
        until(lambda: f"{firing()} cleared", lambda: not firing())
        self.cleared |= set(alerts)

    def expect(self, script):
        self.answers += script

    def well(self):
        """Callers and gateways as they should be."""
        for _ in range(2):
            self.http.many(40, "/open/ok")
            self.inner_http.many(10, "/fleet/ok")
            self.expect([("", self.http.ask("/placed/ok", "POST", traffic.lead(1)))])
            self.prometheus.scraped()

    def callers(self, turn):
        closed = f"http://127.0.0.1:{self.closed}"
        self.expect(traffic.malformed(self.http, self.https))
        self.expect(traffic.unknown(self.http, self.tokens, self.issuer.url, closed, self.api_key))
        self.expect(traffic.too_much(self.http, self.crm, turn))
        self.expect(traffic.messages(self.http))
        self.expect(traffic.services(self.http, self.crm))
        self.http.many(60, "/faulty/ok", 16)
        self.http.many(40, "/shared/ok")
        self.mesh.raw(traffic.head())
        self.https.raw(traffic.head(), "edge.test")
        # Neither a certificate of the domain, nor none: no handshake.
        with contextlib.suppress(OSError):
            self.mesh.raw(traffic.head(), "edge.test")
        self.balanced.raw(b"PROXY nonsense\r\n")
        self.tcp.raw(traffic.head(path="/ok"))
        review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "1", "operation": "CREATE", "object": {"kind": "Pod"}}}
        self.webhooks.raw(traffic.message("POST", "/validate", review), "localhost")

    def models(self):
        """Leads by ones and by hundreds, until what is watched about models was judged."""
        self.http.many(150, "/leads/ok", 4, method="POST", body=traffic.lead)
        self.http.many(10, "/leads/ok", 4, method="POST", body=lambda number: traffic.batch(number * 100, 100))
        for account in ("001A", "001B", "001Z"):
            self.http.ask("/stored/ok", "POST", {**traffic.LEAD, "AccountId": account})
        self.redis.command("XADD", "foregate:stream:features", "*", "update", json.dumps({"key": "001S", "features": {"pricing_views": 4}}))
        self.redis.command("XADD", "foregate:stream:features", "*", "update", "nonsense")
        inbox = self.places["inbox"]
        (inbox / "part").write_text("nonsense\n")
        (inbox / "part").rename(inbox / "wrong.ndjson")

    def configurations(self):
        """One that is refused, one with more than metrics have room for, then one that no longer allows what is open."""
        text = policies.documents(self.places)
        self.publish(text + "---\nkind: Nonsense\n")
        self.fires("ForegateConfigurationRefused")
        self.publish(text + policies.vast(1001))
        self.fires("ForegateSeriesOverflow")
        self.clears("ForegateConfigurationRefused")
        self.publish(text + policies.policy_of("events", "addresses: { allow: [10.0.0.0/8] }", "events-no-more"))
        self.prometheus.until("foregate_revocations_total")

    def sidecar(self):
        """The inference server is stopped, killed, and started again."""
        placed = lambda: self.http.ask("/placed/ok", "POST", traffic.lead(1))
        self.inference.child.send_signal(signal.SIGSTOP)
        # All of its threads: one that is at work goes on for a moment.
        os.waitid(os.P_PID, self.inference.child.pid, os.WSTOPPED)
        self.expect([("ScoreUnavailable", placed())])
        # Each waits for as long as the policy lets it.
        self.fires("ForegateLatencyBudgetBurns", meanwhile=lambda: self.http.many(8, "/placed/ok", method="POST", body=traffic.lead))
        self.inference.end(signal.SIGKILL)
        self.fires("ForegateInferenceSidecarLost")
        self.expect([("ScoreUnavailable", placed())])
        self.fires("ForegateScoresMissing")
        self.infer()
        self.clears("ForegateInferenceSidecarLost")

    def store(self):
        """The Redis is killed, and started again."""
        port = self.redis.port
        self.redis.end(signal.SIGKILL)
        for _ in range(20):
            self.http.ask("/shared/ok")
        self.expect([("LimitUnavailable", self.http.ask("/shared/ok"))])
        self.expect([("IdempotencyUnavailable", self.http.ask("/once-shared/ok", "POST", {}, idempotency_key="k"))])
        self.fires("ForegateLimitStoreDown")
        self.redis = self.run(Redis(self.folder, port))
        self.prometheus.until("sum(foregate_store_circuits_open) == 0")

    def decisions(self):
        """The disk of the decision log goes, and comes back."""
        shutil.rmtree(self.log)
        until("LogUnavailable", lambda: self.http.ask("/open/ok") == (503, "LogUnavailable"))
        self.fires("ForegateDecisionLogFailing", "ForegateDecisionLogDrops")
        self.log.mkdir()
        until("the log", lambda: self.http.ask("/open/ok")[0] == 200)
        self.clears("ForegateDecisionLogFailing")

    def spans(self):
        """The collector refuses what it is sent, for a while."""
        self.prometheus.until("foregate_spans_exported_total > 0")
        self.prometheus.until("foregate_logs_exported_total > 0")
        self.collector.refuses = True
        self.http.many(20, "/open/ok")
        self.fires("ForegateSpansDropped", "ForegateLogsDropped")
        self.collector.refuses = False

    @contextlib.contextmanager
    def throttled(self, process):
        """Stops a process for most of the time, as a limit of its processor does."""
        over = threading.Event()

        def throttle():
            while not over.wait(0.08):
                process.child.send_signal(signal.SIGSTOP)
                over.wait(0.2)
                process.child.send_signal(signal.SIGCONT)

        thread = threading.Thread(target=throttle)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def flood(self):
        """More requests than the queue of the access log has room for; then somebody reads it."""
        url = f"http://127.0.0.1:{self.http.port}/inside/ok"
        subprocess.run(["h2load", "-n", "12000", "-c", "4", "-m", "32", url], check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=120)
        self.fires("ForegateAccessLogDrops")
        log = os.dup(self.edge.child.stdout.fileno())

        def read():
            with open(log, "rb", buffering=0) as stream:
                while stream.read(65536):
                    pass

        threading.Thread(target=read, daemon=True).start()

    def mended(self):
        """What was wrong from the beginning on is not any more, and a model that drifted has a successor."""
        self.fires(*FROM_THE_BEGINNING)
        certificate, key = self.authority.leaf("renewed", "DNS:edge.test", 25)
        shutil.copy(certificate, self.secrets / "tls.crt")
        shutil.copy(key, self.secrets / "tls.key")
        self.places |= {"closed": self.served(Issuer(self.tokens.set)).port, "edition": 2}
        self.publish(policies.documents(self.places))
        self.clears("ForegateCertificateExpires", "ForegateCredentialExpires", "ForegateKeysMissing", "ForegateUpstreamGone", "ForegateModelDrifts")

    def fleet(self):
        """The control plane goes, comes back without a grant and soon asks for a proof, and has both in the end."""
        proved = "time() - foregate_identity_attested_timestamp_seconds"
        self.control.end(signal.SIGKILL)
        self.fires("ForegateControlPlaneLost", "ForegateIdentityExpires")
        # More than a quarter of the time is left, which is long enough to renew a certificate in.
        ((_, age),) = self.prometheus.until(f"{proved} > 30")
        terms = {"identity": {"reattest": f"{int(age / 0.72)}s"}}
        self.controls(**terms, grants=[])
        self.clears("ForegateControlPlaneLost")
        self.fires("ForegateGrantLost", "ForegateIdentityUnproved")
        self.expect([("GrantLost", self.inner_http.ask("/fleet/ok"))])
        self.control.end(signal.SIGKILL)
        self.controls(**terms)
        self.token()
        self.clears("ForegateGrantLost", "ForegateIdentityUnproved", "ForegateIdentityExpires")
        self.expect([("", self.inner_http.ask("/fleet/ok"))])

    def farewell(self):
        """A gateway goes, and comes back."""
        admin = self.inner.port("admin listening")
        self.inner.end(signal.SIGKILL)
        self.fires("ForegateGatewayDown")
        # One that is down obeys nothing.
        self.clears("ForegateRevisionsDiffer")
        self.inner = self.join(admin)
        self.clears("ForegateGatewayDown")


class Shown:
    """One expression of one panel, with its variables filled in."""

    def __init__(self, dashboard, panel, target):
        self.dashboard, self.panel, self.target = dashboard, panel, target
        self.filled = filled(target["expr"])


def filled(expression):
    """What Grafana would ask, where everything is chosen."""
    expression = expression.replace("$__rate_interval", "5m")
    return re.sub(r'"\$(?:job|instance|route)"', '".*"', expression)


def dashboards():
    return {path.stem: json.loads(path.read_text()) for path in sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))}


def panels():
    for name, model in dashboards().items():
        for panel in model["panels"]:
            for target in panel.get("targets", []):
                yield Shown(name, panel, target)


def selectors(expression):
    """Names of series with what is asked of their labels, recorded ones too."""
    without_labels = re.sub(r"\b(?:by|on) \([^)]*\)", "", expression)
    return re.findall(r"(?<![:\w])(?:up|(?:foregate|http_server|http_client)_[a-z_]+|job[a-z_]*:[a-z0-9_]+:[a-z0-9_]+)(?:\{[^}]*\})?", without_labels)


class Observed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        stack = contextlib.ExitStack()
        cls.addClassCleanup(stack.close)
        cls.stage = Stage(stack)
        cls.stage.play()

    def test_every_caller_is_told_what_is_wrong(self):
        wrong = [(wanted, answer) for wanted, answer in self.stage.answers if answer[1] != wanted]
        self.assertEqual(wrong, [])

    def test_every_refusal_that_can_be_provoked_happens(self):
        text = (ROOT / "filters" / "src" / "reason.rs").read_text()
        reasons = set(re.findall(r"^    ([A-Z][A-Za-z]+) = [A-Z_]+, [0-9]+, ", text, re.M)) - {"Preflight"}
        self.assertGreater(len(reasons), 50)
        self.assertEqual(reasons - self.stage.refused, set(NOT_REFUSED))

    def test_every_panel_shows_something(self):
        self.assertEqual(self.stage.missing, set())

    def test_the_first_rows_show_something_while_all_is_well(self):
        # No window of records is full so early.
        self.assertEqual([(shown.dashboard, shown.panel["title"]) for shown in self.stage.top], [("models", "Drift")])

    def test_every_rule_records_something(self):
        self.assertEqual({rule["record"] for rule in RULES if "record" in rule} - self.stage.recorded, set())

    def test_rules_ask_for_series_and_labels_that_are_there(self):
        self.assertEqual(self.stage.unknown, set())

    def test_variables_offer_something_to_choose(self):
        for found in self.stage.choices:
            self.assertEqual({name: bool(values - {None}) for name, values in found.items()}, {"job": True, "instance": True, "route": True})
            self.assertEqual((found["job"], len(found["instance"])), ({"gateway"}, 2))

    def test_no_alert_is_raised_by_what_is_well(self):
        self.assertLessEqual(self.stage.quiet, FROM_THE_BEGINNING | OF_THE_MACHINE)

    def test_rules_of_the_stage_are_those_that_are_deployed_but_for_times(self):
        timeless = lambda text: re.sub(r"\[\w+\]|\boffset \w+|:short\b", "", text)
        short = [rule for group in yaml.safe_load(shortened())["groups"] for rule in group["rules"]]
        self.assertEqual(len(short), len(RULES))
        for ours, deployed in zip(short, RULES):
            self.assertEqual(timeless(ours["expr"]), timeless(deployed["expr"]))
            self.assertEqual({key: ours[key] for key in ours if key not in ("expr", "for", "record")}, {key: deployed[key] for key in deployed if key not in ("expr", "for", "record")})

    def test_every_alert_fires_for_what_it_is_about(self):
        every = {(rule["alert"], rule["labels"]["severity"]) for rule in RULES if "alert" in rule}
        self.assertEqual({alert for alert, _ in every - self.stage.fired}, set(NOT_RAISED))

    def test_alerts_clear_where_it_is_mended(self):
        self.assertEqual(self.stage.cleared, set(ALERTS) - set(NOT_RAISED))

    def test_alerts_say_what_and_where(self):
        self.assertTrue(self.stage.alerts)
        for alert in self.stage.alerts:
            description = alert["annotations"]["description"]
            self.assertNotRegex(description, r"<no value>|error|%!|  ", alert["labels"]["alertname"])

    def test_exemplars_lead_to_decisions(self):
        found = [exemplar["labels"] for series in self.stage.exemplars for exemplar in series["exemplars"]]
        self.assertTrue(found)
        for labels in found:
            self.assertRegex(labels["decision_id"], "^[0-9a-f-]{36}$")


if __name__ == "__main__":
    unittest.main()
