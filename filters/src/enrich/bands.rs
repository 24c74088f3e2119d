//! Names for spans of scores: cold, warm, hot.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fault::{Code, Fault, Path};

/// Steps of one band at most.
const MAX_STEPS: usize = 16;
/// Longest name of a step, in bytes: what a text field of a CRM record holds.
const MAX_NAME: usize = 255;

/// A text by score. The first step whose `below` is over the score names it; the last has none.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "EnrichBand")]
pub struct BandSpec {
    /// JSON pointer, one level deep, to the field of each record that gets the name, such as `/Lead_Tier__c`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Request header for the name; several records give a comma-separated list in their order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// From low scores to high ones. Expressions read `enrich.<name>.band`.
    #[schemars(length(min = 1, max = 16))]
    pub steps: Vec<StepSpec>,
}

/// One step of a band.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "EnrichBandStep")]
pub struct StepSpec {
    /// Scores under this are of this step, unless an earlier one took them. Absent in the last step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<f32>,
    pub name: String,
}

/// The built steps.
#[derive(Debug)]
pub(super) struct Bands {
    /// Names of the steps below each bound, in rising order.
    below: Box<[(f32, Arc<str>)]>,
    last: Arc<str>,
}

impl Bands {
    /// Checks the steps at `at`: bounds that rise, names that differ, and one step for all that is left.
    pub(super) fn build(steps: &[StepSpec], at: &Path, faults: &mut Vec<Fault>) -> Option<Self> {
        let before = faults.len();
        let mut fault = |at: Path, message: &str, help: &str| {
            faults.push(Fault::new(Code::BAND, at, message).help(help));
        };
        if steps.len() > MAX_STEPS {
            fault(at.clone(), "a band has at most 16 steps", "leave out names that nobody acts upon");
        }
        let (mut below, mut last, mut bound) = (Vec::new(), None, f32::NEG_INFINITY);
        for (index, step) in steps.iter().enumerate() {
            let at = at.index(index);
            let (earlier, _) = steps.split_at(index);
            if step.name.is_empty() || step.name.len() > MAX_NAME {
                fault(at.key("name"), "the name of a step has 1 to 255 bytes", "write a word such as warm");
            }
            if earlier.iter().any(|other| other.name == step.name) {
                fault(at.key("name"), "another step has this name", "join the two steps");
            }
            match step.below {
                Some(next) if !next.is_finite() || next <= bound => {
                    let help = "order the steps from low scores to high ones";
                    fault(at.key("below"), "each `below` must be over the one before", help);
                }
                Some(next) => {
                    bound = next;
                    below.push((next, Arc::from(step.name.as_str())));
                }
                None if index + 1 < steps.len() => {
                    let help = "only the last step is without `below`";
                    fault(at, "no score ever comes to the steps behind this one", help);
                }
                None => last = Some(Arc::from(step.name.as_str())),
            }
        }
        if last.is_none() {
            let help = "add a last step without `below`, such as { name: hot }";
            fault(at.clone(), "scores over all steps have no name", help);
        }
        if faults.len() > before {
            return None;
        }
        Some(Self { below: below.into(), last: last? })
    }

    /// The name of a score.
    pub(super) fn name(&self, score: f32) -> &Arc<str> {
        self.below.iter().find(|(bound, _)| score < *bound).map_or(&self.last, |(_, name)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::{Bands, StepSpec};
    use crate::fault::Path;

    fn step(below: Option<f32>, name: &str) -> StepSpec {
        StepSpec { below, name: name.to_owned() }
    }

    #[test]
    fn a_score_is_of_the_first_step_that_is_over_it() {
        let steps = [step(Some(0.3), "cold"), step(Some(0.7), "warm"), step(None, "hot")];
        let bands = Bands::build(&steps, &Path::default(), &mut Vec::new()).unwrap();
        for (score, name) in [
            (-1.0, "cold"),
            (0.0, "cold"),
            (0.299, "cold"),
            (0.3, "warm"),
            (0.699, "warm"),
            (0.7, "hot"),
            (9.0, "hot"),
        ] {
            assert_eq!(**bands.name(score), *name, "{score}");
        }
    }

    #[test]
    fn steps_that_leave_scores_without_a_name_are_refused() {
        for (steps, at, message) in [
            (vec![], "steps", "scores over all steps have no name"),
            (vec![step(Some(0.5), "a")], "steps", "scores over all steps have no name"),
            (
                vec![step(Some(0.5), "a"), step(Some(0.5), "b"), step(None, "c")],
                "steps[1].below",
                "each `below` must be over the one before",
            ),
            (
                vec![step(Some(f32::NAN), "a"), step(None, "c")],
                "steps[0].below",
                "each `below` must be over the one before",
            ),
            (
                vec![step(None, "a"), step(None, "b")],
                "steps[0]",
                "no score ever comes to the steps behind this one",
            ),
            (vec![step(Some(0.5), "a"), step(None, "a")], "steps[1].name", "another step has this name"),
            (vec![step(None, "")], "steps[0].name", "the name of a step has 1 to 255 bytes"),
        ] {
            let mut faults = Vec::new();
            assert!(Bands::build(&steps, &Path::default().key("steps"), &mut faults).is_none());
            let told: Vec<_> = faults.iter().map(|f| (f.at.to_string(), f.message.as_str())).collect();
            assert_eq!(told, [(at.to_owned(), message)], "{steps:?}");
        }
    }
}
