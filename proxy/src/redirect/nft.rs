//! The script for nftables: one table of ours, replaced in one transaction.

use std::fmt::Write;

use crate::redirect::{Family, Inbound, Rules};

/// The table; nothing else is touched.
pub const TABLE: &str = "inet foregate";

/// Takes the table away where there is one: naming it first makes sure that there is.
pub fn undo() -> String {
    format!("table {TABLE} {{}}\ndelete table {TABLE}\n")
}

/// Puts the table in place of the one before.
pub fn script(rules: &Rules) -> String {
    let Rules { inbound_port, outbound_port, proxy_uid, inbound, skip_outbound_ports, .. } = rules;
    let mut text = undo();
    // Writing to a string does not fail.
    let mut line = |line: &str| {
        let _ = writeln!(text, "{line}");
    };
    line(&format!("table {TABLE} {{"));
    line("    chain inbound {");
    // Before the numbers had names for every hook: -100 is `dstnat`.
    line("        type nat hook prerouting priority -100; policy accept;");
    line("        meta l4proto != tcp accept");
    line("        iifname \"lo\" accept");
    match inbound {
        Inbound::AllBut(ports) if ports.is_empty() => {}
        Inbound::AllBut(ports) => line(&format!("        tcp dport {{ {ports} }} accept")),
        Inbound::Only(ports) if ports.is_empty() => line("        accept"),
        Inbound::Only(ports) => line(&format!("        tcp dport != {{ {ports} }} accept")),
    }
    line(&format!("        meta l4proto tcp redirect to :{inbound_port}"));
    line("    }");
    line("    chain outbound {");
    line("        type nat hook output priority -100; policy accept;");
    line("        meta l4proto != tcp accept");
    line("        oifname \"lo\" accept");
    line(&format!("        meta skuid {proxy_uid} accept"));
    line("        ip daddr 127.0.0.0/8 accept");
    line("        ip6 daddr ::1 accept");
    if !skip_outbound_ports.is_empty() {
        line(&format!("        tcp dport {{ {skip_outbound_ports} }} accept"));
    }
    for (family, word) in Family::ALL.into_iter().zip(["ip", "ip6"]) {
        let subnets: Vec<String> = family.of(&rules.skip_subnets).map(ToString::to_string).collect();
        if !subnets.is_empty() {
            line(&format!("        {word} daddr {{ {} }} accept", subnets.join(", ")));
        }
    }
    line(&format!("        meta l4proto tcp redirect to :{outbound_port}"));
    line("    }");
    line("}");
    text
}

#[cfg(test)]
mod tests {
    use super::script;
    use foregate_policy::redirect::subnets;

    use crate::redirect::{Inbound, Rules};

    #[test]
    fn the_script_says_what_the_rules_say() {
        let rules = Rules {
            inbound_port: 15_006,
            outbound_port: 15_001,
            proxy_uid: 1_337,
            inbound: Inbound::AllBut("15020,9000-9010".parse().unwrap()),
            skip_outbound_ports: "53".parse().unwrap(),
            skip_subnets: subnets("10.0.0.0/8,192.0.2.0/24,fd00::/8").unwrap(),
        };
        let text = script(&rules);
        for line in [
            "delete table inet foregate",
            "        tcp dport { 9000-9010, 15020 } accept",
            "        meta l4proto tcp redirect to :15006",
            "        meta skuid 1337 accept",
            "        tcp dport { 53 } accept",
            "        ip daddr { 10.0.0.0/8, 192.0.2.0/24 } accept",
            "        ip6 daddr { fd00::/8 } accept",
            "        meta l4proto tcp redirect to :15001",
        ] {
            assert!(text.lines().any(|one| one == line), "{line}\n{text}");
        }
        let only = Rules { inbound: Inbound::Only("80,443".parse().unwrap()), ..rules };
        assert!(script(&only).contains("        tcp dport != { 80, 443 } accept\n"), "{}", script(&only));
    }
}
