//! Who asks for a certificate: join tokens, Kubernetes service accounts, rates.

pub mod join;
pub mod pace;
pub mod review;

use foregate_filters::peer::SpiffeId;

/// The path of a workload's id.
///
/// `None` where namespace or account cannot stand in one.
pub fn path(namespace: &str, account: &str) -> Option<String> {
    let id = SpiffeId::parse(&format!("spiffe://test/ns/{namespace}/sa/{account}")).ok()?;
    is_workload(&id).then(|| id.path().to_owned())
}

/// True for the ids that workloads get: `/ns/<namespace>/sa/<service account>`.
pub fn is_workload(id: &SpiffeId) -> bool {
    id.service_account().is_some()
}

/// Reads `ns/crm/sa/leads`, with or without a slash before it.
///
/// # Errors
/// Says what is expected.
pub fn parse_path(text: &str) -> Result<String, String> {
    let parts: Vec<&str> = text.trim_start_matches('/').split('/').collect();
    let [_, namespace, _, account] = parts.as_slice() else { return Err(expected(text)) };
    let path = path(namespace, account).ok_or_else(|| expected(text))?;
    if path.trim_start_matches('/') == parts.join("/") { Ok(path) } else { Err(expected(text)) }
}

fn expected(text: &str) -> String {
    format!("`{text}` names no workload; expected ns/NAMESPACE/sa/ACCOUNT, such as ns/crm/sa/leads")
}

#[cfg(test)]
mod tests {
    use super::parse_path;

    #[test]
    fn a_workload_is_named_by_namespace_and_account() {
        assert_eq!(parse_path("ns/crm/sa/leads").unwrap(), "/ns/crm/sa/leads");
        assert_eq!(parse_path("/ns/crm/sa/leads.v2").unwrap(), "/ns/crm/sa/leads.v2");
        for bad in [
            "",
            "crm/leads",
            "ns/crm/sa/",
            "ns/../sa/leads",
            "sa/crm/ns/leads",
            "ns/crm/sa/a/b",
            "ns/a b/sa/c",
        ] {
            assert!(parse_path(bad).unwrap_err().contains("ns/crm/sa/leads"), "{bad}");
        }
    }
}
