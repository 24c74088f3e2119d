//! Every code of a diagnostic, with its title, explanation and example.

use foregate_filters::fault::Code;

pub const SYNTAX: Code = Code(101);
pub const UNKNOWN_FIELD: Code = Code(102);
pub const UNSUPPORTED: Code = Code(103);
pub const TYPE: Code = Code(104);
pub const MISSING_FIELD: Code = Code(105);
pub const VALUE_UNKNOWN: Code = Code(106);
pub const BOUNDS: Code = Code(107);
pub const DUPLICATE_KEY: Code = Code(108);
pub const BUDGET: Code = Code(109);
pub const UNKNOWN_KIND: Code = Code(110);
pub const UNSUPPORTED_KIND: Code = Code(111);
pub const FILE_UNREADABLE: Code = Code(112);
pub const NO_POLICY: Code = Code(113);
pub const YAML_FEATURE: Code = Code(114);
pub const CASE_FILE: Code = Code(115);
pub const PATTERN: Code = Code(116);
pub const DUPLICATE_NAME: Code = Code(201);
pub const LISTENER_CONFLICT: Code = Code(202);
pub const LISTENER_TLS: Code = Code(203);
pub const ROUTE_FILTER: Code = Code(204);
pub const ROUTE_MATCH: Code = Code(205);
pub const NO_BACKEND: Code = Code(206);
pub const PORT_ZERO: Code = Code(207);
pub const NOT_ALLOWED: Code = Code(208);
pub const POLICY_WITHOUT_TARGET: Code = Code(601);
pub const UPSTREAM_UNUSED: Code = Code(602);
pub const MODEL_UNUSED: Code = Code(603);
pub const MATCH_SHADOWED: Code = Code(604);
pub const ROUTE_DETACHED: Code = Code(605);
pub const GATEWAY_EMPTY: Code = Code(606);
pub const CASE_VALUE: Code = Code(701);
