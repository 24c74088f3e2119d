//! Watches policy files and signals, and publishes what loads.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use foregate_filters::fault::Code;
use foregate_policy::diagnostic::Diagnostic;
use log::Level;
use notify::{RecursiveMode, Watcher};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, Notify, mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, sleep, timeout};

use crate::admin::AdminState;
use crate::discovery::{self, Looks};
use crate::drain::Drain;
use crate::fleet::follow::Fleet;
use crate::gateway::Gateway;
use crate::listeners::Socket;
use crate::own_files::OwnFiles;
use crate::policies::{Policies, publish, refused, replace};
use crate::telemetry::event::event;

/// Quiet time after a change before files are read: editors and Kubernetes change several at once.
const QUIET: Duration = Duration::from_millis(150);

/// Longest wait for quiet, where files change all the time.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Between two looks for a policy folder that is gone.
const RETURN_PAUSE: Duration = Duration::from_millis(500);

/// Keeps policies, keys and addresses current until the process ends.
#[derive(Debug)]
pub struct Reload {
    pub gateway: Arc<Gateway>,
    pub policies: Arc<Policies>,
    pub admin: Arc<AdminState>,
    /// The sockets that the published snapshot asks for.
    pub sockets: watch::Sender<Vec<Socket>>,
    /// Turns true once no change can be missed.
    pub watching: watch::Sender<bool>,
    /// Told when files of endpoints have changed.
    pub look: Arc<Notify>,
    /// Where policies come from that are not in a folder of the operator's.
    pub fleet: Option<Arc<Fleet>>,
    /// Held while policies are loaded and published.
    pub turn: Mutex<()>,
    /// A log among the policies would have them read anew with each line.
    pub own: Arc<OwnFiles>,
}

impl Reload {
    /// Runs until the drain starts.
    ///
    /// # Errors
    /// Where signals or the folder cannot be watched at all.
    pub async fn run(self: Arc<Self>, drain: Drain) -> std::io::Result<()> {
        let (tell, mut changes) = mpsc::channel::<()>(1);
        let own = Arc::clone(&self.own);
        let mut watcher = notify::recommended_watcher(move |change: notify::Result<notify::Event>| {
            let ours = |change: &notify::Event| {
                !change.paths.is_empty() && change.paths.iter().all(|path| own.has(path))
            };
            let relevant = change.map_or(true, |change| !change.kind.is_access() && !ours(&change));
            // A full channel holds a change already: one reload reads them all.
            if relevant {
                let _ = tell.try_send(());
            }
        })
        .map_err(std::io::Error::other)?;
        self.watch(&mut watcher);
        let mut hangup = signal(SignalKind::hangup())?;
        // A key or secret may have changed since it was read, before anybody watched.
        self.reload_keys();
        let mut identity = self.policies.identity().map(|identity| identity.changes());
        // It may have changed since the policies were loaded, too.
        if let Some(live) = self.policies.renewed(&self.gateway.live.pin()) {
            replace(&self.gateway, live);
        }
        self.watching.send_replace(true);
        // Apart from all else: a slow resolver holds up neither a reload nor the end.
        let resolving = tokio::spawn(keep_resolved(Arc::clone(&self.gateway), Arc::clone(&self.look)));
        let following = self.fleet.clone().map(|fleet| {
            let (reload, drain) = (Arc::clone(&self), drain.clone());
            tokio::spawn(async move { fleet.follow(&reload, &drain).await })
        });
        loop {
            tokio::select! {
                () = drain.wait() => break,
                _ = changes.recv() => {
                    settle(&mut changes).await;
                    self.reload().await;
                    // Bundles and secrets may be elsewhere now.
                    self.watch(&mut watcher);
                }
                () = made_anew(&self.policies.source.folder), if self.fleet.is_none() => {
                    self.watch(&mut watcher);
                    self.reload().await;
                }
                () = another(&mut identity) => self.renew(),
                _ = hangup.recv() => {
                    self.reload().await;
                    self.watch(&mut watcher);
                }
            }
        }
        resolving.abort();
        if let Some(following) = following {
            following.abort();
        }
        Ok(())
    }

    /// Watches every folder that policies read from; those watched already are watched once.
    fn watch(&self, watcher: &mut notify::RecommendedWatcher) {
        let live = self.gateway.live.pin();
        let source = &self.policies.source;
        let versions = live.snapshot.models.iter().flat_map(|model| &model.versions);
        let bundles = versions.map(|version| version.bundle.as_path());
        let authorities = live.snapshot.upstreams.iter().filter_map(|upstream| upstream.tls.as_ref());
        let authorities = authorities.flat_map(|tls| &tls.ca_files).filter_map(|file| file.parent());
        // Named besides the folder itself: mounted secrets are often a link.
        let secrets = source.folder.join("secrets");
        let folders =
            [source.folder.as_path(), secrets.as_path()].into_iter().chain(bundles).chain(authorities);
        // What the fleet sends is taken as a whole, and by nobody else.
        let theirs = |folder: &Path| self.fleet.is_some() && folder.starts_with(&source.folder);
        let folders: Vec<&Path> = folders.filter(|folder| folder.is_dir() && !theirs(folder)).collect();
        for folder in &folders {
            watch_folder(watcher, folder, RecursiveMode::Recursive);
        }
        // Files of keys may lie elsewhere, and a folder that is a link is swapped where the link lies.
        let mut keys = self.policies.key_files();
        keys.extend(live.snapshot.models.iter().flat_map(|model| model.signed_by.iter().cloned()));
        let keys = keys.iter().filter_map(|file| file.parent()).filter(|folder| !theirs(folder));
        let links = folders.iter().filter(|folder| folder.is_symlink()).filter_map(|folder| folder.parent());
        let known: Vec<_> = folders.iter().filter_map(|folder| folder.canonicalize().ok()).collect();
        for folder in keys.chain(links) {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            let covered = |at: PathBuf| known.iter().any(|known| at.starts_with(known));
            if !folder.canonicalize().is_ok_and(covered) {
                watch_folder(watcher, folder, RecursiveMode::NonRecursive);
            }
        }
    }

    /// Serves with the identity as it is now.
    fn renew(&self) {
        if let Some(live) = self.policies.renewed(&self.gateway.live.pin()) {
            replace(&self.gateway, live);
            event(Level::Info, "identity published", &[]);
        }
    }

    fn reload_keys(&self) {
        for fault in self.policies.reload_keys() {
            event(Level::Warn, "keys not reloaded", &[("error", fault.into())]);
        }
    }

    /// Loads and publishes; where that is refused, what was published last stays.
    pub async fn reload(&self) {
        // What was never there cannot be read anew.
        if self.fleet.as_ref().is_some_and(|fleet| fleet.is_empty()) {
            return;
        }
        let _ = self.attempt().await;
    }

    /// The same, and tells what is wrong.
    ///
    /// # Errors
    /// Every diagnostic.
    pub async fn attempt(&self) -> Result<(), Vec<Diagnostic>> {
        let _turn = self.turn.lock().await;
        self.reload_keys();
        let policies = Arc::clone(&self.policies);
        let live = match spawn_blocking(move || policies.load()).await {
            Ok(Ok(live)) => match self.fleet.as_ref().and_then(|fleet| fleet.refuses()) {
                Some(why) => live.withheld(&why),
                None => live,
            },
            Ok(Err(diagnostics)) => {
                refused(&diagnostics, &self.gateway, &self.admin);
                return Err(diagnostics);
            }
            Err(_) => {
                let message = "a defect while loading";
                event(Level::Error, "reload failed", &[("error", message.into())]);
                return Err(vec![Diagnostic::file(&self.policies.source.folder, Code::FILE, message)]);
            }
        };
        let sockets = self.policies.sockets(&live.snapshot);
        let revision = live.snapshot.revision.clone();
        publish(live, &self.gateway, &self.policies, &self.admin).await;
        self.sockets.send_replace(sockets);
        event(Level::Info, "policies published", &[("revision", revision.into())]);
        Ok(())
    }

    /// From now on everything is refused for this reason; whatever is open ends. Nothing happens where it is so already.
    pub async fn withhold(&self, why: &str) {
        let _turn = self.turn.lock().await;
        if self.gateway.live.pin().withheld.as_deref() == Some(why) {
            return;
        }
        replace(&self.gateway, self.gateway.live.pin().withheld(why));
        self.gateway.publications.tell();
    }
}

fn watch_folder(watcher: &mut notify::RecommendedWatcher, folder: &Path, mode: RecursiveMode) {
    if let Err(error) = watcher.watch(folder, mode) {
        let fields = [("folder", folder.display().to_string().into()), ("error", error.to_string().into())];
        event(Level::Warn, "folder not watched", &fields);
    }
}

/// Waits for another identity; forever where there is none.
async fn another(identity: &mut Option<watch::Receiver<u64>>) {
    if let Some(identity) = identity
        && identity.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

/// Looks the names of all upstreams up again and again, each on its own.
async fn keep_resolved(gateway: Arc<Gateway>, look: Arc<Notify>) {
    let mut ticks = tokio::time::interval(discovery::TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looks = Looks::default();
    loop {
        let told = tokio::select! {
            _ = ticks.tick() => false,
            () = look.notified() => true,
        };
        looks.begin(&gateway.live.pin().upstreams, told);
    }
}

/// Ready once a folder that is not there is there again: what is gone tells nobody of its return. Never
/// ready for a folder that is there.
async fn made_anew(folder: &Path) {
    if folder.is_dir() {
        return std::future::pending().await;
    }
    while !folder.is_dir() {
        sleep(RETURN_PAUSE).await;
    }
}

/// Waits until no change has come for a while.
async fn settle(changes: &mut mpsc::Receiver<()>) {
    let quiet = async {
        loop {
            sleep(QUIET).await;
            if changes.try_recv().is_err() {
                return;
            }
        }
    };
    let _ = timeout(LONGEST_WAIT, quiet).await;
}
