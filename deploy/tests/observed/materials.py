"""Certificates, keys, bundles and rows that the gateway is given."""

import hashlib
import json
import shutil
import subprocess

from support import ROOT, binary, run

BUNDLES = ROOT / "inference-sidecar" / "bundles"


def _openssl(*words):
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, stdin=subprocess.DEVNULL)


class Authority:
    """A root that signs leaves."""

    def __init__(self, folder, name):
        self.folder, self.certificate, self.key = folder, folder / f"{name}.pem", folder / f"{name}.key"
        self._config = folder / f"{name}.cnf"
        self._sign(f"/CN={name}", ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"], 30, self.certificate, self.key)

    def leaf(self, name, subject, days):
        """Certificate and key that are good for so many days; `subject` is such as DNS:edge.test."""
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        extensions = ["basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature", "extendedKeyUsage=serverAuth,clientAuth", f"subjectAltName={subject}"]
        self._sign(f"/CN={name}", extensions, days, certificate, key, "-CA", self.certificate, "-CAkey", self.key)
        return certificate, key

    def _sign(self, subject, extensions, days, certificate, key, *by):
        self._config.write_text("[req]\ndistinguished_name=dn\nx509_extensions=ext\n[dn]\n[ext]\n" + "".join(f"{one}\n" for one in extensions))
        _openssl("req", "-x509", "-config", self._config, "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", days, "-subj", subject, "-out", certificate, "-keyout", key, *by)


def identity(folder, authority):
    """The identity of a workload, as `--identity dir:FOLDER` reads it."""
    folder.mkdir()
    certificate, key = authority.leaf("svid", "URI:spiffe://mesh.test/gateway", 1)
    shutil.copy(certificate, folder / "svid.pem")
    shutil.copy(key, folder / "svid_key.pem")
    shutil.copy(authority.certificate, folder / "svid_bundle.pem")
    return folder


def said(*words):
    """What a command of ours prints."""
    code, text = run(*map(str, words))
    assert code == 0, f"{words}: {text}"
    return text


def stored(folder):
    """A bundle that looks a number up by key, and a store of rows: the paths of both, and of the key."""
    bundle, source = folder / "stored", BUNDLES / "lead-score-logistic"
    bundle.mkdir()
    for file in ("model.onnx", "reference.json"):
        shutil.copy(source / file, bundle / file)
    old = (source / "golden.json").read_bytes()
    vectors = [one for one in json.loads(old)["vectors"] if one["record"].get("Pricing_Page_Views__c") is None]
    new = json.dumps({"vectors": vectors}).encode()
    (bundle / "golden.json").write_bytes(new)
    manifest = (source / "model.yaml").read_text()
    looked_up = "pointer: /AccountId, type: number, store: {column: pricing_views, maxAge: 24h},"
    for before, after in (
        ("pointer: /Pricing_Page_Views__c, type: number,", looked_up),
        (hashlib.sha256(old).hexdigest(), hashlib.sha256(new).hexdigest()),
    ):
        assert before in manifest
        manifest = manifest.replace(before, after)
    (bundle / "model.yaml").write_text(manifest)
    store, key, rows = folder / "features.redb", folder / "features.key", folder / "rows.csv"
    said(binary("foregate"), "features", "key", key)
    rows.write_text("key,at,pricing_views\n001A,,3\n001B,2020-01-01T00:00:00Z,3\n")
    said(binary("foregate"), "features", "import", "--store", store, "--key", f"file:{key}", rows)
    (folder / "inbox").mkdir()
    return {"stored": bundle, "features": store, "features_key": key, "inbox": folder / "inbox"}


class Tokens:
    """A key pair of an issuer, and the tokens that it signs."""

    def __init__(self, folder):
        self.key = folder / "issuer.pem"
        self.set = json.loads(said(binary("foregate"), "token", "--new-key", self.key))

    def token(self, issuer, *more):
        return said(binary("foregate"), "token", "--key", self.key, "--issuer", issuer, "--audience", "crm", *more).strip()


def consumer():
    """An API key, and the document that holds its hash."""
    text = said(binary("foregate"), "token", "key", "--consumer", "partner")
    key, _, document = text.partition("\n---\n")
    return key.strip(), document
