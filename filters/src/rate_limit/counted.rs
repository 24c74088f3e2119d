//! What one request has taken from limits, so that a later refusal gives it back.

use std::ops::Range;
use std::sync::Arc;

use super::concurrency::Permit;
use super::counting::Taken;
use crate::context::RequestContext;
use crate::moment::Moment;
use crate::step::Step;

/// What a request holds of the limits of its route.
#[derive(Debug, Default)]
pub struct Counted {
    /// Dropped, and so given back, when the request has ended.
    permits: Vec<Permit>,
    /// Kept only while other limits are still to be asked.
    receipts: Vec<Receipt>,
}

/// What one limit took, and where it told of it.
#[derive(Debug)]
pub(super) struct Receipt {
    pub(super) rule: Arc<str>,
    pub(super) step: Step,
    pub(super) taken: Option<Taken>,
    /// When it was taken.
    pub(super) at: Moment,
    /// Its edits of the response.
    pub(super) told: Range<usize>,
}

impl Counted {
    pub(super) fn permit(&mut self, permit: Permit) {
        self.permits.push(permit);
    }

    pub(super) fn receipt(&mut self, receipt: Receipt) {
        self.receipts.push(receipt);
    }

    /// Requests that it holds open.
    pub fn open(&self) -> usize {
        self.permits.len()
    }

    /// What a policy in shadow mode holds open lasts as long as the request.
    pub(crate) fn hold(&mut self, shadow: Self) {
        self.permits.extend(shadow.permits);
    }
}

/// Gives back what limits took before one at `step` refused, and takes back what they told of it.
///
/// What was taken in guard stays taken where a later step refuses: whoever floods would otherwise pay for
/// nothing by being refused later on.
pub(super) fn give_back(ctx: &mut RequestContext, step: Step) {
    let given = |of: Step| of > Step::Guard || step == Step::Guard;
    ctx.counted.permits.retain(|permit| !given(permit.step));
    for receipt in std::mem::take(&mut ctx.counted.receipts).into_iter().rev() {
        if !given(receipt.step) {
            continue;
        }
        if let Some(taken) = &receipt.taken {
            taken.give_back(receipt.at);
        }
        ctx.limits.retain(|fact| !Arc::ptr_eq(&fact.rule, &receipt.rule));
        let Range { start, end } = receipt.told;
        if end <= ctx.edits.response.len() {
            ctx.edits.response.drain(start..end);
        }
    }
}
