//! The name of a proxy, the same over restarts.

use std::io;
use std::path::Path;

use foregate_policy::files;

/// The name of this proxy, made once and kept in its folder of state.
///
/// # Errors
/// Where it cannot be kept.
pub fn node_id(state: &Path) -> io::Result<String> {
    let file = state.join("node");
    if let Ok(text) = std::fs::read_to_string(&file)
        && !text.trim().is_empty()
    {
        return Ok(text.trim().to_owned());
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.trim().chars().take(200).collect();
    let id = format!("{host}-{:08x}", crate::telemetry::random::next() >> 32);
    files::make_folder(state)?;
    files::replace(&file, id.as_bytes())?;
    Ok(id)
}
