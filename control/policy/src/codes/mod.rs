//! Every code of a diagnostic, with its title, explanation and example.

mod advice;
mod capture;
mod cluster;
mod entries;
mod fleet;
mod kubernetes;
mod parts;

use foregate_filters::fault::Code;

use self::advice::OF_ADVICE;
use self::capture::OF_CAPTURE;
use self::cluster::OF_CLUSTER;
use self::entries::OF_DOCUMENTS;
use self::fleet::OF_FLEET;
use self::kubernetes::OF_KUBERNETES;
use self::parts::OF_PARTS;

/// What `foregate explain` tells about a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub code: Code,
    pub title: &'static str,
    pub explanation: &'static str,
    /// An example that gives this code.
    pub wrong: &'static str,
    /// The same, mended.
    pub right: &'static str,
}

pub const SYNTAX: Code = Code(101);
pub const UNKNOWN_FIELD: Code = Code(102);
pub const UNSUPPORTED: Code = Code(103);
pub const TYPE: Code = Code(104);
pub const MISSING_FIELD: Code = Code(105);
pub const VALUE_UNKNOWN: Code = Code(106);
pub const BOUNDS: Code = Code(107);
pub const DUPLICATE_KEY: Code = Code(108);
pub const BUDGET: Code = Code(109);
pub const UNKNOWN_KIND: Code = Code(110);
pub const UNSUPPORTED_KIND: Code = Code(111);
pub const FILE_UNREADABLE: Code = Code(112);
pub const NO_POLICY: Code = Code(113);
pub const YAML_FEATURE: Code = Code(114);
pub const CASE_FILE: Code = Code(115);
pub const PATTERN: Code = Code(116);
pub const DUPLICATE_NAME: Code = Code(201);
pub const LISTENER_CONFLICT: Code = Code(202);
pub const LISTENER_TLS: Code = Code(203);
pub const ROUTE_FILTER: Code = Code(204);
pub const ROUTE_MATCH: Code = Code(205);
pub const NO_BACKEND: Code = Code(206);
pub const PORT_ZERO: Code = Code(207);
pub const NOT_ALLOWED: Code = Code(208);
pub const LISTENER_OPTION: Code = Code(220);
pub const IDENTITY_MISSING: Code = Code(221);
pub const POLICY_WITHOUT_TARGET: Code = Code(601);
pub const UPSTREAM_UNUSED: Code = Code(602);
pub const MODEL_UNUSED: Code = Code(603);
pub const MATCH_SHADOWED: Code = Code(604);
pub const ROUTE_DETACHED: Code = Code(605);
pub const GATEWAY_EMPTY: Code = Code(606);
pub const PLAIN_UNTIL: Code = Code(620);
pub const CERTIFICATE_OPTIONAL: Code = Code(621);
pub const CREDENTIALS_IN_CLEAR: Code = Code(622);
pub const AUDIENCE_MISSING: Code = Code(623);
pub const STALE_ANSWERS: Code = Code(624);
pub const KEY_EXPIRED: Code = Code(625);
pub const GROUP_UNKNOWN: Code = Code(626);
pub const CONSUMER_IDLE: Code = Code(627);
pub const ENDPOINT_SOURCE: Code = Code(630);
pub const ENDPOINTS_FILE: Code = Code(631);
pub const HEALTH_CHECK: Code = Code(632);
pub const BALANCING: Code = Code(633);
pub const RETRY: Code = Code(634);
pub const HOST_SHARED: Code = Code(640);
pub const GRPC_OVER_HTTP1: Code = Code(641);
pub const CHOICE_UNKNOWN: Code = Code(642);
pub const NOT_GRANTED: Code = Code(643);
pub const CONCURRENCY: Code = Code(660);
pub const ROUTE_PROTOCOL: Code = Code(670);
pub const UPSTREAM_PROTOCOL: Code = Code(671);
pub const OF_REQUESTS: Code = Code(672);
pub const STREAM_TAKEN: Code = Code(673);
pub const STREAM_HOSTNAME: Code = Code(674);
pub const PROXY_LISTENERS: Code = Code(675);
pub const DETECT_LISTENER: Code = Code(676);
pub const ROLLOUT: Code = Code(678);
pub const MODEL_MISFIT: Code = Code(679);
pub const STORE: Code = Code(683);
pub const CASE_VALUE: Code = Code(701);
pub const BALANCING_IDLE: Code = Code(710);
pub const RETRY_UNTIMED: Code = Code(711);
pub const RETRY_POINTLESS: Code = Code(712);
pub const ROUTE_SHADOWED: Code = Code(713);
pub const ANY_ORIGIN: Code = Code(714);
pub const CHOICE_UNREACHED: Code = Code(715);
pub const FAULTS_INJECTED: Code = Code(716);
pub const FAIRNESS_CONSTANT: Code = Code(717);
pub const FAIRNESS_FORGED: Code = Code(718);
pub const PROXY_ANYONE: Code = Code(719);
pub const LIMIT_FAILS_OPEN: Code = Code(720);
pub const CANARY_UNGUARDED: Code = Code(721);
pub const DRIFT_NOISY: Code = Code(722);
pub const STORE_UNUSED: Code = Code(723);
pub const IDEMPOTENCY_OPEN: Code = Code(729);
pub const IDEMPOTENCY_SCOPE: Code = Code(730);
pub const UNREAD: Code = Code(732);
pub const BACKEND_TLS: Code = Code(733);
pub const SESSION: Code = Code(734);
pub const SIDECAR: Code = Code(736);
pub const LOOKED_AT: Code = Code(737);
pub const ADDRESS_TAKEN: Code = Code(738);
pub const SOURCE_CONFLICT: Code = Code(750);
pub const FILE_OUTSIDE: Code = Code(751);
pub const FILE_ABSENT: Code = Code(752);
pub const FILE_WRITTEN: Code = Code(753);
pub const SOURCE_UNREADABLE: Code = Code(754);
pub const SOURCE_LIMIT: Code = Code(755);
pub const SOURCE_LINK: Code = Code(756);
pub const SUBMODULE: Code = Code(757);
pub const COMMIT_UNTRUSTED: Code = Code(758);
pub const HISTORY_REWRITTEN: Code = Code(759);
pub const NAMESPACE_FOREIGN: Code = Code(760);
pub const DOCUMENTS_TOGETHER: Code = Code(761);
pub const SIGNERS: Code = Code(762);
pub const FLEET_FILE: Code = Code(763);
pub const CAPTURE: Code = Code(770);
pub const CAPTURED_UPSTREAM: Code = Code(771);
pub const PLAIN_PORTS: Code = Code(772);
pub const UNKNOWN_DESTINATIONS: Code = Code(773);
pub const CLUSTER_UNREAD: Code = Code(774);
pub const API_ABSENT: Code = Code(775);
pub const DEFINITION_OTHER: Code = Code(776);
pub const WEBHOOK_ABSENT: Code = Code(777);
pub const WEBHOOK_AUTHORITY: Code = Code(778);
pub const WEBHOOK_UNREACHED: Code = Code(779);
pub const WEBHOOK_SCOPE: Code = Code(780);
pub const CERTIFICATE_ENDS: Code = Code(781);
pub const CLOCKS: Code = Code(782);
pub const POD_SECURITY: Code = Code(783);
pub const ACCESS: Code = Code(784);
pub const LEASE: Code = Code(785);
pub const ROOTS: Code = Code(786);
pub const BACKEND_KIND: Code = Code(790);
pub const SERVICE_UNKNOWN: Code = Code(791);
pub const LOCAL_FILE: Code = Code(792);
pub const NAME_RESERVED: Code = Code(793);
pub const OBJECT_REFUSED: Code = Code(794);
pub const FILE_FOREIGN: Code = Code(795);

/// Every entry, in order.
pub fn all() -> impl Iterator<Item = &'static Entry> {
    let parts = [OF_DOCUMENTS, OF_PARTS, OF_ADVICE, OF_FLEET, OF_CAPTURE, OF_CLUSTER, OF_KUBERNETES];
    parts.into_iter().flatten()
}

/// The entry of a code written as `FG0102`, `fg102` or `102`.
pub fn find(text: &str) -> Option<&'static Entry> {
    let digits = text.trim_start_matches(['F', 'G', 'f', 'g']);
    let code = Code(digits.parse().ok()?);
    all().find(|entry| entry.code == code)
}

const fn entry(
    code: Code,
    title: &'static str,
    explanation: &'static str,
    wrong: &'static str,
    right: &'static str,
) -> Entry {
    Entry { code, title, explanation, wrong, right }
}

#[cfg(test)]
mod tests {
    use super::{all, find};
    use foregate_filters::fault::Code;

    /// Every constant of type `Code` in this text.
    fn constants(source: &str) -> Vec<u16> {
        source
            .lines()
            .filter(|line| line.trim_start().starts_with("pub const"))
            .filter_map(|line| line.split_once("Code(").or_else(|| line.split_once("Self(")))
            .filter_map(|(_, rest)| rest.split(')').next()?.parse().ok())
            .collect()
    }

    #[test]
    fn every_code_is_explained_once_and_in_order() {
        let mut known = constants(include_str!("mod.rs"));
        known.extend(constants(include_str!("../../../../filters/src/fault.rs")));
        known.sort_unstable();
        assert!(known.len() > 40, "{known:?}");
        let explained: Vec<u16> = all().map(|entry| entry.code.0).collect();
        assert_eq!(explained, known);
    }

    #[test]
    fn pages_are_found_however_the_code_is_written() {
        for text in ["FG0102", "fg102", "102", "0102"] {
            assert_eq!(find(text).map(|entry| entry.code), Some(Code(102)), "{text}");
        }
        assert_eq!(find("FG9999"), None);
        let page = find("FG0102").unwrap().page();
        assert!(page.starts_with("FG0102: Unknown field\n\n"), "{page}");
        assert!(page.contains("    authorise:\n"), "{page}");
    }
}
