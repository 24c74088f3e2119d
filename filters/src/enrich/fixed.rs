//! A scorer whose answers are given, for tests.

use std::future::Future;
use std::pin::Pin;

use smallvec::smallvec;

use crate::score::{Detail, Offer, RecordScore, ScoreCall, ScoreFault, Scorer, Scores};

/// Finds flat records by their braces and removes reserved members as the border promises.
#[derive(Clone, Debug)]
pub(super) struct Fixed {
    pub(super) score: Result<f32, ScoreFault>,
    pub(super) whole: Option<ScoreFault>,
    pub(super) inline: bool,
    /// Of the records, where it is another one.
    pub(super) version: Option<&'static str>,
    /// What stands beside each score; reasons only where they are asked for.
    pub(super) detail: Option<Box<Detail>>,
    pub(super) offer: Option<Offer>,
    /// True where nobody is there to wait for.
    pub(super) busy: bool,
}

/// Says no more than a score, at once.
pub(super) fn fixed(score: Result<f32, ScoreFault>) -> Fixed {
    Fixed { score, whole: None, inline: true, version: None, detail: None, offer: None, busy: false }
}

impl Fixed {
    fn answer(&self, call: &ScoreCall) -> Scores {
        if let Some(fault) = &self.whole {
            return Err(fault.clone());
        }
        let text = std::str::from_utf8(&call.body).unwrap();
        let mut records = Vec::new();
        for (open, _) in
            text.match_indices('{').filter(|(open, _)| !text[open + 1..].starts_with("\"records\""))
        {
            let close = open + text[open..].find('}').unwrap();
            let mut ends = vec![open + 1];
            ends.extend(text[open..close].match_indices(',').map(|(at, _)| open + at));
            ends.push(close);
            let mut reserved = smallvec![];
            let mut kept = 0;
            for (index, pair) in ends.windows(2).enumerate().filter(|(_, pair)| pair[0] < pair[1]) {
                if call.reserved.iter().any(|name| text[pair[0]..pair[1]].contains(&**name)) {
                    let comma = usize::from(index == 0 && ends.len() > 2);
                    reserved.push(pair[0]..pair[1] + comma);
                } else {
                    kept += 1;
                }
            }
            records.push(RecordScore {
                score: self.score.clone(),
                insert_at: open + 1,
                empty: kept == 0,
                reserved,
                version: self.version.map(Into::into),
                detail: self.score.is_ok().then(|| self.detail.clone()).flatten().map(|mut detail| {
                    detail.reasons = detail.reasons.filter(|_| call.explain);
                    detail
                }),
            });
        }
        Ok(records)
    }
}

impl Scorer for Fixed {
    fn model(&self) -> &'static str {
        "lead-score"
    }

    fn version(&self) -> &'static str {
        "1.0.0"
    }

    fn offer(&self) -> Option<Offer> {
        self.offer
    }

    fn score(&self, call: &ScoreCall) -> Option<Scores> {
        (self.inline && !call.explain).then(|| self.answer(call))
    }

    fn submit<'a>(&'a self, call: ScoreCall) -> Pin<Box<dyn Future<Output = Scores> + Send + 'a>> {
        let busy = Self { score: Err(ScoreFault::Busy), ..self.clone() };
        Box::pin(async move { if self.busy { busy.answer(&call) } else { self.answer(&call) } })
    }
}
