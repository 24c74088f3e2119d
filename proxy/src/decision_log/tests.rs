//! The log from first entry to proof: disks that fail, hands that tamper.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::slice;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use foregate_filters::moment::Moment;
use tempfile::TempDir;

use super::entry::{Chain, Content, Entry, Occasion};
use super::files::{self, Disk};
use super::keys::{KeyRef, PublicKey, SealKey, SigningKey};
use super::reader::{Piece, read};
use super::verify::{Keys, Report, Wrong, verify};
use super::writer::{Create, Item, Writer};
use super::{CAPACITY, DecisionLog, DecisionLogOptions};
use crate::telemetry::testing::record;

const LONG: Duration = Duration::from_secs(30);

/// A folder with keys, for one log.
struct Bench {
    folder: TempDir,
    options: DecisionLogOptions,
}

fn at(millis: u64) -> Moment {
    Moment {
        unix: Duration::from_millis(1_790_000_000_000 + millis),
        monotonic: Duration::from_millis(millis),
    }
}

fn items(count: usize) -> Vec<Item> {
    (0..count).map(|_| Item::Decision(Arc::new(record()))).collect()
}

impl Bench {
    fn new(sealed: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            fs::write(folder.path().join(name), text).unwrap();
            KeyRef::File(folder.path().join(name))
        };
        let (_, private, public) = SigningKey::generate().unwrap();
        put("public.pem", &public);
        let sign_key = Some(put("sign.pem", &private));
        let key = sealed.then(|| put("seal.key", &SealKey::generate().unwrap().1));
        let file = folder.path().join("decisions.log");
        let options =
            DecisionLogOptions { file, key, sign_key, max_size: 1 << 30, keep: 100, required: false };
        Self { folder, options }
    }

    fn writer(&self) -> Writer {
        Writer::open(&self.options, at(0)).unwrap()
    }

    fn keys(&self) -> Keys {
        let public = PublicKey::load(&KeyRef::File(self.folder.path().join("public.pem"))).unwrap();
        Keys { seal: self.options.key.as_ref().map(|key| SealKey::load(key).unwrap()), public: Some(public) }
    }

    /// All files of the log.
    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.display().to_string().contains("decisions.log")).collect()
    }

    fn verify(&self) -> Report {
        verify(&self.files(), &self.keys(), false)
    }

    fn lines(&self, path: &Path) -> Vec<String> {
        let mut lines = Vec::new();
        let key = self.keys().seal;
        read(path, key.as_ref(), &mut |piece| {
            let Piece::Line(line) = piece else { panic!("{piece:?}") };
            lines.push(String::from_utf8(line.to_vec()).unwrap());
        })
        .unwrap();
        lines
    }

    /// What is found after the plain log was edited line by line.
    fn tampered(&self, edit: impl FnOnce(&mut Vec<String>)) -> Report {
        let mut lines = self.lines(&self.options.file);
        edit(&mut lines);
        lines.push(String::new());
        fs::write(&self.options.file, lines.join("\n")).unwrap();
        self.verify()
    }
}

#[track_caller]
fn found(report: &Report) -> Vec<(Wrong, Option<u64>)> {
    report.problems.iter().map(|problem| (problem.wrong, problem.sequence)).collect()
}

/// A log of one opening, ten decisions and a closing checkpoint: sequence 1 to 12.
fn ten(sealed: bool) -> Bench {
    let bench = Bench::new(sealed);
    let mut writer = bench.writer();
    assert_eq!(writer.write(&items(10), at(1)).written, 10);
    writer.close(at(2));
    let report = bench.verify();
    assert_eq!((found(&report), report.decisions, report.signed), (vec![], 10, 1));
    bench
}

#[test]
fn a_log_is_rotated_signed_in_time_and_proven() {
    for sealed in [false, true] {
        let mut bench = Bench::new(sealed);
        bench.options.max_size = 100_000;
        let mut writer = bench.writer();
        let first = writer.write(&items(3), at(10));
        assert_eq!((first.written, first.lost, first.checkpoint), (3, 0, None));
        assert_eq!(writer.due(at(500)), Some(Duration::from_millis(500)));
        assert_eq!(writer.tick(at(999)).checkpoint, None);
        assert_eq!(writer.tick(at(1_000)).checkpoint, Some(at(1_000).unix));
        assert_eq!(writer.due(at(1_000)), None, "nothing waits for a signature");
        for round in 0..20 {
            assert_eq!(writer.write(&items(100), at(1_001 + round)).errors, Vec::<String>::new());
        }
        writer.close(at(3_000));
        let report = bench.verify();
        assert_eq!(found(&report), []);
        assert_eq!((report.decisions, report.dropped, report.first), (2_003, 0, 1));
        assert!(report.files > 5 && report.signed >= report.files as u64, "{report:?}");
        assert_eq!(report.signed, report.checkpoints);
        for file in bench.files() {
            let size = fs::metadata(&file).unwrap().len();
            assert!(size < 100_000 + (70 << 10), "{size}");
            let text = fs::read(&file).unwrap();
            let plain = text.windows(14).any(|window| window == b"/services/data");
            assert_eq!(plain, !sealed, "{}", file.display());
        }
    }
}

#[test]
fn only_so_many_files_are_kept_and_their_beginning_is_told() {
    let mut bench = Bench::new(false);
    (bench.options.max_size, bench.options.keep) = (16 << 10, 2);
    let mut writer = bench.writer();
    (0..30).for_each(|_| drop(writer.write(&items(10), at(1))));
    writer.close(at(2));
    assert_eq!(bench.files().len(), 3);
    let report = bench.verify();
    assert_eq!(found(&report), []);
    assert!(report.notes[0].contains("begins at sequence"), "{:?}", report.notes);
}

#[test]
fn every_kind_of_tampering_with_lines_is_found() {
    use Wrong::{Changed, Inserted, Removed, Reordered, Truncated};
    let change = |lines: &mut Vec<String>, index: usize| lines[index] = lines[index].replace("201", "200");
    assert_eq!(found(&ten(false).tampered(|lines| change(lines, 3))), [(Changed, Some(4))]);
    assert_eq!(found(&ten(false).tampered(|lines| drop(lines.remove(3)))), [(Removed, Some(5))]);
    assert_eq!(found(&ten(false).tampered(|lines| drop(lines.remove(0)))), [(Removed, None)]);
    assert_eq!(found(&ten(false).tampered(|lines| lines.swap(3, 4))), [(Reordered, Some(4))]);
    let twice = |lines: &mut Vec<String>| lines.insert(4, lines[3].clone());
    assert_eq!(found(&ten(false).tampered(twice)), [(Inserted, Some(4))]);
    assert_eq!(found(&ten(false).tampered(|lines| lines.truncate(8))), [(Truncated, Some(8))]);
    assert_eq!(found(&ten(false).tampered(|lines| lines[3].truncate(20))), [(Changed, Some(4))]);
    let append = |lines: &mut Vec<String>| lines.push(lines[3].clone());
    assert_eq!(found(&ten(false).tampered(append)), [(Inserted, Some(4))]);
}

#[test]
fn every_byte_counts() {
    let bench = ten(false);
    let whole = fs::read(&bench.options.file).unwrap();
    for offset in (0..whole.len()).step_by(59) {
        let mut changed = whole.clone();
        changed[offset] ^= 1;
        fs::write(&bench.options.file, &changed).unwrap();
        assert_ne!(found(&bench.verify()), [], "byte {offset}");
    }
    let bench = ten(true);
    let whole = fs::read(&bench.options.file).unwrap();
    for offset in (0..whole.len()).step_by(59) {
        let mut changed = whole.clone();
        changed[offset] ^= 1;
        fs::write(&bench.options.file, &changed).unwrap();
        assert_ne!(found(&bench.verify()), [], "byte {offset} of a sealed file");
    }
    for length in (0..whole.len()).step_by(397) {
        fs::write(&bench.options.file, &whole[..length]).unwrap();
        assert_ne!(found(&bench.verify()), [], "a sealed file cut to {length} bytes");
    }
}

/// The log written anew from its decisions up to `keep`, with another end, by somebody who has no signing key.
fn forged(lines: &[String], keep: usize, key: Option<&SigningKey>) -> Vec<String> {
    let (mut chain, mut forged) = (Chain::START, Vec::new());
    let opening = serde_json::from_str::<serde_json::Value>(&lines[0]).unwrap()["open"].clone();
    let opening = serde_json::from_value(opening).unwrap();
    chain.append(at(0).unix, &Content::Open(&opening), &mut forged);
    for _ in 0..keep {
        chain.append(at(1).unix, &Content::Decision(&record()), &mut forged);
    }
    chain.append(at(2).unix, &Content::Checkpoint(Occasion::End, key), &mut forged);
    String::from_utf8(forged).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_chain_made_anew_without_the_key_is_found() {
    let stolen = ten(false);
    let report = stolen.tampered(|lines| *lines = forged(lines, 5, None));
    assert_eq!(found(&report), [(Wrong::SignatureMissing, None)]);
    // Without the public key nobody can tell.
    let blind = verify(&stolen.files(), &Keys::default(), false);
    assert_eq!((found(&blind), blind.signed), (vec![], 0));
    let other = SigningKey::generate().unwrap().0;
    let report = ten(false).tampered(|lines| *lines = forged(lines, 5, Some(&other)));
    assert_eq!(found(&report), [(Wrong::WrongKey, Some(7))]);
    // The old signature under a chain that was hashed anew.
    let report = ten(false).tampered(|lines| {
        let signature = |line: &str| line.split("\"signature\":\"").nth(1).unwrap()[..88].to_owned();
        let made = forged(lines, 10, Some(&other));
        let (old, new) = (signature(&lines[11]), signature(&made[11]));
        let id = |line: &str| line.split("\"key\":\"").nth(1).unwrap()[..16].to_owned();
        let last = made[11].replace(&new, &old).replace(&id(&made[11]), &id(&lines[11]));
        let body = &last[..last.len() - 75];
        let hash = super::entry::hex(&super::entry::sha256(body.as_bytes()));
        *lines = made;
        lines[11] = format!("{body},\"hash\":\"{hash}\"}}");
    });
    assert_eq!(found(&report), [(Wrong::Changed, Some(12))]);
}

#[test]
fn a_tail_made_anew_behind_a_true_signature_is_found() {
    let bench = Bench::new(false);
    let mut writer = bench.writer();
    writer.write(&items(3), at(1));
    writer.tick(at(1_500));
    writer.write(&items(3), at(1_600));
    writer.close(at(1_700));
    let text = fs::read_to_string(&bench.options.file).unwrap();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let first = lines.iter().position(|line| line.contains("\"signature\"")).unwrap();
    assert!(first + 1 < lines.len(), "two signatures are wanted");
    // The chain goes on from the signed checkpoint with what an attacker makes up, and ends in order.
    let Some(Entry { seq, hash, .. }) = Entry::parse(lines[first].as_bytes(), None) else {
        panic!("no entry")
    };
    let mut chain = Chain { next: seq + 1, hash };
    let mut made = Vec::new();
    chain.append(at(6).unix, &Content::Decision(&record()), &mut made);
    chain.append(at(7).unix, &Content::Checkpoint(Occasion::End, None), &mut made);
    let forged = lines[..=first].join("\n") + "\n" + &String::from_utf8(made).unwrap();
    fs::write(&bench.options.file, forged).unwrap();
    let report = verify(&bench.files(), &bench.keys(), false);
    assert_eq!(found(&report), [(Wrong::SignatureMissing, Some(seq + 2))]);
}

#[test]
fn a_sealed_log_needs_its_key_and_its_frames_their_places() {
    let bench = Bench::new(true);
    let mut writer = bench.writer();
    (0..5).for_each(|_| drop(writer.write(&items(2), at(1))));
    writer.close(at(2));
    let other = Keys { seal: Some(SealKey::generate().unwrap().0), public: None };
    assert_eq!(found(&verify(&bench.files(), &other, false)), [(Wrong::WrongKey, None)]);
    let none = verify(&bench.files(), &Keys::default(), false);
    assert_eq!(found(&none), [(Wrong::Unreadable, None)]);
    assert!(none.problems[0].message.contains("--key"));
    // Whole frames removed and swapped, heads and all: opening, five of two decisions, closing.
    let whole = fs::read(&bench.options.file).unwrap();
    let (header, mut rest) = whole.split_at(super::seal::HEADER);
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_be_bytes(rest[12..16].try_into().unwrap()) as usize;
        let (frame, more) = rest.split_at(super::seal::FRAME_HEAD + length);
        frames.push(frame.to_vec());
        rest = more;
    }
    assert_eq!(frames.len(), 7);
    let put = |frames: &[Vec<u8>]| {
        fs::write(&bench.options.file, [header, &frames.concat()].concat()).unwrap();
        found(&bench.verify())
    };
    let mut removed = frames.clone();
    removed.remove(2);
    assert_eq!(put(&removed), [(Wrong::Removed, Some(6))]);
    let mut swapped = frames.clone();
    swapped.swap(2, 3);
    assert_eq!(put(&swapped), [(Wrong::Reordered, Some(4)), (Wrong::Reordered, Some(5))]);
    assert_eq!(put(&frames[..6]), [(Wrong::Truncated, Some(11))]);
    assert_eq!(put(&frames), []);
}

#[test]
fn a_removed_file_is_missed() {
    let mut bench = Bench::new(false);
    bench.options.max_size = 16 << 10;
    let mut writer = bench.writer();
    (0..20).for_each(|_| drop(writer.write(&items(10), at(1))));
    writer.close(at(2));
    let path = files::numbered(&bench.options.file, 3);
    fs::remove_file(path).unwrap();
    assert_eq!(found(&bench.verify()).len(), 1);
    assert_eq!(bench.verify().problems[0].wrong, Wrong::Removed);
    fs::remove_file(&bench.options.file).unwrap();
    // The last file is gone: the one before was closed in order, and nothing says that there was more.
    assert_eq!(bench.verify().problems.len(), 1);
}

#[test]
fn a_start_after_an_unclean_end_states_what_it_found() {
    for sealed in [false, true] {
        let bench = Bench::new(sealed);
        let mut writer = bench.writer();
        writer.write(&items(5), at(1));
        drop(writer);
        // Half an entry, as a crash leaves it.
        let mut torn = fs::read(&bench.options.file).unwrap();
        torn.extend_from_slice(&torn.clone()[super::seal::HEADER..][..30]);
        fs::write(&bench.options.file, &torn).unwrap();
        let alone = verify(slice::from_ref(&bench.options.file), &bench.keys(), false);
        assert_eq!(found(&alone), [(Wrong::Truncated, Some(6))]);
        assert!(alone.notes[0].contains("30 bytes"), "{:?}", alone.notes);
        let mut writer = bench.writer();
        writer.write(&items(5), at(1));
        writer.close(at(2));
        let report = bench.verify();
        assert_eq!((found(&report), report.decisions, report.files), (vec![], 10, 2));
        let stated = report.notes.iter().any(|note| note.contains("uncleanly behind sequence 6, 30 bytes"));
        assert!(stated, "{:?}", report.notes);
        // A third run follows an orderly end; what the second says of the first is signed by now.
        bench.writer().close(at(3));
        assert_eq!(found(&bench.verify()), []);
        let first = files::numbered(&bench.options.file, 1);
        let cut = fs::read(&first).unwrap();
        fs::write(&first, &cut[..cut.len() / 2]).unwrap();
        assert_eq!(bench.verify().problems[0].wrong, Wrong::Removed, "cut behind the crash");
    }
}

#[test]
fn a_log_that_cannot_be_read_begins_a_new_chain_and_says_so() {
    let bench = Bench::new(true);
    bench.writer().close(at(1));
    fs::write(bench.folder.path().join("seal.key"), SealKey::generate().unwrap().1).unwrap();
    bench.writer().close(at(2));
    let fresh = verify(slice::from_ref(&bench.options.file), &bench.keys(), false);
    assert_eq!((found(&fresh), fresh.first), (vec![], 1));
    assert!(fresh.notes[0].contains("file 1 could not be read"), "{:?}", fresh.notes);
}

#[test]
fn two_processes_do_not_write_one_log() {
    let bench = Bench::new(false);
    let _first = bench.writer();
    let error = Writer::open(&bench.options, at(0)).unwrap_err().to_string();
    assert!(error.contains("another process writes it"), "{error}");
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let mut bench = Bench::new(false);
    bench.options.file = bench.folder.path().join("absent/decisions.log");
    let error = Writer::open(&bench.options, at(0)).unwrap_err().to_string();
    assert!(error.contains("absent is no folder: make it first"), "{error}");
}

/// A disk that fails while it is told to, and may lose its footing.
struct Faulty {
    inner: Box<dyn Disk>,
    /// Writes that fail from now on.
    failing: Arc<AtomicUsize>,
    cuts: bool,
}

impl Disk for Faulty {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let left = self.failing.load(Ordering::SeqCst);
        if left == 0 {
            return self.inner.write(bytes);
        }
        self.failing.store(left - 1, Ordering::SeqCst);
        self.inner.write(&bytes[..bytes.len() / 2])?;
        Err(io::Error::from(io::ErrorKind::StorageFull))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.inner.sync()
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        if self.cuts { self.inner.cut(length) } else { Err(io::Error::other("read only by now")) }
    }
}

#[test]
fn what_a_full_disk_refuses_is_counted_and_told_in_the_chain() {
    for (sealed, cuts) in [(false, true), (true, true), (false, false), (true, false)] {
        let bench = Bench::new(sealed);
        let failing = Arc::new(AtomicUsize::new(0));
        let fails = Arc::clone(&failing);
        let create: Create = Box::new(move |path| {
            let inner = files::create(path)?;
            Ok(Box::new(Faulty { inner, failing: Arc::clone(&fails), cuts }))
        });
        let mut writer = Writer::with(&bench.options, create, at(0)).unwrap();
        writer.write(&items(2), at(1));
        failing.store(2, Ordering::SeqCst);
        let lost = writer.write(&items(3), at(2));
        let saved = u64::from(!sealed && !cuts);
        assert_eq!((lost.written, lost.lost, lost.failed), (saved, 3 - saved, true));
        assert_eq!(writer.due(at(2)), Some(Duration::from_secs(1)), "the gap is tried again");
        assert_eq!(failing.load(Ordering::SeqCst), 0, "once for the decisions, once for the gap");
        let again = writer.write(&items(4), at(3));
        assert_eq!((again.written, again.lost, again.failed), (4, 0, false));
        writer.close(at(4));
        let report = bench.verify();
        let expected = (vec![], 6 + saved, 3 - saved);
        assert_eq!((found(&report), report.decisions, report.dropped), expected, "{sealed} {cuts}");
    }
}

/// A disk that waits at each write until it is let go.
struct Gate {
    inner: Box<dyn Disk>,
    entered: Sender<()>,
    open: Arc<Mutex<Receiver<()>>>,
}

impl Disk for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.entered.send(()).ok();
        // Once the test lets go of its end, the gate stays open.
        self.open.lock().unwrap().recv().ok();
        self.inner.write(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.inner.sync()
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.inner.cut(length)
    }
}

#[test]
fn a_stalled_disk_drops_and_tells_how_many_and_nobody_waits() {
    let bench = Bench::new(false);
    let ((entered, seen), (open, wait)) = (channel(), channel());
    let wait = Arc::new(Mutex::new(wait));
    open.send(()).unwrap();
    let create: Create = Box::new(move |path| {
        let inner = files::create(path)?;
        Ok(Box::new(Gate { inner, entered: entered.clone(), open: Arc::clone(&wait) }))
    });
    let writer = Writer::with(&bench.options, create, at(0)).unwrap();
    let log = DecisionLog::start(writer, true).unwrap();
    seen.recv_timeout(LONG).unwrap();
    assert!(!log.must_refuse());
    let record = Arc::new(record());
    log.push(Arc::clone(&record));
    seen.recv_timeout(LONG).unwrap();
    // The writer is stuck in its first batch; the queue fills up behind it.
    for _ in 0..CAPACITY + 10 {
        log.push(Arc::clone(&record));
    }
    assert!(log.must_refuse(), "a log that cannot follow lets nothing pass where it is required");
    assert!(!log.close(Duration::from_millis(1)), "nothing was written yet");
    drop(open);
    assert!(log.close(LONG));
    assert!(!log.must_refuse());
    let report = bench.verify();
    let expected = (vec![], 1 + CAPACITY as u64, 10);
    assert_eq!((found(&report), report.decisions, report.dropped), expected);
}
