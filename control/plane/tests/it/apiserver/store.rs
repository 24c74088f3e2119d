//! Objects with versions, and the events of their changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::patch;

/// Where objects of a kind are: group, version, plural.
pub type Collection = (String, String, String);
/// Namespace and name.
pub type At = (String, String);

/// An event of a watch.
#[derive(Clone, Debug)]
pub struct Event {
    pub version: u64,
    pub collection: Collection,
    pub at: At,
    pub word: &'static str,
    pub object: Value,
}

#[derive(Default)]
struct Kept {
    version: u64,
    /// Watches from before this version have to list again.
    compacted: u64,
    objects: BTreeMap<Collection, BTreeMap<At, Value>>,
    events: Vec<Event>,
    /// What each manager applied last: to an object, or to its status.
    applied: BTreeMap<(Collection, At, String, bool), Value>,
    absent: BTreeSet<String>,
    failing: BTreeMap<String, usize>,
    /// Kinds that are served in another version: group, version and plural.
    elsewhere: BTreeSet<Collection>,
    forbidden: BTreeSet<String>,
    requests: Vec<String>,
    marks: BTreeMap<String, u64>,
    /// What reviews of access say no to: resource and verb.
    denied: BTreeSet<(String, String)>,
    /// What webhooks say of objects that are sent for a dry run.
    admission: Option<&'static str>,
    date: Option<String>,
}

/// All that the server keeps.
pub struct Store {
    kept: Mutex<Kept>,
    /// The latest version, for whoever waits.
    pub latest: watch::Sender<u64>,
}

/// An answer that is no object: status and reason.
pub type Refusal = (u16, &'static str);

/// How an object is to be changed.
pub enum Change<'a> {
    Replace(Value),
    Merge(Value),
    Json(Value),
    Apply(Value, &'a str),
}

impl Default for Store {
    fn default() -> Self {
        Self { kept: Mutex::default(), latest: watch::channel(0).0 }
    }
}

impl Store {
    pub fn list(&self, collection: &Collection, namespace: &str, only: Option<&str>) -> (u64, Vec<Value>) {
        let kept = self.kept.lock().unwrap();
        let all = kept.objects.get(collection).into_iter().flatten();
        let list = all
            .filter(|((there, name), _)| {
                (namespace.is_empty() || there == namespace) && only.is_none_or(|only| only == name)
            })
            .map(|(_, object)| object.clone());
        (kept.version, list.collect())
    }

    pub fn get(&self, collection: &Collection, at: &At) -> Result<Value, Refusal> {
        let kept = self.kept.lock().unwrap();
        kept.objects.get(collection).and_then(|all| all.get(at)).cloned().ok_or((404, "NotFound"))
    }

    /// Events after this version; `Err` where they are forgotten.
    pub fn since(&self, version: u64) -> Result<(u64, Vec<Event>), Refusal> {
        let kept = self.kept.lock().unwrap();
        if version < kept.compacted {
            return Err((410, "Expired"));
        }
        Ok((kept.version, kept.events.iter().filter(|event| event.version > version).cloned().collect()))
    }

    pub fn create(&self, collection: &Collection, at: &At, object: Value) -> Result<Value, Refusal> {
        let mut kept = self.kept.lock().unwrap();
        if kept.objects.get(collection).is_some_and(|all| all.contains_key(at)) {
            return Err((409, "AlreadyExists"));
        }
        Ok(self.put(&mut kept, collection, at, object, None))
    }

    pub fn change(
        &self,
        collection: &Collection,
        at: &At,
        status: bool,
        change: Change<'_>,
    ) -> Result<Value, Refusal> {
        let mut kept = self.kept.lock().unwrap();
        let old = kept.objects.get(collection).and_then(|all| all.get(at)).cloned();
        let Some(old) = old else {
            let Change::Apply(object, manager) = change else { return Err((404, "NotFound")) };
            if status {
                return Err((404, "NotFound"));
            }
            kept.applied.insert((collection.clone(), at.clone(), manager.to_owned(), false), object.clone());
            return Ok(self.put(&mut kept, collection, at, object, None));
        };
        let said = match &change {
            Change::Replace(object) | Change::Merge(object) | Change::Apply(object, _) => {
                object.pointer("/metadata/resourceVersion")
            }
            Change::Json(_) => None,
        };
        if said.is_some_and(|said| {
            said.as_str() != Some("") && Some(said) != old.pointer("/metadata/resourceVersion")
        }) {
            return Err((409, "Conflict"));
        }
        let mut new = match change {
            Change::Replace(object) => object,
            Change::Merge(said) => patch::merge(old.clone(), &said),
            Change::Json(said) => {
                let mut new = old.clone();
                let said: json_patch::Patch =
                    serde_json::from_value(said).map_err(|_| (400, "BadRequest"))?;
                json_patch::patch(&mut new, &said).map_err(|_| (422, "Invalid"))?;
                new
            }
            Change::Apply(said, manager) => {
                let owner = (collection.clone(), at.clone(), manager.to_owned(), status);
                let before = kept.applied.insert(owner, said.clone());
                patch::apply(old.clone(), before.as_ref(), &said)
            }
        };
        keep_apart(&old, &mut new, status);
        if new == old {
            return Ok(old);
        }
        Ok(self.put(&mut kept, collection, at, new, Some(&old)))
    }

    pub fn delete(&self, collection: &Collection, at: &At) -> Result<Value, Refusal> {
        let mut kept = self.kept.lock().unwrap();
        let gone = kept.objects.get_mut(collection).and_then(|all| all.remove(at));
        let mut gone = gone.ok_or((404, "NotFound"))?;
        kept.applied.retain(|(of, there, ..), _| (of, there) != (collection, at));
        kept.version += 1;
        let version = kept.version;
        gone["metadata"]["resourceVersion"] = version.to_string().into();
        let event = Event {
            version,
            collection: collection.clone(),
            at: at.clone(),
            word: "DELETED",
            object: gone.clone(),
        };
        kept.events.push(event);
        self.latest.send_replace(version);
        Ok(gone)
    }

    fn put(
        &self,
        kept: &mut Kept,
        collection: &Collection,
        at: &At,
        mut object: Value,
        old: Option<&Value>,
    ) -> Value {
        kept.version += 1;
        let version = kept.version;
        let generation =
            |object: &Value| object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
        let next = match old {
            None => 1,
            Some(old) if old.get("spec") == object.get("spec") => generation(old),
            Some(old) => generation(old) + 1,
        };
        let metadata = &mut object["metadata"];
        metadata["resourceVersion"] = version.to_string().into();
        metadata["generation"] = next.into();
        if !at.0.is_empty() {
            metadata["namespace"] = at.0.clone().into();
        }
        metadata["name"] = at.1.clone().into();
        let made = |old: &Value| old["metadata"]["creationTimestamp"].clone();
        // Later objects are younger, by the second.
        let now =
            format!("2026-01-01T{:02}:{:02}:{:02}Z", version / 3600 % 24, version / 60 % 60, version % 60);
        metadata["creationTimestamp"] = old.map_or_else(|| now.into(), made);
        metadata["uid"] =
            old.map_or_else(|| json!(format!("uid-{version}")), |old| old["metadata"]["uid"].clone());
        kept.objects.entry(collection.clone()).or_default().insert(at.clone(), object.clone());
        let word = if old.is_some() { "MODIFIED" } else { "ADDED" };
        let event =
            Event { version, collection: collection.clone(), at: at.clone(), word, object: object.clone() };
        kept.events.push(event);
        self.latest.send_replace(version);
        object
    }

    /// Forgets all events, so that watches that begin again from before are told 410.
    pub fn compact(&self) {
        let mut kept = self.kept.lock().unwrap();
        kept.version += 1;
        kept.compacted = kept.version;
        kept.events.clear();
    }

    /// Forgets the events up to this version.
    pub fn compact_to(&self, version: u64) {
        let mut kept = self.kept.lock().unwrap();
        kept.compacted = version;
        kept.events.retain(|event| event.version > version);
    }

    /// Notes that a watch of this kind was sent a bookmark.
    pub fn mark(&self, plural: &str, version: u64) {
        self.kept.lock().unwrap().marks.insert(plural.to_owned(), version);
    }

    /// True where a bookmark of this version or a later one was sent.
    pub fn marked(&self, version: u64, plural: &str) -> bool {
        self.kept.lock().unwrap().marks.get(plural).is_some_and(|mark| *mark >= version)
    }

    /// From now on the server knows no such kind.
    pub fn uninstall(&self, plural: &str) {
        self.kept.lock().unwrap().absent.insert(plural.to_owned());
    }

    /// From now on the server knows this kind in this version alone.
    pub fn serve_as(&self, group: &str, version: &str, plural: &str) {
        self.uninstall(plural);
        let collection = (group.to_owned(), version.to_owned(), plural.to_owned());
        self.kept.lock().unwrap().elsewhere.insert(collection);
    }

    /// From now on the server knows this kind as ever.
    pub fn install(&self, plural: &str) {
        let mut kept = self.kept.lock().unwrap();
        kept.absent.remove(plural);
        kept.elsewhere.retain(|(.., other)| other != plural);
    }

    /// Kinds that are served in another version than any test asks for.
    pub fn elsewhere(&self) -> BTreeSet<Collection> {
        self.kept.lock().unwrap().elsewhere.clone()
    }

    /// The next changes of objects of this kind fail, so many of them.
    pub fn fail(&self, plural: &str, times: usize) {
        self.kept.lock().unwrap().failing.insert(plural.to_owned(), times);
    }

    /// True where this change is one that fails.
    pub fn fails(&self, plural: &str) -> bool {
        let mut kept = self.kept.lock().unwrap();
        let Some(left) = kept.failing.get_mut(plural).filter(|left| **left > 0) else { return false };
        *left -= 1;
        true
    }

    /// From now on requests about this kind are refused.
    pub fn forbid(&self, plural: &str) {
        self.kept.lock().unwrap().forbidden.insert(plural.to_owned());
    }

    pub fn refuses(&self, plural: &str) -> Option<Refusal> {
        let kept = self.kept.lock().unwrap();
        if kept.absent.contains(plural) {
            return Some((404, "NotFound"));
        }
        kept.forbidden.contains(plural).then_some((403, "Forbidden"))
    }

    /// From now on reviews of access deny this.
    pub fn deny(&self, resource: &str, verb: &str) {
        self.kept.lock().unwrap().denied.insert((resource.to_owned(), verb.to_owned()));
    }

    /// From now on webhooks have this to say of dry runs.
    pub fn admission(&self, says: &'static str) {
        self.kept.lock().unwrap().admission = Some(says);
    }

    /// From now on it is this time.
    pub fn set_date(&self, date: &str) {
        self.kept.lock().unwrap().date = Some(date.to_owned());
    }

    pub fn date(&self) -> Option<String> {
        self.kept.lock().unwrap().date.clone()
    }

    /// The answer to a review of access.
    pub fn decide(&self, mut review: Value) -> Value {
        let kept = self.kept.lock().unwrap();
        let word =
            |field: &str| review["spec"]["resourceAttributes"][field].as_str().unwrap_or_default().to_owned();
        let (resource, subresource) = (word("resource"), word("subresource"));
        let whole = if subresource.is_empty() { resource } else { format!("{resource}/{subresource}") };
        let allowed = !kept.denied.contains(&(whole, word("verb")));
        review["status"] = json!({ "allowed": allowed });
        review
    }

    /// What becomes of a dry run.
    pub fn admit(&self, object: Value) -> Result<Value, Refusal> {
        match self.kept.lock().unwrap().admission {
            Some(why) if why.starts_with("failed") => Err((500, why)),
            Some(why) => Err((422, why)),
            None => Ok(object),
        }
    }

    pub fn note(&self, request: String) {
        self.kept.lock().unwrap().requests.push(request);
    }

    /// Method and path of every request so far, `watch` where it is one.
    pub fn requests(&self) -> Vec<String> {
        self.kept.lock().unwrap().requests.clone()
    }
}

/// A status is written by way of the subresource alone, and nothing else is. Whatever has no status in the API keeps all.
fn keep_apart(old: &Value, new: &mut Value, status: bool) {
    let group = old["apiVersion"].as_str().unwrap_or_default();
    if !group.starts_with("gateway.networking.k8s.io/") && !group.starts_with("foregate.dev/") {
        return;
    }
    if status {
        let said = new.get("status").cloned();
        *new = old.clone();
        if let Some(said) = said {
            new["status"] = said;
        }
        return;
    }
    match old.get("status") {
        Some(old) => new["status"] = old.clone(),
        None => drop(new.as_object_mut().and_then(|fields| fields.remove("status"))),
    }
}
