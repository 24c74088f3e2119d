//! `orgQuota` of an upstream and of a policy, as people write it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::authorize::Mode;
use crate::chain::Built;
use crate::fault::{Code, Fault, Path};
use crate::units::TimeSpan;

const REFRESH: Duration = Duration::from_mins(1);
const REFRESHES: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(1);
const CALLS: std::ops::RangeInclusive<u64> = 1..=1_000_000_000;
const MAX_CLASSES: usize = 8;
const MAX_CONSUMERS: usize = 1_024;

/// The daily calls of the Salesforce org behind an upstream, and who may use how many of them. How the org stands is
/// read from `Sforce-Limit-Info` of its answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "UpstreamOrgQuota")]
pub struct Spec {
    /// Classes of calls, the most important first, 1 to 8.
    #[schemars(length(min = 1, max = 8))]
    pub classes: Vec<Class>,
    /// Consumers by the value of `orgQuota.key` of the policy, at most 1,024.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub consumers: BTreeMap<String, Budget>,
    /// Class of all other calls; the last one where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// Calls that the org has in 24 hours, until it says so itself. Where absent, a hundred calls may find that
    /// out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub limit: Option<u64>,
    /// Name of the connected app whose own limit counts as well, as the org calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub app: Option<String>,
    /// Age of what is known at which one refused call is let through to learn how the org stands now, 1s to 1h; 1m
    /// where absent. Lower classes wait for as many times longer as their place says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<TimeSpan>,
    #[serde(default)]
    pub mode: Mode,
}

/// Calls that are refused together as the pool runs low.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "UpstreamOrgQuotaClass")]
pub struct Class {
    /// The rule that refusals name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Per cent of the org's calls, whoever used them, up to which this class passes, 1 to 100. Never more than
    /// that of a class before it.
    #[schemars(range(min = 1, max = 100))]
    pub until: u8,
    /// Per cent of the org's calls that this class may use itself within 24 hours; no bound where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub share: Option<u8>,
}

/// What one consumer may use.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "UpstreamOrgQuotaBudget")]
pub struct Budget {
    #[schemars(length(min = 1, max = 63))]
    pub class: String,
    /// Per cent of the org's calls that it may use itself within 24 hours; no bound but that of its class where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub share: Option<u8>,
}

/// Whose calls they are.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "OrgQuota")]
pub struct KeySpec {
    /// CEL expression whose value names the consumer, as the upstream's `orgQuota.consumers` has it. An empty
    /// string, null or absent value refuses: give the expression a default instead.
    #[schemars(length(min = 1, max = 4096))]
    pub key: String,
}

/// What holds for one org.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    pub classes: Vec<ClassRule>,
    pub consumers: AHashMap<Box<str>, Holder>,
    /// Index of a class.
    pub default: usize,
    pub limit: Option<u64>,
    pub app: Option<Box<str>>,
    pub refresh: Duration,
    pub mode: Mode,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassRule {
    pub name: Arc<str>,
    /// Per cent.
    pub until: u8,
    /// Per cent.
    pub share: Option<u8>,
}

/// A consumer with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Index of its class.
    pub class: usize,
    /// Place among all consumers, in the order of their names.
    pub place: usize,
    /// Per cent.
    pub share: Option<u8>,
}

impl Spec {
    /// What is written at `at`; everything that is wrong with it otherwise.
    pub fn rules(&self, at: &Path) -> Built<Rules> {
        let mut faults = Vec::new();
        self.check(at, &mut faults);
        let find = |name: &str| self.classes.iter().position(|class| class.name == name);
        let mut class = |name: &str, at: Path| {
            let found = find(name);
            if found.is_none() {
                let message = format!("there is no class `{name}`");
                let names: Vec<&str> = self.classes.iter().map(|class| class.name.as_str()).collect();
                let help = format!("there are {}", names.join(", "));
                faults.push(Fault::new(Code::REFERENCE, at, message).help(help));
            }
            found.unwrap_or_default()
        };
        let default = self
            .default
            .as_deref()
            .map_or(self.classes.len().saturating_sub(1), |name| class(name, at.key("default")));
        let consumers = self.consumers.iter().enumerate().map(|(place, (name, budget))| {
            let class = class(&budget.class, at.key("consumers").key(name).key("class"));
            (name.as_str().into(), Holder { class, place, share: budget.share })
        });
        let consumers = consumers.collect();
        if !faults.is_empty() {
            return Err(faults);
        }
        let classes = self.classes.iter().map(|class| ClassRule {
            name: class.name.as_str().into(),
            until: class.until,
            share: class.share,
        });
        Ok(Rules {
            classes: classes.collect(),
            consumers,
            default,
            limit: self.limit,
            app: self.app.as_deref().map(Into::into),
            refresh: self.refresh.map_or(REFRESH, |TimeSpan(refresh)| refresh),
            mode: self.mode,
        })
    }

    fn check(&self, at: &Path, faults: &mut Vec<Fault>) {
        let mut value = |at: Path, message: &str| faults.push(Fault::new(Code::VALUE, at, message));
        if !(1..=MAX_CLASSES).contains(&self.classes.len()) {
            value(at.key("classes"), "there must be 1 to 8 classes");
        }
        if self.consumers.len() > MAX_CONSUMERS {
            value(at.key("consumers"), "at most 1024 consumers have a budget of their own");
        }
        if self.limit.is_some_and(|limit| !CALLS.contains(&limit)) {
            value(at.key("limit"), "limit must be from 1 to 1000000000");
        }
        if self.refresh.is_some_and(|refresh| !REFRESHES.contains(&refresh.0)) {
            value(at.key("refresh"), "refresh must be from 1s to 1h");
        }
        let shares = self
            .classes
            .iter()
            .enumerate()
            .map(|(index, class)| (at.key("classes").index(index), class.share));
        let budgets =
            self.consumers.iter().map(|(name, budget)| (at.key("consumers").key(name), budget.share));
        for (at, share) in shares.chain(budgets) {
            if share.is_some_and(|share| !(1..=100).contains(&share)) {
                value(at.key("share"), "share must be from 1 to 100 per cent");
            }
        }
        let mut before: Option<&Class> = None;
        for (index, class) in self.classes.iter().enumerate() {
            let at = at.key("classes").index(index);
            if !crate::spec::plain(&class.name) {
                let message =
                    "a name has 1 to 63 letters, digits, - _ or ., and starts with a letter or digit";
                faults.push(Fault::new(Code::VALUE, at.key("name"), message));
            }
            if !(1..=100).contains(&class.until) {
                faults.push(Fault::new(Code::VALUE, at.key("until"), "until must be from 1 to 100 per cent"));
            }
            if self.classes.iter().take(index).any(|other| other.name == class.name) {
                let message = format!("a second class named {}", class.name);
                faults.push(Fault::new(Code::CONFLICT, at.key("name"), message));
            }
            if let Some(before) = before.filter(|before| before.until < class.until) {
                let message =
                    format!("it would pass while {}, which is more important, is refused", before.name);
                let fault = Fault::new(Code::CONFLICT, at.key("until"), message);
                faults.push(fault.help("list the most important class first, with the highest until"));
            }
            before = Some(class);
        }
    }
}
