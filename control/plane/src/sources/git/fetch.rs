//! Fetches one branch or tag into a bare repository, within bounds.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use foregate_filters::causes::causes;
use gix::ObjectId;
use gix::credentials::helper::Action;
use gix::credentials::protocol::Outcome;
use gix::progress::Discard;
use gix::protocol::transport::client::blocking_io::http;
use gix::remote::Direction;
use gix::remote::fetch::Tags;
use zeroize::Zeroizing;

use crate::clock;
use crate::sources::spec::{GitCredentials, GitSpec};

/// Where the tip of what is pulled stands here.
const TIP: &str = "refs/foregate/tip";
/// Between two looks at what a fetch has written.
const LOOK: Duration = Duration::from_millis(100);
/// Largest file of a password, in bytes.
const MAX_PASSWORD: usize = 16 << 10;

/// What is said where a server asks for credentials and there are none to show, and what is meant.
const NO_HELPER: &str =
    "No credentials were returned at all as if the credential helper isn't functioning unknowingly";
const ANONYMOUS: &str = "the server lets nobody in without credentials";

/// Nothing but the repository itself decides how it is read.
fn options() -> gix::open::Options {
    let overrides = [
        "protocol.file.allow=always",
        "protocol.https.allow=always",
        "core.logAllRefUpdates=false",
        "gc.auto=0",
    ];
    gix::open::Options::isolated().config_overrides(overrides)
}

/// Opens the bare repository, or makes it.
pub fn open(folder: &Path) -> Result<gix::Repository, String> {
    if folder.join("HEAD").is_file() {
        return gix::open_opts(folder, options()).map_err(|error| error.to_string());
    }
    // What an attempt left behind that was cut off.
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let kind = gix::create::Kind::Bare;
    let made = gix::ThreadSafeRepository::init_opts(folder, kind, gix::create::Options::default(), options());
    made.map(Into::into).map_err(|error| error.to_string())
}

/// Fetches, and tells the commit that the branch or tag is at.
pub fn fetch(repository: &gix::Repository, spec: &GitSpec, stop: &AtomicBool) -> Result<ObjectId, String> {
    let told = |error: gix::Error| causes(&error).replace(NO_HELPER, ANONYMOUS);
    let wanted = format!("+{}:{TIP}", spec.reference());
    let remote = repository.remote_at(spec.url.as_str()).map_err(told)?;
    let remote = remote.with_fetch_tags(Tags::None);
    let remote = remote.with_refspecs([wanted.as_str()], Direction::Fetch).map_err(told)?;
    let shown = spec.credentials.as_ref().map(Shown::read).transpose()?;
    let mut connection = remote.connect(Direction::Fetch).map_err(told)?;
    if let Some(file) = &spec.ca_file {
        connection.set_transport_options(Box::new(trusting(file)?));
    }
    let connection = connection.with_credentials(move |action| Ok(identify(action, shown.as_ref())));
    let prepared = connection.prepare_fetch(Discard, gix::remote::ref_map::Options::default());
    prepared.map_err(told)?.receive(Discard, stop).map_err(told)?;
    let mut tip = repository.find_reference(TIP).map_err(told)?;
    tip.peel_to_commit().map(|commit| commit.id).map_err(told)
}

/// What is shown to the server.
struct Shown {
    username: String,
    password: Zeroizing<String>,
}

impl Shown {
    /// Read anew for each pull, so that it may be replaced at any time.
    fn read(credentials: &GitCredentials) -> Result<Self, String> {
        let file = &credentials.password_file;
        let fault = |why: String| format!("git.credentials.passwordFile {}: {why}", file.display());
        let password = Zeroizing::new(fs::read_to_string(file).map_err(|error| fault(error.to_string()))?);
        if password.len() > MAX_PASSWORD {
            return Err(fault(format!("it has more than {MAX_PASSWORD} bytes")));
        }
        let password = Zeroizing::new(password.trim_end_matches(['\r', '\n']).to_owned());
        if password.is_empty() || password.chars().any(char::is_control) {
            return Err(fault("it holds no password or token on one line".to_owned()));
        }
        let username = credentials.username.clone().unwrap_or_else(|| "git".to_owned());
        Ok(Self { username, password })
    }
}

/// The password, once; a server that wants another one gets none.
fn identify(action: Action, shown: Option<&Shown>) -> Option<Outcome> {
    let (Action::Get(context), Some(shown)) = (action, shown) else { return None };
    let identity = gix::sec::identity::Account {
        username: shown.username.clone(),
        password: shown.password.to_string(),
        oauth_refresh_token: None,
    };
    Some(Outcome { identity, next: context.into() })
}

/// A connection to servers that these authorities vouch for.
fn trusting(file: &Path) -> Result<http::Options, String> {
    let fault = |why: String| format!("git.caFile {}: {why}", file.display());
    let pem = fs::read(file).map_err(|error| fault(error.to_string()))?;
    let roots = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| fault(error.to_string()))?;
    if roots.is_empty() {
        return Err(fault("it holds no certificate in PEM".to_owned()));
    }
    let backend = http::reqwest::Options {
        configure_client: Some(Box::new(move |client| Ok(client.tls_certs_only(roots.clone())))),
        ..http::reqwest::Options::default()
    };
    Ok(http::Options { backend: Some(Arc::new(Mutex::new(backend))), ..http::Options::default() })
}

/// How a pull that failed so may be mended.
pub fn mend(why: &str, spec: &GitSpec) -> Option<&'static str> {
    let refused = match spec.credentials {
        Some(_) => {
            "the server does not take these: look at git.credentials, whether the token still lives, and whether the \
             server wants a user name beside it"
        }
        None => "the server wants to know who asks: name a file with a token as git.credentials.passwordFile",
    };
    [
        ("passwordFile", "put the password or token into that file, on one line, readable for this user"),
        ("caFile", "put the certificates of the authorities into that file, in PEM"),
        ("HTTP status 401", refused),
        (ANONYMOUS, refused),
        ("HTTP status 403", "whoever these credentials are of may not read the repository: give it that right"),
        (
            "HTTP status 404",
            "look at git.url; servers also say so of repositories that one may not see: git.credentials may be missing",
        ),
        (
            "invalid peer certificate",
            "nobody known vouches for the server: name its authority as git.caFile, or look at its certificate",
        ),
        ("refspec", "look at git.branch and git.tag"),
    ]
    .into_iter()
    .find_map(|(said, mend)| why.contains(said).then_some(mend))
}

/// Tells a fetch to stop that takes too long, or too much room.
#[derive(Debug)]
pub struct Watchdog {
    over: Arc<AtomicBool>,
    large: Arc<AtomicBool>,
}

impl Watchdog {
    /// Watches until it is dropped.
    pub fn start(folder: &Path, most: u64, limit: Duration, stop: &Arc<AtomicBool>) -> Self {
        let (over, large) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let saw = Arc::clone(&large);
        let (told, stop, folder) = (Arc::clone(&over), Arc::clone(stop), folder.join("objects"));
        let began = clock::monotonic();
        let watch = move || {
            while !told.load(Ordering::Acquire) {
                let is_large = size(&folder, 0) > most;
                if is_large || clock::monotonic().saturating_sub(began) > limit {
                    saw.store(is_large, Ordering::Release);
                    stop.store(true, Ordering::Release);
                    return;
                }
                thread::sleep(LOOK);
            }
        };
        // Where no thread can be had, the limit of the caller remains.
        let _ = thread::Builder::new().name("git watch".to_owned()).spawn(watch);
        Self { over, large }
    }

    /// True where it told the fetch to stop as that took too much room.
    pub fn saw_too_much(&self) -> bool {
        self.large.load(Ordering::Acquire)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
    }
}

/// Bytes of all files below a folder; folders deeper than git makes them are not looked at.
pub fn size(folder: &Path, depth: usize) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() && depth < 2 => size(&entry.path(), depth + 1),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.sum()
}
