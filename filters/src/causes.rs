//! An error with what led to it, as one text.

use std::error::Error;
use std::iter::successors;

/// Causes that the text tells already are left out: many errors repeat theirs.
pub fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    for cause in successors(error.source(), |error: &&dyn Error| (**error).source()) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::causes;

    #[derive(Debug, thiserror::Error)]
    #[error("{what}")]
    struct Fault {
        what: &'static str,
        source: Option<Box<Fault>>,
    }

    #[test]
    fn what_led_to_an_error_is_told_once() {
        let root = Fault { what: "no route", source: None };
        let middle = Fault { what: "connect: no route", source: Some(root.into()) };
        let error = Fault { what: "it is away", source: Some(middle.into()) };
        assert_eq!(causes(&error), "it is away: connect: no route");
    }
}
