//! Reads records and their features from a body in one pass.

use std::ops::Range;

use foregate_filters::json::{Container, Kind, Malformed, Scalar, Text, Visitor, walk};
use foregate_filters::score::ScoreFault;
use smallvec::SmallVec;

use super::draft::{Draft, Slot};
use super::frames::{Frame, Request, Target, names_object};
use super::trie::{Node, Trie};
use super::{Plan, Reading};

/// Records in one body at most, as Salesforce bounds its collections.
pub const MAX_RECORDS: usize = 200;

/// A record found in a body: where members may be inserted and which must go.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// `Err` where the record has no row in the matrix.
    pub features: Result<(), ScoreFault>,
    pub insert_at: usize,
    pub empty: bool,
    pub reserved: SmallVec<[Range<usize>; 1]>,
}

/// All records of a body, and the feature matrix of those that have features.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extraction {
    pub records: Vec<Found>,
    /// Row-major; one row for every record whose `features` is `Ok`, in order.
    pub rows: Vec<f32>,
    /// One value a feature for each such row, as JSON and cut short; `None` where it is absent, no scalar or
    /// not to be told. Empty unless the values were asked for.
    pub values: Vec<Option<Box<str>>>,
}

impl Plan {
    /// Reads a body: a record, `{"records":[..]}`, or a composite whose subrequests name the object.
    ///
    /// Members named in `reserved` (compared without ASCII case, as Salesforce does) are reported for removal and
    /// never read as features. A body without a record of the object is a fault.
    pub fn extract(
        &self,
        body: &[u8],
        reserved: &[Box<str>],
        reading: Reading,
    ) -> Result<Extraction, ScoreFault> {
        Reader::new(self, reserved, reading).read(body)
    }

    /// The same for a body that was decided about before: its lookups are not counted.
    pub(crate) fn extract_again(
        &self,
        body: &[u8],
        reserved: &[Box<str>],
        reading: Reading,
    ) -> Result<Extraction, ScoreFault> {
        Reader { counted: false, ..Reader::new(self, reserved, reading) }.read(body)
    }
}

fn fault(offset: usize, what: &'static str) -> ScoreFault {
    ScoreFault::Body { offset, what }
}

/// A fault of the walk, in the words of the border; the orphan rule asks for a type of ours.
#[derive(Debug)]
struct Stop(ScoreFault);

impl From<Malformed> for Stop {
    fn from(malformed: Malformed) -> Self {
        Self(fault(malformed.offset, malformed.what))
    }
}

impl From<Stop> for ScoreFault {
    fn from(stop: Stop) -> Self {
        stop.0
    }
}

fn stop(offset: usize, what: &'static str) -> Stop {
    Stop(fault(offset, what))
}

struct Reader<'p, 'a> {
    plan: &'p Plan,
    reserved: &'p [Box<str>],
    reading: Reading,
    /// True where lookups are counted.
    counted: bool,
    frames: SmallVec<[Frame; 8]>,
    target: Target,
    draft: Draft<'a>,
    request: Request,
    /// True once the root proved to be an envelope.
    envelope: bool,
    out: Extraction,
}

impl<'p, 'a> Reader<'p, 'a> {
    fn new(plan: &'p Plan, reserved: &'p [Box<str>], reading: Reading) -> Self {
        Self {
            plan,
            reserved,
            reading,
            counted: true,
            frames: SmallVec::new(),
            target: Target::Other,
            draft: Draft::new(plan.trie.len()),
            request: Request::default(),
            envelope: false,
            out: Extraction {
                records: Vec::with_capacity(1),
                rows: Vec::with_capacity(plan.width),
                values: Vec::new(),
            },
        }
    }

    /// The records of the whole body.
    fn read(mut self, body: &'a [u8]) -> Result<Extraction, ScoreFault> {
        walk(body, &mut self)?;
        if self.out.records.is_empty() {
            return Err(fault(body.len(), "no record of the object"));
        }
        Ok(self.out)
    }

    fn trie(&self) -> &'p Trie {
        &self.plan.trie
    }

    /// True where the innermost container is the record being read.
    fn in_record(&self) -> bool {
        match self.frames.last() {
            Some(Frame::Record) => true,
            Some(Frame::Root) => !self.envelope,
            _ => false,
        }
    }

    fn record_key(&mut self, at: usize, name: &str) -> Target {
        let removing = self.reserved.iter().any(|reserved| reserved.eq_ignore_ascii_case(name));
        self.draft.key(at, removing);
        match self.trie().find(Node::ROOT, name) {
            _ if removing => Target::Other,
            Some(node) => Target::Member(node),
            None if name == "attributes" => Target::Attributes,
            None => Target::Other,
        }
    }

    fn root_key(&mut self, at: usize, name: &str) -> Result<Target, Stop> {
        match name {
            "records" => return Ok(self.envelope_key(at, Target::Records)),
            "compositeRequest" => return Ok(self.envelope_key(at, Target::Requests)),
            _ if !self.envelope => return Ok(self.record_key(at, name)),
            _ => {}
        }
        let reserved = self.reserved.iter().any(|reserved| reserved.eq_ignore_ascii_case(name));
        if reserved || self.trie().find(Node::ROOT, name).is_some() {
            return Err(stop(at, "a member of a record beside records"));
        }
        Ok(Target::Other)
    }

    fn envelope_key(&mut self, at: usize, target: Target) -> Target {
        if !self.envelope {
            self.draft.key(at, false);
        }
        target
    }

    /// The root is an envelope; it must not be a record as well, nor two envelopes.
    fn enter_envelope(&mut self, at: usize) -> Result<(), Stop> {
        if self.envelope || self.draft.touched() {
            return Err(stop(at, "records, and members of a record beside them"));
        }
        self.envelope = true;
        Ok(())
    }

    /// Turns the draft into a record; `at` is the end of its object.
    fn finish_record(&mut self, at: usize) -> Result<(), Stop> {
        if self.out.records.len() == MAX_RECORDS {
            return Err(stop(at, "over 200 records"));
        }
        let features = if self.draft.ambiguous {
            Err(ScoreFault::Feature("a member that occurs twice".into()))
        } else {
            self.plan.encode(&self.draft.slots, self.reading.now, self.counted, &mut self.out.rows)
        };
        if self.reading.values && features.is_ok() {
            self.plan.tell(&self.draft.slots, self.reading.now, &mut self.out.values);
        }
        self.out.records.push(Found {
            features,
            insert_at: self.draft.insert_at,
            empty: self.draft.kept == 0,
            reserved: std::mem::take(&mut self.draft.cuts),
        });
        Ok(())
    }

    /// Two types would let a record pass here as one object and be another behind the gateway.
    fn record_type(&mut self, scalar: &Scalar<'a>) -> Result<(), Stop> {
        if std::mem::replace(&mut self.draft.typed, true) {
            return Err(stop(scalar.at, "two types of one record"));
        }
        if scalar.kind != Kind::String {
            return Err(stop(scalar.at, "the type of a record must be a string"));
        }
        if !scalar.unescape().eq_ignore_ascii_case(&self.plan.object) {
            self.draft.foreign = Some(scalar.at);
        }
        Ok(())
    }

    fn check_object(&self) -> Result<(), Stop> {
        match self.draft.foreign {
            Some(at) => Err(stop(at, "a record of another object")),
            None => Ok(()),
        }
    }

    /// Keeps the record of a subrequest whose URL names the object, and drops it otherwise.
    fn finish_request(&mut self, end: usize) -> Result<(), Stop> {
        let request = std::mem::take(&mut self.request);
        if request.matches == Some(true) {
            return match request.body {
                Some(at) if !request.held => Err(stop(at, "a record must be an object")),
                Some(_) => self.check_object(),
                None => Ok(()),
            };
        }
        if request.held {
            let dropped = self.out.records.pop().ok_or_else(|| stop(end, "no record to drop"))?;
            if dropped.features.is_ok() {
                self.out.rows.truncate(self.out.rows.len().saturating_sub(self.plan.width()));
                let told = if self.reading.values { self.plan.features.len() } else { 0 };
                self.out.values.truncate(self.out.values.len().saturating_sub(told));
            }
        }
        Ok(())
    }

    fn container_frame(&mut self, container: Container, at: usize) -> Result<Frame, Stop> {
        let Some(top) = self.frames.last().copied() else {
            if container == Container::Array {
                return Err(stop(at, "an object expected"));
            }
            self.draft.begin(at + 1);
            return Ok(Frame::Root);
        };
        let object = container == Container::Object;
        Ok(match (top, self.target) {
            (Frame::Root, Target::Records) if !object => {
                self.enter_envelope(at)?;
                Frame::Records
            }
            (Frame::Root, Target::Requests) if !object => {
                self.enter_envelope(at)?;
                Frame::Requests
            }
            (Frame::Records | Frame::Requests, _) if !object => {
                return Err(stop(at, "a record must be an object"));
            }
            (Frame::Records, _) => {
                self.draft.begin(at + 1);
                Frame::Record
            }
            (Frame::Requests, _) => Frame::Request,
            (Frame::Request, Target::Body) => {
                self.request_body(at)?;
                self.request.held = object;
                self.draft.begin(at + 1);
                if object { Frame::Record } else { Frame::Skip }
            }
            (Frame::Root | Frame::Record, Target::Attributes) if object => Frame::Attributes,
            (Frame::Root | Frame::Record | Frame::Inner(_), Target::Member(node)) => {
                self.draft.fill(node, Slot::Container);
                if object && self.trie().descends(node) { Frame::Inner(node) } else { Frame::Skip }
            }
            _ => Frame::Skip,
        })
    }

    fn request_body(&mut self, at: usize) -> Result<(), Stop> {
        match self.request.body.replace(at) {
            None => Ok(()),
            Some(_) => Err(stop(at, "two bodies in a subrequest")),
        }
    }

    fn request_scalar(&mut self, scalar: &Scalar<'a>) -> Result<(), Stop> {
        match self.target {
            Target::Url => {
                let named =
                    scalar.kind == Kind::String && names_object(&scalar.unescape(), &self.plan.object);
                match self.request.matches.replace(named) {
                    None => Ok(()),
                    Some(_) => Err(stop(scalar.at, "two URLs in a subrequest")),
                }
            }
            Target::Body if scalar.kind != Kind::Null => self.request_body(scalar.at),
            _ => Ok(()),
        }
    }
}

impl<'a> Visitor<'a> for Reader<'_, 'a> {
    type Error = Stop;

    fn begin(&mut self, container: Container, at: usize, _: u32) -> Result<(), Stop> {
        let frame = self.container_frame(container, at)?;
        self.frames.push(frame);
        self.target = Target::Other;
        Ok(())
    }

    fn end(&mut self, _: Container, end: usize, _: u32) -> Result<(), Stop> {
        match self.frames.pop() {
            Some(Frame::Root) if !self.envelope => {
                self.check_object()?;
                self.finish_record(end)?;
            }
            // A collection may hold records of several objects; those of others pass as they are.
            Some(Frame::Record)
                if self.frames.last() == Some(&Frame::Records) && self.draft.foreign.is_some() => {}
            Some(Frame::Record) => self.finish_record(end)?,
            Some(Frame::Request) => self.finish_request(end)?,
            _ => {}
        }
        if self.in_record() {
            self.draft.member_end(end);
        }
        Ok(())
    }

    fn key(&mut self, key: Text<'a>) -> Result<(), Stop> {
        let Some(frame) = self.frames.last().copied() else { return Ok(()) };
        if frame == Frame::Skip {
            return Ok(());
        }
        let name = key.unescape();
        self.target = match frame {
            Frame::Root => self.root_key(key.at, &name)?,
            Frame::Record => self.record_key(key.at, &name),
            Frame::Inner(node) => self.trie().find(node, &name).map_or(Target::Other, Target::Member),
            Frame::Attributes if name == "type" => Target::Type,
            Frame::Request if name == "url" => Target::Url,
            Frame::Request if name == "body" => Target::Body,
            _ => Target::Other,
        };
        Ok(())
    }

    fn scalar(&mut self, scalar: Scalar<'a>) -> Result<(), Stop> {
        match self.frames.last() {
            None => return Err(stop(scalar.at, "an object expected")),
            Some(Frame::Records | Frame::Requests) => {
                return Err(stop(scalar.at, "a record must be an object"));
            }
            Some(Frame::Request) => return self.request_scalar(&scalar),
            Some(Frame::Skip) => return Ok(()),
            _ => {}
        }
        match self.target {
            Target::Member(node) => self.draft.fill(node, Slot::Scalar(scalar)),
            Target::Type => self.record_type(&scalar)?,
            _ => {}
        }
        if self.in_record() {
            self.draft.member_end(scalar.end);
        }
        Ok(())
    }
}
