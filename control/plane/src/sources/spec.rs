//! What the configuration says of sources.

use std::path::{Path, PathBuf};
use std::time::Duration;

use foregate_filters::units::{ByteSize, TimeSpan};
use serde::{Deserialize, Serialize};

/// One place that policies come from: exactly one of `folder`, `git` and others.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SourceSpec {
    /// Names it in diagnostics and in `foregate-control status`.
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<FolderSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<GitSpec>,
    /// Where its files stand among those of all sources; at the top where absent. `secrets` stays at the top.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount: Option<String>,
    /// Namespaces that its documents may be in; every one where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    #[serde(default)]
    pub limits: Limits,
}

/// A folder of this machine: a checkout, or what Kubernetes mounts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FolderSpec {
    pub path: PathBuf,
}

/// A repository that is pulled.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GitSpec {
    /// `https://` or `file://`.
    pub url: String,
    /// Either this or `tag`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Folder within the repository; all of it where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Time between two pulls, 1s to 24h; 30s where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<TimeSpan>,
    /// Longest time of one pull, 1s to 1h; 1m where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<TimeSpan>,
    /// Who may sign commits, in the format of OpenSSH.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_signers: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<GitCredentials>,
    /// PEM: the authorities that vouch for the server, in place of those of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Every weakening of a safe default, by name.
    #[serde(default)]
    pub insecure: GitInsecure,
}

/// What is shown to the server of a repository; both are read anew at every pull.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GitCredentials {
    /// `git` where absent, as most servers want beside a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// A file with a password or token.
    pub password_file: PathBuf,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GitInsecure {
    /// Commits need no signature: whoever can write to the repository decides what all proxies obey.
    #[serde(default)]
    pub unsigned_commits: bool,
}

/// Bounds of what a source may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Of all files; 64MiB where absent. A repository may take four times as much on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<ByteSize>,
    /// 10,000 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u32>,
    /// Folders within folders; 16 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<u32>,
}

impl Limits {
    pub fn size(&self) -> u64 {
        self.size.map_or(64 << 20, |size| size.0)
    }

    pub fn files(&self) -> usize {
        self.files.map_or(10_000, |files| usize::try_from(files).unwrap_or(usize::MAX))
    }

    pub fn depth(&self) -> usize {
        self.depth.map_or(16, |depth| usize::try_from(depth).unwrap_or(usize::MAX))
    }
}

impl GitSpec {
    /// Full name of what is pulled.
    pub fn reference(&self) -> String {
        match (&self.branch, &self.tag) {
            (_, Some(tag)) => format!("refs/tags/{tag}"),
            (Some(branch), None) => format!("refs/heads/{branch}"),
            (None, None) => "refs/heads/main".to_owned(),
        }
    }

    pub fn interval(&self) -> Duration {
        self.interval.map_or(Duration::from_secs(30), |span| span.0)
    }

    pub fn timeout(&self) -> Duration {
        self.timeout.map_or(Duration::from_mins(1), |span| span.0)
    }
}

impl SourceSpec {
    /// Takes paths from this folder.
    pub fn resolve(&mut self, folder: &Path) {
        if let Some(source) = &mut self.folder {
            source.path = folder.join(&source.path);
        }
        let Some(git) = &mut self.git else { return };
        if let Some(signers) = &mut git.allowed_signers {
            *signers = folder.join(&*signers);
        }
        if let Some(file) = &mut git.ca_file {
            *file = folder.join(&*file);
        }
        if let Some(credentials) = &mut git.credentials {
            credentials.password_file = folder.join(&credentials.password_file);
        }
    }

    /// What is wrong with it, with the field that is.
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        let label = |text: &str| {
            let inner =
                text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
            !text.is_empty() && text.len() <= 63 && inner && !text.starts_with('-') && !text.ends_with('-')
        };
        if !label(&self.name) {
            faults.push(("name", format!("`{}` is no name of small letters, digits and `-`", self.name)));
        }
        let kinds = usize::from(self.folder.is_some()) + usize::from(self.git.is_some());
        if kinds != 1 {
            faults.push(("name", format!("the source `{}` needs either `folder` or `git`", self.name)));
        }
        let relative = |path: &str| {
            !path.is_empty()
                && path.split('/').all(|part| !matches!(part, "" | "." | "..") && !part.starts_with('.'))
        };
        if self.mount.as_deref().is_some_and(|mount| !relative(mount) || mount.starts_with("secrets")) {
            faults.push(("mount", "it must be a path below the policies, such as teams/leads".to_owned()));
        }
        let Some(git) = &self.git else { return faults };
        if !git.url.starts_with("https://") && !git.url.starts_with("file://") {
            faults.push(("git.url", format!("`{}` is neither https:// nor file://", git.url)));
        }
        if git
            .url
            .strip_prefix("https://")
            .and_then(|rest| rest.split('/').next())
            .is_some_and(|host| host.contains('@'))
        {
            faults.push((
                "git.url",
                "put credentials into a file, and name it as `credentials.passwordFile`".to_owned(),
            ));
        }
        if git.ca_file.is_some() && !git.url.starts_with("https://") {
            faults.push(("git.caFile", "only a server of https:// has a certificate".to_owned()));
        }
        if git.branch.is_some() && git.tag.is_some() {
            faults.push(("git.tag", "name a branch or a tag, not both".to_owned()));
        }
        if git.path.as_deref().is_some_and(|path| !relative(path)) {
            faults.push(("git.path", "it must be a path within the repository".to_owned()));
        }
        if git.allowed_signers.is_none() && !git.insecure.unsigned_commits {
            let message =
                "name who may sign, or allow unsigned commits as `insecure: { unsignedCommits: true }`";
            faults.push(("git.allowedSigners", message.to_owned()));
        }
        let bounds = [
            ("git.interval", git.interval(), Duration::from_hours(24)),
            ("git.timeout", git.timeout(), Duration::from_hours(1)),
        ];
        for (field, value, most) in bounds {
            if !(Duration::from_secs(1)..=most).contains(&value) {
                faults.push((field, format!("it must be from 1s to {}", TimeSpan(most))));
            }
        }
        faults
    }
}
