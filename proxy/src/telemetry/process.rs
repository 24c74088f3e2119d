//! What the process itself uses, under the names that dashboards expect.

use std::fs;

use crate::clock;
use crate::telemetry::sources::{Kind, Sources, number};

/// Resident memory in bytes, from a `/proc/self/status` that counts in KiB.
fn resident_bytes(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(number(kib) * 1024.0)
}

/// User and system time in seconds, from a `/proc/self/stat` that counts in hundredths (proc(5)).
fn cpu_seconds(stat: &str) -> Option<f64> {
    // The name of the program stands in parentheses and may hold anything; fields count from behind it.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((number(user) + number(system)) / 100.0)
}

fn read(path: &str, parse: fn(&str) -> Option<f64>) -> f64 {
    fs::read_to_string(path).ok().as_deref().and_then(parse).unwrap_or(f64::NAN)
}

fn open_files() -> f64 {
    let count = fs::read_dir("/proc/self/fd").map(Iterator::count).ok();
    count.and_then(|count| u32::try_from(count).ok()).map_or(f64::NAN, f64::from)
}

/// Registers memory, processor time, open files, start time and build.
pub fn register(sources: &Sources) {
    let started = clock::now().unix.as_secs_f64();
    sources.register(
        Kind::Gauge,
        "process_resident_memory_bytes",
        "Resident memory size in bytes.",
        &[],
        || read("/proc/self/status", resident_bytes),
    );
    sources.register(
        Kind::Counter,
        "process_cpu_seconds_total",
        "User and system processor time in seconds.",
        &[],
        || read("/proc/self/stat", cpu_seconds),
    );
    sources.register(Kind::Gauge, "process_open_fds", "Open file descriptors.", &[], open_files);
    sources.register(
        Kind::Gauge,
        "process_start_time_seconds",
        "Start of the process, in seconds since the Unix epoch.",
        &[],
        move || started,
    );
    sources.register(
        Kind::Gauge,
        "foregate_build_info",
        "The build that runs; always 1.",
        &[("version", env!("CARGO_PKG_VERSION"))],
        || 1.0,
    );
}

#[cfg(test)]
mod tests {
    use super::{cpu_seconds, open_files, read, resident_bytes};

    #[test]
    fn proc_files_are_read_as_the_kernel_writes_them() {
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t    1024 kB\n"), Some(1_048_576.0));
        assert_eq!(resident_bytes("VmRSS:\t1024 MB\n"), None);
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 90 0 0 0 250 50 0 0 20 0 1 0 100 0 0";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("7 (x) S 1"), None);
    }

    #[test]
    fn a_process_is_told_of_however_long_it_ran() {
        // 2^32 hundredths are 497 days of one processor.
        let stat = "7 (a) S 1 7 7 0 -1 4194560 90 0 0 0 4294967296 4294967304 0 0 20 0 1 0 100 0 0";
        assert_eq!(cpu_seconds(stat), Some(85_899_346.0));
        assert_eq!(resident_bytes("VmRSS:\t4294967296 kB\n"), Some(4_398_046_511_104.0));
    }

    #[test]
    fn this_process_uses_memory_and_files() {
        assert!(read("/proc/self/status", resident_bytes) > 100_000.0);
        assert!(open_files() >= 1.0);
    }
}
