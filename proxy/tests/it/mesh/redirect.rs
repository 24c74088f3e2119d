//! `foregate init`: its own rules, once, and away again.

use std::process::Command;

use crate::support::command::foregate;
use crate::support::netns::{Pod, allowed, pods};

/// All rules of a pod, without counters and comments.
fn rules(pod: &Pod) -> String {
    let mut all = String::new();
    for (program, args) in [("nft", "-s list ruleset"), ("iptables-save", ""), ("ip6tables-save", "")] {
        for line in pod.says(program, args).lines().filter(|line| !line.starts_with('#')) {
            all.push_str(line);
            all.push('\n');
        }
    }
    all
}

#[track_caller]
fn done(pod: &Pod, args: &[&str]) -> String {
    let output = pod.init(args);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

#[tokio::test]
async fn rules_are_made_once_and_taken_back_and_those_of_others_stay() {
    if !allowed() {
        return;
    }
    let [pod, other] = pods();
    pod.says("nft", "add table inet other");
    pod.says("nft", "add chain inet other kept");
    let arguments =
        ["--skip-subnets", "10.9.0.0/16,fd09::/32", "--skip-inbound-ports", "9000", "--proxy-uid", "4242"];
    // The tables of iptables are there for others too.
    for program in ["iptables", "ip6tables"] {
        for chain in ["PREROUTING", "OUTPUT"] {
            pod.says(program, &format!("-t nat -A {chain} -p tcp --dport 7 -j ACCEPT"));
        }
    }
    let before = rules(&pod);
    for backend in [&[][..], &["--backend", "iptables"]] {
        let all = [&arguments[..], backend].concat();
        let said = done(&pod, &all);
        assert!(said.contains("inbound to :15006, outbound to :15001"), "{said}");
        let once = rules(&pod);
        assert!(
            once.contains("4242") && once.contains("10.9.0.0/16") && once.contains("fd09::/32"),
            "{once}"
        );
        let (line, count) =
            if backend.is_empty() { ("redirect to :15006", 1) } else { ("--to-ports 15006", 2) };
        assert_eq!(once.matches(line).count(), count, "{once}");
        done(&pod, &all);
        assert_eq!(rules(&pod), once, "twice is once");
        done(&pod, &[&["--proxy-uid", "4343"], backend].concat());
        let changed = rules(&pod);
        assert!(
            changed.contains("4343") && !changed.contains("4242") && !changed.contains("10.9.0.0"),
            "{changed}"
        );
        done(&pod, &["--undo"]);
        assert_eq!(rules(&pod), before);
        done(&pod, &["--undo"]);
        assert_eq!(rules(&pod), before);
    }
    // Where nothing is, taking it back makes nothing.
    assert_eq!(rules(&other), "");
    done(&other, &["--undo"]);
    assert_eq!(rules(&other), "");
}

#[tokio::test]
async fn a_dry_run_tells_and_does_nothing() {
    if !allowed() {
        return;
    }
    let [pod, _other] = pods();
    let script = done(&pod, &["--dry-run", "--inbound-only-ports", "80,8000-8010"]);
    assert!(script.contains("tcp dport != { 80, 8000-8010 } accept"), "{script}");
    assert_eq!(rules(&pod), "");
    // What is told is what nft takes.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("script");
    std::fs::write(&file, &script).unwrap();
    pod.says("nft", &format!("-f {}", file.display()));
    let told = rules(&pod);
    done(&pod, &["--inbound-only-ports", "80,8000-8010"]);
    assert_eq!(rules(&pod), told);
    let undo = done(&pod, &["--dry-run", "--undo"]);
    assert_eq!(undo, "table inet foregate {}\ndelete table inet foregate\n");
    let tables = done(&pod, &["--dry-run", "--backend", "iptables"]);
    assert!(
        tables.contains("# iptables-restore --noflush\n*nat\n") && tables.contains("-d ::1/128"),
        "{tables}"
    );
    assert_eq!(rules(&pod), told);
}

#[tokio::test]
async fn without_leave_or_programs_it_says_what_to_do() {
    if !allowed() {
        return;
    }
    let [pod, _other] = pods();
    let binary = env!("CARGO_BIN_EXE_foregate");
    for backend in ["nft", "iptables"] {
        let mut command = pod.command("setpriv");
        command.args(["--bounding-set", "-net_admin", "--inh-caps", "-net_admin", binary, "init"]);
        let output = command.args(["--backend", backend]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("capability NET_ADMIN") && said.contains("ports of the sidecar itself"),
            "{said}"
        );
    }
    assert_eq!(rules(&pod), "");
}

#[test]
fn where_no_program_is_installed_it_says_which_to_install() {
    for args in [&["init"][..], &["init", "--undo"], &["init", "--backend", "nft"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_foregate"));
        let output = command.args(args).env("PATH", "/nowhere").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("nft is not installed: install the package nftables"), "{said}");
    }
}

#[test]
fn what_is_no_port_user_or_subnet_gets_into_no_script() {
    for (args, part) in [
        (&["--skip-inbound-ports", "80; flush ruleset"][..], "is no port"),
        (&["--skip-outbound-ports", "0"], "is no port"),
        (&["--inbound-only-ports", "90-80"], "ends before it begins"),
        (&["--skip-subnets", "10.0.0.1/8"], "write 10.0.0.0/8"),
        (&["--skip-subnets", "10.0.0.0/8 } accept"], "is no subnet"),
        (&["--proxy-uid", "0"], "0 is not in 1.."),
        (&["--proxy-uid", "root"], "invalid"),
        (&["--inbound-port", "0"], "0 is not in 1.."),
        (&["--inbound-port", "15001"], "must differ"),
        (&["--skip-inbound-ports", "80", "--inbound-only-ports", "81"], "cannot be used with"),
    ] {
        foregate(&[&["init", "--dry-run"], args].concat()).is(2, &[], &[part]);
    }
}
