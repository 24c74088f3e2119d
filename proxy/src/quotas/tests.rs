//! The file of quotas: what is found again, and what is not.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foregate_filters::rate_limit::calendar::{Calendar, Period};
use foregate_filters::rate_limit::windows::{Window, WindowCounter, Windows};

use super::Quotas;
use crate::clock;

fn day() -> Calendar {
    Calendar::new(Period::Day, "Europe/Berlin").unwrap()
}

/// What a key has used today.
fn today(used: u32) -> Windows {
    let start = u32::try_from(day().window(clock::now().unix).0 / 60).unwrap();
    [Window { start, used }, Window::default()]
}

fn used(counter: &WindowCounter) -> Vec<u32> {
    let mut all = Vec::new();
    counter.each(|_, windows| all.push(windows[0].used));
    all.sort_unstable();
    all
}

fn counter(quotas: &Quotas) -> Arc<WindowCounter> {
    quotas.counter("crm/daily", &day()).0
}

fn counted(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_next_process_goes_on_where_this_one_ended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let first = Quotas::open(&path).unwrap();
    counter(&first).merge([1, 2], today(17));
    first.known().stale = true;
    first.write();
    assert_eq!(names(&path), ["quotas.lock", "quotas.state"]);
    assert_eq!(fs::metadata(path.join("quotas.state")).unwrap().permissions().mode() & 0o777, 0o600);
    let second = Quotas::open(&path).unwrap();
    assert_eq!(second.salt, first.salt, "keys have the same hashes");
    // Nothing is lost while no policy asks for the quota.
    second.known().stale = true;
    second.write();
    let third = Quotas::open(&path).unwrap();
    assert_eq!(used(&counter(&third)), [17]);
    let (_, zoned) = third.counter("crm/daily", &Calendar::new(Period::Day, "UTC").unwrap());
    assert!(zoned, "another zone is another quota");
}

#[test]
fn a_file_that_is_not_sound_is_set_aside_and_told_of() {
    let folder = tempfile::tempdir().unwrap();
    for (number, foreign) in [b"".to_vec(), b"not ours".to_vec(), vec![0; 500]].into_iter().enumerate() {
        fs::write(folder.path().join("quotas.state"), &foreign).unwrap();
        let quotas = Quotas::open(folder.path()).unwrap();
        assert_eq!(used(&counter(&quotas)), [0_u32; 0]);
        assert_eq!(quotas.set_aside.load(std::sync::atomic::Ordering::Relaxed), 1);
        let aside: Vec<_> = names(folder.path()).into_iter().filter(|it| it.contains("refused-")).collect();
        assert!(aside.len() > number.min(1), "{aside:?}");
        let kept = aside.iter().any(|it| fs::read(folder.path().join(it)).unwrap() == foreign);
        assert!(kept, "what was there is still there");
    }
}

#[test]
fn a_file_that_would_be_refused_when_it_is_read_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut quotas = Quotas::open(folder.path()).unwrap();
    let daily = counter(&quotas);
    daily.merge([1, 1], today(5));
    quotas.known().stale = true;
    quotas.write();
    quotas.max_file = quotas.state().length();
    quotas.known().stale = true;
    quotas.write();
    assert_eq!((counted(&quotas.written), counted(&quotas.failed)), (3, 0), "one at the start");
    daily.merge([2, 2], today(7));
    quotas.known().stale = true;
    quotas.write();
    assert_eq!((counted(&quotas.written), counted(&quotas.failed)), (3, 1));
    let error = quotas.store(folder.path()).unwrap_err().to_string();
    assert!(error.contains("at most") && error.contains("fewer keys"), "{error}");
    // What was written before is there, and the rest is as soon as it fits.
    assert_eq!(used(&counter(&Quotas::open(folder.path()).unwrap())), [5]);
    quotas.max_file *= 2;
    quotas.write();
    assert_eq!(used(&counter(&Quotas::open(folder.path()).unwrap())), [5, 7]);
}

#[test]
fn two_processes_agree_on_the_higher_count() {
    let folder = tempfile::tempdir().unwrap();
    let old = Quotas::open(folder.path()).unwrap();
    counter(&old).merge([1, 1], today(5));
    old.known().stale = true;
    old.write();
    let new = Quotas::open(folder.path()).unwrap();
    counter(&new).merge([2, 2], today(1));
    // The old one counts on while it drains.
    counter(&old).merge([1, 1], today(8));
    old.known().stale = true;
    old.write();
    new.write();
    assert_eq!(used(&counter(&new)), [1, 8]);
    let third = Quotas::open(folder.path()).unwrap();
    assert_eq!(used(&counter(&third)), [8]);
}

#[test]
fn a_policy_that_comes_and_goes_gives_no_second_quota() {
    let quotas = Quotas::default();
    let first = counter(&quotas);
    first.merge([1, 1], today(5));
    drop(first);
    quotas.sweep();
    let again = counter(&quotas);
    assert_eq!(used(&again), [5]);
    let old = [Window { start: 1_000, used: 3 }, Window::default()];
    let (forgotten, _) = quotas.counter("crm/old", &day());
    forgotten.merge([1, 1], old);
    drop(forgotten);
    quotas.sweep();
    assert!(quotas.counter("crm/old", &day()).1, "what ended long ago is let go");
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    assert!(Quotas::open(&file).is_err());
}
