//! The scripts for iptables-restore: two chains of ours, replaced in one transaction a family.

use std::fmt::Write;

use foregate_policy::redirect::Ports;

use crate::redirect::{Family, Inbound, Rules};

/// The chains of ours, and the chain of the kernel that leads to each.
pub const CHAINS: [(&str, &str); 2] = [("PREROUTING", "FOREGATE_INBOUND"), ("OUTPUT", "FOREGATE_OUTBOUND")];

/// The rule that leads to a chain of ours, as `iptables-save` writes it.
fn jump((from, to): (&str, &str)) -> String {
    format!("{from} -p tcp -j {to}")
}

/// What there is of ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct There {
    /// Some chain of ours.
    pub chains: bool,
    /// The rules that lead to each.
    jumps: [bool; 2],
}

impl There {
    /// As [`script`] leaves it.
    pub const ALL: Self = Self { chains: true, jumps: [true; 2] };
}

/// What `iptables-save` tells is there of ours.
pub fn there(saved: &str) -> There {
    let chain = |chain: &str| saved.lines().any(|line| line.starts_with(&format!(":{chain} ")));
    let jumps = CHAINS.map(|chain| {
        let jump = format!("-A {}", jump(chain));
        saved.lines().any(|line| line == jump)
    });
    There { chains: CHAINS.iter().any(|(_, name)| chain(name)), jumps }
}

/// Empties the chains of ours, or makes them; with `--noflush` everything else stays.
fn begin() -> String {
    let chains = CHAINS.map(|(_, chain)| format!(":{chain} - [0:0]\n"));
    format!("*nat\n{}", chains.concat())
}

/// Takes our chains away, and with them the rules that lead to them.
pub fn undo(there: There) -> String {
    let mut text = begin();
    for (chain, _) in CHAINS.into_iter().zip(there.jumps).filter(|(_, there)| *there) {
        let _ = writeln!(text, "-D {}", jump(chain));
    }
    for (_, chain) in CHAINS {
        let _ = writeln!(text, "-X {chain}");
    }
    text.push_str("COMMIT\n");
    text
}

/// Puts our chains in place of those before, and adds the rules that lead to them where they are not `there`.
pub fn script(rules: &Rules, family: Family, there: There) -> String {
    let [(_, inbound), (_, outbound)] = CHAINS;
    let mut text = begin();
    let mut rule = |chain: &str, rule: &str| {
        let _ = writeln!(text, "-A {chain} {rule}");
    };
    let redirect = |port: u16| format!("-p tcp -j REDIRECT --to-ports {port}");
    rule(inbound, "-i lo -j RETURN");
    match &rules.inbound {
        Inbound::AllBut(ports) => {
            each(ports, |ports| rule(inbound, &format!("-p tcp {ports} -j RETURN")));
            rule(inbound, &redirect(rules.inbound_port));
        }
        Inbound::Only(ports) => each(ports, |ports| {
            rule(inbound, &format!("-p tcp {ports} -j REDIRECT --to-ports {}", rules.inbound_port));
        }),
    }
    rule(outbound, "-o lo -j RETURN");
    rule(outbound, &format!("-m owner --uid-owner {} -j RETURN", rules.proxy_uid));
    let loopback = if family == Family::V4 { "127.0.0.0/8" } else { "::1/128" };
    rule(outbound, &format!("-d {loopback} -j RETURN"));
    each(&rules.skip_outbound_ports, |ports| rule(outbound, &format!("-p tcp {ports} -j RETURN")));
    for subnet in family.of(&rules.skip_subnets) {
        rule(outbound, &format!("-d {subnet} -j RETURN"));
    }
    rule(outbound, &redirect(rules.outbound_port));
    for (chain, _) in CHAINS.into_iter().zip(there.jumps).filter(|(_, there)| !there) {
        let _ = writeln!(text, "-A {}", jump(chain));
    }
    text.push_str("COMMIT\n");
    text
}

fn each(ports: &Ports, mut then: impl FnMut(&str)) {
    for (first, last) in ports.ranges() {
        let range = if first == last { first.to_string() } else { format!("{first}:{last}") };
        then(&format!("--dport {range}"));
    }
}

#[cfg(test)]
mod tests {
    use super::{There, script, there, undo};
    use foregate_policy::redirect::subnets;

    use crate::redirect::{Family, Inbound, Rules};

    #[test]
    fn each_family_has_a_script_of_its_own() {
        let rules = Rules {
            inbound_port: 15_006,
            outbound_port: 15_001,
            proxy_uid: 1_337,
            inbound: Inbound::Only("80,8000-8010".parse().unwrap()),
            skip_outbound_ports: "53".parse().unwrap(),
            skip_subnets: subnets("10.0.0.0/8,fd00::/8").unwrap(),
        };
        let saved = "*nat\n:FOREGATE_INBOUND - [0:0]\n-A PREROUTING -p tcp -j FOREGATE_INBOUND\nCOMMIT\n";
        let half = there(saved);
        assert_eq!(half, There { chains: true, jumps: [true, false] });
        let other = "*nat\n:FOREGATE_INBOUNDS - [0:0]\n-A PREROUTING -p tcp -j FOREGATE_INBOUNDS\n";
        assert_eq!(there(other), There::default());
        let text = script(&rules, Family::V4, half);
        let wanted = "*nat
:FOREGATE_INBOUND - [0:0]
:FOREGATE_OUTBOUND - [0:0]
-A FOREGATE_INBOUND -i lo -j RETURN
-A FOREGATE_INBOUND -p tcp --dport 80 -j REDIRECT --to-ports 15006
-A FOREGATE_INBOUND -p tcp --dport 8000:8010 -j REDIRECT --to-ports 15006
-A FOREGATE_OUTBOUND -o lo -j RETURN
-A FOREGATE_OUTBOUND -m owner --uid-owner 1337 -j RETURN
-A FOREGATE_OUTBOUND -d 127.0.0.0/8 -j RETURN
-A FOREGATE_OUTBOUND -p tcp --dport 53 -j RETURN
-A FOREGATE_OUTBOUND -d 10.0.0.0/8 -j RETURN
-A FOREGATE_OUTBOUND -p tcp -j REDIRECT --to-ports 15001
-A OUTPUT -p tcp -j FOREGATE_OUTBOUND
COMMIT
";
        assert_eq!(text, wanted);
        let six = script(&rules, Family::V6, There { chains: true, jumps: [true, true] });
        assert!(six.contains("-d fd00::/8 -j RETURN") && !six.contains("10.0.0.0"), "{six}");
        assert!(!six.contains("-A OUTPUT"), "{six}");
        assert!(undo(half).contains("-D PREROUTING -p tcp -j FOREGATE_INBOUND\n-X FOREGATE_INBOUND\n"));
    }
}
