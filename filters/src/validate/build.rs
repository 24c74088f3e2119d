//! From what a policy says to what is checked; every fault at once.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use serde_json::Value;

use crate::authorize::Mode;
use crate::fault::{Code, Fault, Path, PathItem};
use crate::units::ByteSize;
use crate::validate::limits::Limits;
use crate::validate::media::MediaType;
use crate::validate::openapi::{Asked, Contract};
use crate::validate::schema::Set;
use crate::validate::schema::compile::{Compiler, Dialect, Direction, Options, SchemaFault};
use crate::validate::{
    Body, Files, LARGEST, MAX_SIZE, OpenApi, Responses, Source, Spec, UndeclaredQuery, openapi,
};

/// Everything that `validate` asks for, ready to be asked. Shared by all routes of a policy.
#[derive(Debug)]
pub struct Compiled {
    pub(super) body: Option<BodyRules>,
    pub(super) contract: Option<Contract>,
    pub(super) responses: Responses,
    pub(super) limits: Limits,
    /// Bytes of a decoded body.
    pub(super) max_size: usize,
    /// The policy says so itself.
    pub(super) said_size: bool,
    pub(super) audit: bool,
    /// Names in refusals, logs and metrics.
    pub(super) names: Names,
    /// A number for all that the files say.
    pub digest: u64,
}

#[derive(Debug)]
pub(super) struct Names {
    pub(super) body: Arc<str>,
    pub(super) openapi: Arc<str>,
}

#[derive(Debug)]
pub(super) struct BodyRules {
    /// Every one in JSON where empty.
    pub(super) media: Vec<MediaType>,
    pub(super) schema: Option<Set>,
}

/// Compiles what stands at `at`. Beside it: what is passed on unchecked, as warnings.
pub fn compile(spec: &Spec, at: &Path, files: &dyn Files) -> Result<(Arc<Compiled>, Vec<Fault>), Vec<Fault>> {
    let (mut faults, mut warnings) = (Vec::new(), Vec::new());
    let mut hasher = DefaultHasher::new();
    let asked = Body::default();
    let said = spec.body.as_ref().or(spec.openapi.is_none().then_some(&asked));
    let at_body = at.key("body");
    let limits = said.map_or_else(Limits::default, |body| {
        Limits::build(&body.limits, &at_body.key("limits"), &mut faults)
    });
    let size = said.and_then(|body| body.max_size).map_or(MAX_SIZE, |size| size.0);
    if !(1..=LARGEST).contains(&size) {
        let message = format!("the size must be between 1B and {}", ByteSize(LARGEST));
        faults.push(Fault::new(Code::VALUE, at_body.key("maxSize"), message));
    }
    let mut read = |file: &str, at: &Path, faults: &mut Vec<Fault>| match files.read(file) {
        Ok(value) => {
            value.to_string().hash(&mut hasher);
            Some(value)
        }
        Err(why) => {
            faults.push(Fault::new(Code::FILE, at.clone(), why));
            None
        }
    };
    let body = said.map(|body| BodyRules {
        media: media(&body.content_types, &at_body.key("contentTypes"), &mut faults),
        schema: body
            .schema
            .as_ref()
            .and_then(|source| schema(source, body.formats, &at_body.key("schema"), &mut read, &mut faults)),
    });
    let contract = spec
        .openapi
        .as_ref()
        .and_then(|said| contract(said, &at.key("openapi"), &mut read, &mut faults, &mut warnings));
    if !faults.is_empty() {
        return Err(faults);
    }
    let compiled = Compiled {
        body,
        contract,
        responses: spec.openapi.as_ref().map_or(Responses::Off, |said| said.responses),
        limits,
        max_size: usize::try_from(size).unwrap_or(usize::MAX),
        said_size: said.is_some_and(|body| body.max_size.is_some()),
        audit: spec.mode == Mode::Audit,
        names: Names { body: "body".into(), openapi: "openapi".into() },
        digest: hasher.finish(),
    };
    Ok((Arc::new(compiled), warnings))
}

type Read<'r> = dyn FnMut(&str, &Path, &mut Vec<Fault>) -> Option<Arc<Value>> + 'r;

fn media(said: &[String], at: &Path, faults: &mut Vec<Fault>) -> Vec<MediaType> {
    let read = said.iter().enumerate().filter_map(|(index, text)| {
        let media = MediaType::parse(text).filter(MediaType::is_json);
        if media.is_none() {
            let message = "a media type in JSON, such as application/json, is asked for";
            let help =
                "bodies of other types cannot be checked here; `openapi` can let them pass by operation";
            faults.push(Fault::new(Code::CONTENT_TYPE, at.index(index), message).help(help));
        }
        media
    });
    read.collect()
}

fn schema(
    source: &Source,
    formats: bool,
    at: &Path,
    read: &mut Read<'_>,
    faults: &mut Vec<Fault>,
) -> Option<Set> {
    let (value, file) = match (&source.file, &source.inline) {
        (Some(file), None) => (read(file, &at.key("file"), faults)?, Some(file)),
        (None, Some(value)) => (Arc::new(value.clone()), None),
        _ => {
            faults.push(Fault::new(Code::CONFLICT, at.clone(), "a schema is either a file or inline"));
            return None;
        }
    };
    let options = Options { dialect: Dialect::Json2020, direction: Direction::Either, formats };
    let mut compiler = Compiler::new(&value, options);
    compiler.schema(&value, "");
    match compiler.finish() {
        Ok(set) => Some(set),
        Err(wrong) => {
            faults.extend(wrong.into_iter().map(|fault| {
                if let Some(file) = file {
                    return located(&fault, file, &at.key("file"));
                }
                let at = inline(&value, &fault.at, at.key("inline"));
                Fault::new(fault.code, at, fault.message)
            }));
            None
        }
    }
}

fn contract(
    said: &OpenApi,
    at: &Path,
    read: &mut Read<'_>,
    faults: &mut Vec<Fault>,
    warnings: &mut Vec<Fault>,
) -> Option<Contract> {
    let base = said.base_path.as_deref().unwrap_or_default();
    if !base.is_empty() && !base.starts_with('/') {
        faults.push(Fault::new(Code::VALUE, at.key("basePath"), "a path begins with a slash"));
    }
    let at = at.key("file");
    let document = read(&said.file, &at, faults)?;
    let asked = Asked {
        base,
        responses: said.responses != Responses::Off,
        open_query: said.undeclared_query == UndeclaredQuery::Continue,
        formats: said.formats,
    };
    match openapi::build(&document, asked) {
        Ok((contract, unchecked)) => {
            warnings.extend(unchecked.into_iter().map(|fault| located(&fault, &said.file, &at)));
            Some(contract)
        }
        Err(wrong) => {
            faults.extend(wrong.into_iter().map(|fault| located(&fault, &said.file, &at)));
            None
        }
    }
}

/// A fault in a file is told where the policy names the file.
fn located(fault: &SchemaFault, file: &str, at: &Path) -> Fault {
    let name = file.rsplit('/').next().unwrap_or(file);
    let place = if fault.at.is_empty() { "at its top".to_owned() } else { format!("at {}", fault.at) };
    Fault::new(fault.code, at.clone(), format!("{name}, {place}: {}", fault.message))
}

/// A fault inline is told where it stands.
fn inline(value: &Value, pointer: &str, at: Path) -> Path {
    let (mut value, mut at) = (Some(value), at);
    for token in pointer.split('/').skip(1) {
        let name = token.replace("~1", "/").replace("~0", "~");
        let index = name.parse().ok().filter(|_| value.is_some_and(Value::is_array));
        at.0.push(index.map_or_else(|| PathItem::Key(name.clone()), PathItem::Index));
        value = value.and_then(|value| match index {
            Some(index) => value.get(index),
            None => value.get(&name),
        });
    }
    at
}
