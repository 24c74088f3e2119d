//! What of a finished request failed, and whose failure it is.

use foregate_filters::reason::Reason;

use crate::telemetry::code::Code;
use crate::telemetry::record::{End, Record};

impl Record {
    /// True where the gateway or the upstream failed. What policies refuse and what clients do is no failure.
    pub fn failed(&self) -> bool {
        self.status >= 500 || self.fault().is_some()
    }

    /// True where it is more than one of many that went well: it was refused or audited, or failed.
    pub fn is_telling(&self) -> bool {
        self.refusal.is_some() || !self.audits.is_empty() || self.failed()
    }

    /// What failed where the status alone does not tell, as `error.type` of OpenTelemetry: the reason of a refusal, the
    /// code of a call, or that the upstream broke off.
    pub fn fault(&self) -> Option<&'static str> {
        match &self.refusal {
            Some(refusal) => {
                let failed = self.status >= 500 || refusal.reason.status().is_server_error();
                failed.then_some(refusal.reason.name())
            }
            None if self.status >= 500 => None,
            None => fault(self.grpc, self.end),
        }
    }

    /// How the upstream ended a call, where it did: codes of refusals are the gateway's own.
    pub fn upstream_grpc(&self) -> Option<Code> {
        let its = self.refusal.is_none() && self.end == End::Complete && self.upstream_status != 0;
        self.grpc.filter(|_| its)
    }

    /// The same as [`Self::fault`], of the exchange with the upstream alone.
    pub fn upstream_fault(&self) -> Option<&'static str> {
        let told = self.refusal.is_some() || self.upstream_status == 0 || self.upstream_status >= 500;
        // How long it is waited for says nothing of it.
        if told || self.end == End::Late { None } else { fault(self.upstream_grpc(), self.end) }
    }
}

/// What is wrong with an answer of this code that ended so.
fn fault(code: Option<Code>, end: End) -> Option<&'static str> {
    let ended = match end {
        End::UpstreamBroke => Some(Reason::UpstreamReset.name()),
        End::Late => Some(Reason::DeadlineExceeded.name()),
        End::Complete | End::ClientGone | End::Revoked | End::Idle | End::Drained => None,
    };
    code.filter(|code| code.failed()).map(Code::name).or(ended)
}

#[cfg(test)]
mod tests {
    use crate::telemetry::code::Code;
    use crate::telemetry::record::{End, Record, Refusal};
    use crate::telemetry::testing::{failed_records, full_record, record};
    use foregate_filters::reason::Reason;
    use foregate_filters::step::Step;

    #[test]
    fn what_clients_do_and_what_policies_refuse_is_no_failure() {
        assert!(failed_records().iter().all(|failed| failed.failed() && failed.is_telling()));
        let call =
            |code| Record { status: 200, upstream_status: 200, grpc: Some(Code::of(code)), ..record() };
        // A caller that was too slow is told as one that came too late.
        let slow =
            Refusal { step: Step::Dispatch, reason: Reason::BodyTimeout, rule: "".into(), detail: "".into() };
        for well in [
            record(),
            full_record(),
            Record { status: 499, end: End::ClientGone, ..record() },
            Record { end: End::ClientGone, ..record() },
            Record { end: End::Revoked, ..full_record() },
            Record { end: End::Drained, ..record() },
            call(0),
            call(1),
            call(5),
            Record { refusal: Some(slow), end: End::Idle, ..call(4) },
        ] {
            assert_eq!((well.failed(), well.fault(), well.upstream_fault()), (false, None, None), "{well:?}");
        }
    }
}
