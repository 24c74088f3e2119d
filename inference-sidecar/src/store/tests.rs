//! A store on disk and in memory: what comes back, and what is refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use foregate_filters::timestamp::Timestamp;
use tempfile::TempDir;

use super::error::StoreError;
use super::inbox::sweep;
use super::line::Update;
use super::stream::Position;
use super::{Applied, FeatureStore, StoreKey};

const KEY: &[u8] = b"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const OTHER: &[u8] = b"ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

fn key(text: &[u8]) -> StoreKey {
    StoreKey::parse(text).unwrap()
}

fn now() -> Timestamp {
    "2027-01-31T12:00:00Z".parse().unwrap()
}

fn update(key: &str, at: i64, cells: [f32; 2]) -> Update {
    Update { key: key.into(), at, cells: Some(cells.into()) }
}

/// A store with two columns and three rows.
fn made() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("features.redb");
    FeatureStore::create(&path, &key(KEY), &["visits_30d".to_owned(), "spend_eur".to_owned()]).unwrap();
    let store = FeatureStore::open(&path, key(KEY)).unwrap();
    let rows = [
        update("001A", 10, [1.0, 2.0]),
        update("001B", 20, [3.0, f32::NAN]),
        update("001C", 30, [5.0, 123_456.75]),
    ];
    assert_eq!(store.apply(&rows).unwrap(), Applied { applied: 3, outdated: 0 });
    (folder, path)
}

fn read(store: &FeatureStore, key: &str) -> Option<(i64, Vec<f32>)> {
    let pinned = store.pin();
    pinned.find(key).map(|row| (row.at, row.cells.to_vec()))
}

fn fault(path: &Path, with: &[u8]) -> StoreError {
    FeatureStore::open(path, key(with)).unwrap_err().fault
}

#[test]
fn rows_come_back_from_disk_as_they_went() {
    let (_folder, path) = made();
    let store = FeatureStore::open(&path, key(KEY)).unwrap();
    assert_eq!((store.pin().rows(), store.pin().newest()), (3, Some(30)));
    assert_eq!(read(&store, "001C"), Some((30, vec![5.0, 123_456.75])));
    assert!(read(&store, "001B").unwrap().1[1].is_nan());
    assert_eq!(read(&store, "001D"), None);
    // Older updates change nothing, newer ones do, deleted rows stay deleted; memory and disk agree.
    let gone = Update { key: "001B".into(), at: 40, cells: None };
    let updates =
        [update("001A", 9, [0.0; 2]), update("001C", 31, [6.0, 7.0]), gone, update("001B", 39, [9.0; 2])];
    assert_eq!(store.apply(&updates).unwrap(), Applied { applied: 2, outdated: 2 });
    for store in [store, FeatureStore::open(&path, key(KEY)).unwrap()] {
        assert_eq!(read(&store, "001A"), Some((10, vec![1.0, 2.0])));
        assert_eq!(read(&store, "001C"), Some((31, vec![6.0, 7.0])));
        assert_eq!((read(&store, "001B"), store.pin().rows()), (None, 2));
    }
    let columns = ["visits_30d".to_owned()];
    assert_eq!(FeatureStore::create(&path, &key(KEY), &columns).unwrap_err().fault, StoreError::Exists);
    let elsewhere = path.with_extension("new");
    let twice = ["a".to_owned(), "a".to_owned()];
    assert_eq!(FeatureStore::create(&elsewhere, &key(KEY), &twice).unwrap_err().fault, StoreError::Columns);
}

#[test]
fn deleted_rows_do_not_fill_a_store_for_good() {
    let (_folder, path) = made();
    let store = FeatureStore::open(&path, key(KEY)).unwrap();
    let gone = |key: &str, at| Update { key: key.into(), at, cells: None };
    assert_eq!(store.apply([gone("never", 1)]).unwrap(), Applied::default());
    let day = 86_400 * 1_000_000;
    store.apply([gone("001A", 100), gone("001B", 20 * day)]).unwrap();
    let columns = store.pin().columns().clone();
    let write = |name: &str, at| {
        let updates = vec![update(name, at, [1.0; 2])];
        let batch = super::disk::Batch { columns: &columns, updates, position: None, most: 3 };
        super::disk::write(&path, &[key(KEY)], batch)
    };
    // There are three: one of them lives, one was deleted long ago, one lately.
    assert_eq!(write("001D", 29 * day).unwrap_err(), StoreError::TooLarge);
    write("001D", 31 * day).unwrap();
    assert_eq!(write("001E", 32 * day).unwrap_err(), StoreError::TooLarge);
    let store = FeatureStore::open(&path, key(KEY)).unwrap();
    assert_eq!((store.pin().rows(), read(&store, "001C").is_some()), (2, true));
    assert_eq!(store.apply([update("001B", 19 * day, [2.0; 2])]).unwrap().outdated, 1);
}

#[test]
fn a_wrong_key_and_what_is_no_store_are_told_apart() {
    let (folder, path) = made();
    assert_eq!(fault(&path, OTHER), StoreError::Key);
    assert!(matches!(fault(&folder.path().join("none"), KEY), StoreError::Unreadable(_)));
    let text = folder.path().join("text");
    fs::write(&text, "key,visits\n").unwrap();
    assert!(matches!(fault(&text, KEY), StoreError::Unreadable(_)));
    let message = FeatureStore::open(&path, key(OTHER)).unwrap_err().to_string();
    assert!(
        message.ends_with("features.redb was made with another key, or its head was changed from outside"),
        "{message}"
    );
}

#[test]
fn nothing_of_keys_values_or_names_can_be_read_in_the_file() {
    let (_folder, path) = made();
    let bytes = fs::read(&path).unwrap();
    let held = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
    assert!(held(b"redb"), "the file itself is found");
    for part in [&b"001A"[..], b"001C", b"visits_30d", b"spend_eur", &123_456.75_f32.to_le_bytes()] {
        assert!(!held(part), "{part:?} stands in the file");
    }
}

#[test]
fn a_flipped_byte_is_refused_wherever_it_changes_anything() {
    let (folder, path) = made();
    let good = fs::read(&path).unwrap();
    let store = FeatureStore::open(&path, key(KEY)).unwrap();
    let expected = ["001A", "001C"].map(|key| read(&store, key));
    drop(store);
    let flipped = folder.path().join("flipped");
    // Every byte that is not zero: what is not used is.
    let places: Vec<usize> =
        good.iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(at, _)| at).collect();
    let mut refused = 0;
    for at in places.iter().copied().step_by(7) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        fs::write(&flipped, bytes).unwrap();
        match FeatureStore::open(&flipped, key(KEY)) {
            Ok(store) => assert_eq!(["001A", "001C"].map(|key| read(&store, key)), expected, "byte {at}"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 10, "{refused} of {} were refused", places.len());
    // A row that takes the place of another one, and one that is missing, are found out too.
    let sealed = key(KEY).seal(&key(KEY).row("001A").0, b"row").unwrap();
    assert!(key(KEY).open(&key(KEY).row("001B").0, &sealed).is_err());
}

#[test]
fn what_a_crash_leaves_behind_is_mended() {
    let (folder, path) = made();
    let database = redb::Database::open(&path).unwrap();
    assert_eq!(fault(&path, KEY), StoreError::Busy);
    let write = database.begin_write().unwrap();
    write.open_table(redb::TableDefinition::<&[u8], &[u8]>::new("rows")).unwrap();
    write.commit().unwrap();
    // As if the process had ended here.
    let crashed = folder.path().join("crashed");
    fs::copy(&path, &crashed).unwrap();
    drop(database);
    assert_eq!(FeatureStore::open(&crashed, key(KEY)).unwrap().pin().rows(), 3);
}

#[test]
fn what_another_process_writes_is_seen() {
    let (_folder, path) = made();
    let (one, other) =
        (FeatureStore::open(&path, key(KEY)).unwrap(), FeatureStore::open(&path, key(KEY)).unwrap());
    one.apply(&[update("001D", 50, [8.0, 8.0])]).unwrap();
    assert_eq!(read(&other, "001D"), None);
    assert!(other.refresh().unwrap());
    assert_eq!(read(&other, "001D"), Some((50, vec![8.0, 8.0])));
    assert!(!other.refresh().unwrap());
    // Writing upon what was not seen yet loses none of it.
    one.apply(&[update("001E", 60, [9.0, 9.0])]).unwrap();
    other.apply(&[update("001F", 70, [7.0, 7.0])]).unwrap();
    assert_eq!((read(&other, "001E"), other.pin().rows()), (Some((60, vec![9.0, 9.0])), 6));
    assert!(one.refresh().unwrap());
    assert_eq!(one.pin().rows(), 6);
    // One with other columns is not taken for the same.
    assert!(!one.is_replaced());
    fs::remove_file(&path).unwrap();
    assert!(!one.is_replaced(), "nothing has taken its place yet");
    FeatureStore::create(&path, &key(KEY), &["other".to_owned()]).unwrap();
    assert_eq!(one.refresh().unwrap_err().fault, StoreError::OtherColumns);
    assert!(one.is_replaced());
    assert_eq!(one.pin().rows(), 6, "the last good rows stay");
}

#[test]
fn dropped_files_are_taken_whole_or_refused_with_a_reason() {
    let (folder, path) = made();
    let store = FeatureStore::open(&path, key(KEY)).unwrap();
    let inbox = folder.path().join("inbox");
    fs::create_dir_all(inbox.join("taken")).unwrap();
    let put = |name: &str, text: &str| fs::write(inbox.join(name), text).unwrap();
    put("1.ndjson", "{\"key\":\"001X\",\"features\":{\"visits_30d\":1},\"at\":\"2027-01-31T11:00:00Z\"}\n");
    put("2.csv", "key,spend_eur\n001Y,2.5\n");
    put("3.csv", "key,spend_eur\n001Z,2.5\n001A,much\n");
    put("4.csv.part", "key,spend_eur\n001P,1\n");
    // A crash left this one behind.
    put("taken/0.csv", "key,visits_30d\n001W,4\n");
    let dropped = sweep(&store, &inbox, now()).unwrap().dropped;
    let told: Vec<_> = dropped.iter().map(|it| (it.name.as_str(), it.outcome.is_ok())).collect();
    assert_eq!(told, [("0.csv", true), ("1.ndjson", true), ("2.csv", true), ("3.csv", false)]);
    assert_eq!(dropped[3].outcome.as_ref().unwrap_err(), "line 3: `spend_eur` is not a number");
    assert_eq!(read(&store, "001X").unwrap().1[..1], [1.0]);
    assert_eq!(read(&store, "001Y").map(|(at, cells)| (at, cells[1])), Some((now().micros(), 2.5)));
    assert_eq!((read(&store, "001Z"), read(&store, "001P")), (None, None), "all of a file or nothing");
    let reason = fs::read_to_string(inbox.join("rejected/3.csv.reason")).unwrap();
    assert_eq!(reason, "line 3: `spend_eur` is not a number\n");
    assert!(inbox.join("rejected/3.csv").is_file() && inbox.join("4.csv.part").is_file());
    assert_eq!(fs::read_dir(inbox.join("taken")).unwrap().count(), 0, "nothing is left in the clear");
    put("2.csv", "key,spend_eur\n001Y,3.5\n");
    sweep(&store, &inbox, now()).unwrap();
    assert_eq!(read(&store, "001Y").unwrap().1[1..], [3.5]);
    assert_eq!((store.counts().applied(), store.counts().rejected()), (4, 1));
    assert!(sweep(&store, &inbox, now()).unwrap().dropped.is_empty());
}

#[test]
fn a_second_file_of_the_same_name_waits_for_the_first() {
    let (folder, path) = made();
    let store = FeatureStore::open(&path, key(KEY)).unwrap();
    let inbox = folder.path().join("inbox");
    fs::create_dir_all(&inbox).unwrap();
    let put = |text: &str| fs::write(inbox.join("a.csv"), text).unwrap();
    let held = redb::Database::open(&path).unwrap();
    put("key,spend_eur\n001X,1\n");
    let swept = sweep(&store, &inbox, now()).unwrap();
    assert!(swept.dropped.is_empty() && swept.waiting.is_none(), "{swept:?}");
    put("key,spend_eur\n001Y,2\n");
    assert!(sweep(&store, &inbox, now()).unwrap().dropped.is_empty());
    drop(held);
    for _ in 0..2 {
        assert_eq!(sweep(&store, &inbox, now()).unwrap().dropped.len(), 1);
    }
    assert_eq!(
        ["001X", "001Y"].map(|key| read(&store, key).map(|(_, cells)| cells[1])),
        [Some(1.0), Some(2.0)]
    );
}

#[test]
fn one_process_sweeps_at_a_time() {
    let (folder, path) = made();
    let store = FeatureStore::open(&path, key(KEY)).unwrap();
    let inbox = folder.path().join("inbox");
    fs::create_dir_all(&inbox).unwrap();
    fs::write(inbox.join("a.csv"), "key,spend_eur\n001X,1\n").unwrap();
    let other = fs::File::create(inbox.join(".lock")).unwrap();
    other.try_lock().unwrap();
    assert!(sweep(&store, &inbox, now()).unwrap().dropped.is_empty());
    assert!(inbox.join("a.csv").is_file());
    drop(other);
    assert_eq!(sweep(&store, &inbox, now()).unwrap().dropped.len(), 1);
}

#[test]
fn good_files_wait_while_the_store_cannot_be_written() {
    let (folder, path) = made();
    let store = FeatureStore::open(&path, key(KEY)).unwrap();
    let inbox = folder.path().join("inbox");
    fs::create_dir_all(&inbox).unwrap();
    fs::write(inbox.join("a.csv"), "key,spend_eur\n001X,1\n").unwrap();
    // A directory stands where the store was, and then a store with other columns.
    let aside = folder.path().join("aside");
    fs::rename(&path, &aside).unwrap();
    fs::create_dir(&path).unwrap();
    let swept = sweep(&store, &inbox, now()).unwrap();
    assert!(swept.dropped.is_empty() && swept.waiting.unwrap().contains("cannot be read"));
    fs::remove_dir(&path).unwrap();
    FeatureStore::create(&path, &key(KEY), &["other".to_owned()]).unwrap();
    let swept = sweep(&store, &inbox, now()).unwrap();
    assert!(swept.dropped.is_empty() && swept.waiting.unwrap().contains("other columns"));
    assert_eq!(FeatureStore::open(&path, key(KEY)).unwrap().pin().rows(), 0, "nothing of it was written");
    fs::rename(&aside, &path).unwrap();
    let swept = sweep(&store, &inbox, now()).unwrap();
    assert!(swept.dropped[0].outcome.is_ok() && swept.waiting.is_none());
    assert!(!inbox.join("taken/a.csv").exists() && !inbox.join("rejected/a.csv").exists());
}

#[test]
fn readers_see_each_file_whole_while_it_is_applied() {
    let (folder, path) = made();
    let store = Arc::new(FeatureStore::open(&path, key(KEY)).unwrap());
    let keys: Vec<String> = (0..64).map(|number| format!("002{number}")).collect();
    let ended = Arc::new(AtomicBool::new(false));
    let reader = {
        let (store, keys, ended) = (Arc::clone(&store), keys.clone(), Arc::clone(&ended));
        std::thread::spawn(move || {
            let mut seen = 0;
            while !ended.load(Ordering::Acquire) || seen == 0 {
                let pinned = store.pin();
                let cells: Vec<Option<f32>> =
                    keys.iter().map(|key| pinned.find(key).map(|row| row.cells[0])).collect();
                assert!(cells.iter().all(|cell| *cell == cells[0]), "{cells:?}");
                seen += usize::from(cells[0].is_some());
            }
            seen
        })
    };
    let inbox = folder.path().join("inbox");
    fs::create_dir_all(&inbox).unwrap();
    for round in 0..20 {
        let lines = keys
            .iter()
            .fold("key,visits_30d".to_owned(), |lines, key| lines + "\n" + key + &format!(",{round}"));
        fs::write(inbox.join("part"), lines).unwrap();
        fs::rename(inbox.join("part"), inbox.join(format!("{round:02}.csv"))).unwrap();
        assert!(sweep(&store, &inbox, now()).unwrap().dropped[0].outcome.is_ok());
    }
    ended.store(true, Ordering::Release);
    assert!(reader.join().unwrap() > 0);
}

#[test]
fn nobody_who_opens_a_store_waits_for_a_long_import() {
    let (folder, path) = made();
    let ended = Arc::new(AtomicBool::new(false));
    let opener = {
        let (path, ended) = (path.clone(), Arc::clone(&ended));
        std::thread::spawn(move || {
            let mut seen = Vec::new();
            while !ended.load(Ordering::Acquire) || seen.is_empty() {
                seen.push(FeatureStore::open(&path, key(KEY)).map(|store| store.pin().rows()));
            }
            seen
        })
    };
    let store = FeatureStore::open(&path, key(KEY)).unwrap();
    let many = (0..30_000).map(|number| update(&format!("002{number}"), 40, [1.0; 2]));
    assert_eq!(store.apply(many.collect::<Vec<_>>()).unwrap().applied, 30_000);
    ended.store(true, Ordering::Release);
    for seen in opener.join().unwrap() {
        assert!(matches!(seen, Ok(3 | 30_003)), "{seen:?}");
    }
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "the store and its lock: {left:?}");
}

#[test]
fn one_writes_at_a_time_and_others_read_meanwhile() {
    let (folder, path) = made();
    let store = FeatureStore::open(&path, key(KEY)).unwrap();
    let held = fs::File::open(folder.path().join("features.redb.lock")).unwrap();
    held.try_lock().unwrap();
    let many = |at| (0..5_000).map(|it| update(&it.to_string(), at, [1.0; 2])).collect::<Vec<_>>();
    assert_eq!(store.apply([update("001A", 90, [9.0; 2])]).unwrap_err().fault, StoreError::Busy);
    assert_eq!(store.apply(many(90)).unwrap_err().fault, StoreError::Busy);
    assert_eq!(FeatureStore::rekey(&path, &key(KEY), &key(OTHER)).unwrap_err().fault, StoreError::Busy);
    assert_eq!(FeatureStore::open(&path, key(KEY)).unwrap().pin().rows(), 3);
    drop(held);
    // A link stays a link, and what a crash left behind is in nobody's way.
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    fs::write(folder.path().join("features.redb.new"), "half").unwrap();
    FeatureStore::open(&link, key(KEY)).unwrap().apply(many(90)).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(store.refresh().unwrap());
    assert_eq!(store.pin().rows(), 5_003);
}

#[test]
fn a_store_is_sealed_with_another_key_while_it_is_open() {
    let (_folder, path) = made();
    let store = FeatureStore::open(&path, key(KEY)).unwrap();
    store.apply([Update { key: "001B".into(), at: 40, cells: None }]).unwrap();
    assert_eq!(FeatureStore::rekey(&path, &key(OTHER), &key(KEY)).unwrap_err().fault, StoreError::Key);
    assert_eq!(FeatureStore::rekey(&path, &key(KEY), &key(OTHER)).unwrap(), 2);
    assert_eq!(fault(&path, KEY), StoreError::Key);
    // Whoever has it open goes on with what it knows, and says what is wrong.
    assert_eq!(store.refresh().unwrap_err().fault, StoreError::Key);
    assert_eq!(store.apply([update("001D", 50, [4.0; 2])]).unwrap_err().fault, StoreError::Key);
    assert_eq!(read(&store, "001C"), Some((30, vec![5.0, 123_456.75])));
    // With the new key beside the old one it goes on as if nothing had been.
    store.set_keys(vec![key(KEY), key(OTHER)]);
    store.refresh().unwrap();
    let updates = [update("001D", 50, [4.0; 2]), update("001B", 39, [9.0; 2]), update("001A", 50, [7.0; 2])];
    assert_eq!(store.apply(updates).unwrap(), Applied { applied: 2, outdated: 1 });
    let anew = FeatureStore::open_with(&path, vec![key(KEY), key(OTHER)]).unwrap();
    for store in [store, anew, FeatureStore::open(&path, key(OTHER)).unwrap()] {
        assert_eq!((read(&store, "001A"), read(&store, "001B")), (Some((50, vec![7.0; 2])), None));
        assert_eq!(read(&store, "001D"), Some((50, vec![4.0; 2])));
    }
    // Again, and back: rows are found however often the key changes.
    FeatureStore::rekey(&path, &key(OTHER), &key(KEY)).unwrap();
    assert_eq!(read(&FeatureStore::open(&path, key(KEY)).unwrap(), "001D"), Some((50, vec![4.0; 2])));
}

#[test]
fn a_store_imported_anew_with_another_key_takes_the_place_of_the_old_one() {
    let (folder, path) = made();
    let store = FeatureStore::open_with(&path, vec![key(KEY), key(OTHER)]).unwrap();
    let new = folder.path().join("new");
    let columns = ["visits_30d".to_owned(), "spend_eur".to_owned()];
    FeatureStore::create(&new, &key(OTHER), &columns).unwrap();
    FeatureStore::open(&new, key(OTHER)).unwrap().apply([update("001A", 60, [8.0; 2])]).unwrap();
    fs::rename(&new, &path).unwrap();
    assert!(store.refresh().unwrap());
    assert_eq!((read(&store, "001A"), read(&store, "001C")), (Some((60, vec![8.0; 2])), None));
}

#[test]
fn a_stream_is_taken_up_once_whoever_reads_it() {
    let (_folder, path) = made();
    let (one, other) =
        (FeatureStore::open(&path, key(KEY)).unwrap(), FeatureStore::open(&path, key(KEY)).unwrap());
    let at = |id: &str| Position { stream: "redis/features".into(), id: id.parse().unwrap(), added: Some(5) };
    assert_eq!(one.position("redis/features"), None);
    assert_eq!(one.apply_from(vec![update("001D", 50, [8.0; 2])], at("5-1")).unwrap().applied, 1);
    assert_eq!(other.apply_from(vec![update("001D", 50, [8.0; 2])], at("5-1")).unwrap().applied, 0);
    assert_eq!(other.position("redis/features"), Some(at("5-1")));
    assert_eq!(read(&other, "001D"), Some((50, vec![8.0; 2])), "it was read for that");
    // Bad entries are passed as well, and a later start begins behind them.
    other.apply_from(Vec::new(), at("6-0")).unwrap();
    let anew = FeatureStore::open(&path, key(KEY)).unwrap();
    assert_eq!((anew.position("redis/features"), anew.position("redis/other")), (Some(at("6-0")), None));
}
