//! What is sent by OTLP, spans or log records, and how records become it.

use prost::Message;

use crate::telemetry::otlp::log_records;
use crate::telemetry::otlp::message::{
    LogRecord, LogsRequest, Resource, ResourceLogs, ResourceSpans, Scope, ScopeLogs, ScopeSpans, Span,
    TracesRequest,
};
use crate::telemetry::record::Record;
use crate::telemetry::traces::spans;

/// Names the conventions that attributes follow.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.37.0";

/// What is told of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Traces,
    Logs,
}

/// What some records became.
#[derive(Debug)]
pub enum Batch {
    Spans(Vec<Span>),
    Logs(Vec<LogRecord>),
}

impl Signal {
    /// The gRPC method, which is the path of the call.
    pub const fn method(self) -> &'static str {
        match self {
            Self::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Self::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        }
    }

    /// Path of OTLP over HTTP (OTLP 1.9, section "OTLP/HTTP Request").
    pub const fn path(self) -> &'static str {
        match self {
            Self::Traces => "/v1/traces",
            Self::Logs => "/v1/logs",
        }
    }

    /// What flags and threads are called by.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Logs => "logs",
        }
    }

    /// The same in variables of the environment.
    pub const fn variable(self) -> &'static str {
        match self {
            Self::Traces => "TRACES",
            Self::Logs => "LOGS",
        }
    }

    /// How many items a record gives.
    pub fn count(self, record: &Record) -> usize {
        match self {
            Self::Traces => spans::count(record),
            Self::Logs => 1,
        }
    }

    /// An empty batch.
    pub const fn batch(self) -> Batch {
        match self {
            Self::Traces => Batch::Spans(Vec::new()),
            Self::Logs => Batch::Logs(Vec::new()),
        }
    }
}

impl Batch {
    /// Adds what a record becomes; gives its size in bytes.
    pub fn add(&mut self, record: &Record) -> usize {
        match self {
            Self::Spans(all) => {
                let before = all.len();
                spans::write(record, all);
                all.iter().skip(before).map(Message::encoded_len).sum()
            }
            Self::Logs(all) => {
                let log = log_records::of(record);
                let size = log.encoded_len();
                all.push(log);
                size
            }
        }
    }

    pub fn count(&self) -> usize {
        match self {
            Self::Spans(all) => all.len(),
            Self::Logs(all) => all.len(),
        }
    }

    /// The message that carries it.
    pub fn message(self, resource: &Resource) -> Vec<u8> {
        let scope =
            Some(Scope { name: "foregate".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() });
        let (resource, schema_url) = (Some(resource.clone()), SCHEMA.to_owned());
        match self {
            Self::Spans(spans) => {
                let scope_spans = vec![ScopeSpans { scope, spans }];
                let all = ResourceSpans { resource, scope_spans, schema_url };
                TracesRequest { resource_spans: vec![all] }.encode_to_vec()
            }
            Self::Logs(log_records) => {
                let scope_logs = vec![ScopeLogs { scope, log_records }];
                let all = ResourceLogs { resource, scope_logs, schema_url };
                LogsRequest { resource_logs: vec![all] }.encode_to_vec()
            }
        }
    }
}
