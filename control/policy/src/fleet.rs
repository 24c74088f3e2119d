//! What control plane and proxies say to each other (`proto/foregate/fleet/v1/fleet.proto`).

use std::collections::HashMap;

use bytes::Bytes;
use prost::{Message, Oneof};

#[derive(Clone, PartialEq, Message)]
pub struct PolicyRequest {
    #[prost(message, optional, tag = "1")]
    pub node: Option<Node>,
    #[prost(map = "string, string", tag = "2")]
    pub known: HashMap<String, String>,
    #[prost(string, tag = "3")]
    pub nonce: String,
    #[prost(message, optional, tag = "4")]
    pub refusal: Option<Refusal>,
    #[prost(message, optional, tag = "5")]
    pub report: Option<Report>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Node {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(map = "string, string", tag = "2")]
    pub labels: HashMap<String, String>,
    #[prost(string, tag = "3")]
    pub version: String,
    #[prost(string, tag = "4")]
    pub zone: String,
    #[prost(string, tag = "5")]
    pub revision: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Refusal {
    #[prost(message, repeated, tag = "1")]
    pub findings: Vec<Finding>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Finding {
    #[prost(string, tag = "1")]
    pub code: String,
    #[prost(string, tag = "2")]
    pub file: String,
    #[prost(uint32, tag = "3")]
    pub line: u32,
    #[prost(uint32, tag = "4")]
    pub column: u32,
    #[prost(string, tag = "5")]
    pub message: String,
    #[prost(string, tag = "6")]
    pub help: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Report {
    #[prost(string, tag = "1")]
    pub revision: String,
    #[prost(uint64, tag = "2")]
    pub requests: u64,
    #[prost(uint64, tag = "3")]
    pub refused: u64,
    #[prost(uint64, tag = "4")]
    pub failed: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct PolicyResponse {
    #[prost(string, tag = "1")]
    pub nonce: String,
    #[prost(string, tag = "2")]
    pub revision: String,
    #[prost(message, repeated, tag = "3")]
    pub changed: Vec<Resource>,
    #[prost(string, repeated, tag = "4")]
    pub removed: Vec<String>,
    #[prost(bool, tag = "5")]
    pub last: bool,
    #[prost(string, tag = "6")]
    pub withheld: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Resource {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub version: String,
    #[prost(oneof = "Content", tags = "3, 4")]
    pub content: Option<Content>,
    #[prost(uint64, tag = "5")]
    pub offset: u64,
    #[prost(uint64, tag = "6")]
    pub size: u64,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum Content {
    #[prost(message, tag = "3")]
    Document(Document),
    #[prost(bytes = "bytes", tag = "4")]
    File(Bytes),
}

#[derive(Clone, PartialEq, Message)]
pub struct Document {
    #[prost(string, tag = "1")]
    pub path: String,
    #[prost(uint32, tag = "2")]
    pub line: u32,
    #[prost(string, tag = "3")]
    pub text: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct SignRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub csr: Bytes,
    #[prost(oneof = "Proof", tags = "2, 3")]
    pub proof: Option<Proof>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum Proof {
    #[prost(string, tag = "2")]
    ServiceAccountToken(String),
    #[prost(string, tag = "3")]
    JoinToken(String),
}

#[derive(Clone, PartialEq, Message)]
pub struct SignResponse {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub chain: Vec<Bytes>,
    #[prost(message, optional, tag = "2")]
    pub bundle: Option<Bundle>,
    #[prost(uint64, tag = "3")]
    pub attested_until: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct BundleRequest {}

#[derive(Clone, PartialEq, Message)]
pub struct Bundle {
    #[prost(string, tag = "1")]
    pub trust_domain: String,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub roots: Vec<Bytes>,
    #[prost(uint64, tag = "3")]
    pub sequence: u64,
}
