//! A bundle that is not what it claims is refused, and says where.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use foregate_inference::bundle::Bundle;
use foregate_inference::bundle::error::BundleFault;
use sha2::{Digest, Sha256};

/// A copy of a shipped bundle under the target folder, for one test.
pub(crate) fn copy(test: &str) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles/lead-score-logistic");
    let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bundle-{test}"));
    let _ = fs::remove_dir_all(&to);
    fs::create_dir_all(&to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    to
}

pub(crate) fn edit(dir: &Path, file: &str, change: impl Fn(String) -> String) {
    let path = dir.join(file);
    fs::write(&path, change(fs::read_to_string(&path).unwrap())).unwrap();
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

/// Writes the digest that the golden file has now into the manifest.
fn sign_golden(dir: &Path) {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles/lead-score-logistic/golden.json");
    let (old, new) =
        (digest(&fs::read(shipped).unwrap()), digest(&fs::read(dir.join("golden.json")).unwrap()));
    edit(dir, "model.yaml", |text| text.replace(&old, &new));
}

#[test]
fn a_flipped_byte_is_a_wrong_digest() {
    let dir = copy("flipped");
    let mut bytes = fs::read(dir.join("model.onnx")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(dir.join("model.onnx"), bytes).unwrap();
    let error = Bundle::load(&dir).unwrap_err();
    assert!(error.file == "model.onnx" && matches!(error.fault, BundleFault::Digest { .. }), "{error}");
}

#[test]
fn a_golden_vector_that_differs_is_named_with_its_difference() {
    let dir = copy("golden");
    let mut golden: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.join("golden.json")).unwrap()).unwrap();
    let score = golden["vectors"][3]["score"].as_f64().unwrap();
    golden["vectors"][3]["score"] = (score + 0.001).into();
    fs::write(dir.join("golden.json"), golden.to_string()).unwrap();
    sign_golden(&dir);
    match Bundle::load(&dir).unwrap_err().fault {
        BundleFault::GoldenScore { vector: 3, off, .. } => assert!((off - 0.001).abs() < 1e-5),
        other => panic!("{other}"),
    }
    golden["vectors"][3]["score"] = score.into();
    let feature = golden["vectors"][5]["features"][0].as_f64().unwrap();
    golden["vectors"][5]["features"][0] = (feature + 0.01).into();
    fs::write(dir.join("golden.json"), golden.to_string()).unwrap();
    fs::copy(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles/lead-score-logistic/model.yaml"),
        dir.join("model.yaml"),
    )
    .unwrap();
    sign_golden(&dir);
    let fault = Bundle::load(&dir).unwrap_err().fault;
    assert!(matches!(fault, BundleFault::GoldenFeature { vector: 5, column: 0, .. }), "{fault}");
}

#[test]
fn a_missing_or_foreign_file_is_named() {
    let dir = copy("missing");
    fs::remove_file(dir.join("golden.json")).unwrap();
    let error = Bundle::load(&dir).unwrap_err();
    assert!(error.file == "golden.json" && matches!(error.fault, BundleFault::Unreadable(_)), "{error}");
    for path in ["../model.onnx", "/etc/hostname", ""] {
        let dir = copy("outside");
        edit(&dir, "model.yaml", |text| text.replace("path: model.onnx", &format!("path: \"{path}\"")));
        let error = Bundle::load(&dir).unwrap_err();
        assert!(matches!(error.fault, BundleFault::Outside(_)), "{path}: {error}");
    }
    let dir = copy("link");
    fs::remove_file(dir.join("model.onnx")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.join("model.onnx")).unwrap();
    assert!(matches!(Bundle::load(&dir).unwrap_err().fault, BundleFault::Outside(_)));
}

#[test]
fn a_faulty_manifest_is_refused_with_its_line() {
    let cases: [(&str, &str, &str); 7] = [
        ("object: Lead", "object: Lead\ncolour: red", "colour"),
        ("object: Lead", "object: Lead\nobject: Case", "duplicate"),
        ("kind: ModelBundle", "kind: Model", "ModelBundle"),
        ("name: lead-score-logistic", "name: Lead_Score", "DNS-1123"),
        ("pointer: /AnnualRevenue,", "pointer: AnnualRevenue,", "must start with"),
        ("width: ", "width: 9", "columns"),
        ("type: number", "type: numeric", "numeric"),
    ];
    for (from, to, part) in cases {
        let dir = copy("manifest");
        edit(&dir, "model.yaml", |text| text.replacen(from, to, 1));
        let error = Bundle::load(&dir).unwrap_err();
        assert!(error.to_string().to_lowercase().contains(&part.to_lowercase()), "{to}: {error}");
        assert!(error.file == "model.yaml" && error.place.is_some_and(|(line, _)| line > 1), "{to}: {error}");
    }
}

#[test]
fn a_bundle_that_must_be_signed_is_so_by_whoever_may_and_as_it_is() {
    let dir = copy("signed");
    // Stands for a signature: what is signed, backwards.
    let signature = |message: &[u8]| message.iter().rev().take(64).copied().collect::<Vec<u8>>();
    let by_us = |message: &[u8], found: &[u8]| signature(message) == found;
    let error = Bundle::load_signed(&dir, Some(&by_us)).unwrap_err();
    assert!(error.file == "bundle.sig" && matches!(error.fault, BundleFault::Unreadable(_)), "{error}");
    let manifest = fs::read(dir.join("model.yaml")).unwrap();
    fs::write(dir.join("bundle.sig"), signature(&manifest)).unwrap();
    assert!(Bundle::load_signed(&dir, Some(&by_us)).is_ok() && Bundle::load(&dir).is_ok());
    let by_others = |_: &[u8], _: &[u8]| false;
    let error = Bundle::load_signed(&dir, Some(&by_others)).unwrap_err();
    assert_eq!((error.file.as_str(), error.fault), ("bundle.sig", BundleFault::Signature));
    // What was signed says what the other files are.
    edit(&dir, "golden.json", |text| text.replacen('{', "{ ", 1));
    let error = Bundle::load_signed(&dir, Some(&by_us)).unwrap_err();
    assert!(error.file == "golden.json" && matches!(error.fault, BundleFault::Digest { .. }), "{error}");
    edit(&dir, "model.yaml", |text| text + "\n");
    assert_eq!(Bundle::load_signed(&dir, Some(&by_us)).unwrap_err().fault, BundleFault::Signature);
}

#[test]
fn a_bundle_that_is_replaced_while_it_loads_is_one_or_the_other_or_refused() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bundle-replaced");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let bundles = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles");
    let (dir, next) = (folder.join("current"), folder.join("next"));
    let point = |to: &str| {
        std::os::unix::fs::symlink(bundles.join(to), &next).unwrap();
        fs::rename(&next, &dir).unwrap();
    };
    point("lead-score");
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0.. {
                point(["lead-score", "lead-score-logistic"][round % 2]);
                if done.load(std::sync::atomic::Ordering::SeqCst) {
                    break;
                }
            }
        });
        for _ in 0..12 {
            match Bundle::load(&dir) {
                Ok(bundle) => {
                    let engine = if &*bundle.name == "lead-score" { "forest" } else { "graph" };
                    assert_eq!(bundle.model.engine(), engine, "parts of two bundles");
                }
                Err(error) => assert!(
                    matches!(error.fault, BundleFault::Digest { .. } | BundleFault::Outside(_)),
                    "{error}"
                ),
            }
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
    });
}
