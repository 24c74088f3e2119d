//! The four requests of the demo: as curl commands for people, and sent by itself.

use foregate_filters::reason::Reason;
use http::Method;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::Client;
use serde_json::{Map, Value, json};

use crate::issuer::{Issuer, IssuerError};

/// A lead the model thinks much of.
const LEAD: &str = include_str!("../../../policies/demo/lead.json");
const PATH: &str = "/services/data/v62.0/sobjects/Lead";
/// Requests in a row that use up a burst of 5, though the limit gives one back every 2 s.
const MANY: u16 = 12;
/// How often a lead is sent anew whose score came too late: a machine that still builds something may miss 5 ms.
const ANEW: u16 = 3;
/// Lifetime of the tokens, in seconds.
const LIFETIME: u64 = 3600;

/// A request, and what the gateway has promised for it.
#[derive(Clone, Debug)]
pub struct Call {
    pub title: &'static str,
    /// Status of the answer; of the last one, where it is sent several times.
    pub status: u16,
    pub says: &'static str,
    method: Method,
    token: Option<String>,
    body: Option<&'static str>,
    times: u16,
}

/// What came back.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub status: u16,
    /// The score as the CRM received it in the body.
    pub score: Option<f64>,
    /// The reason of a refusal.
    pub reason: Option<String>,
}

impl Call {
    /// The four calls, with tokens of this issuer that are good for an hour. `now` is in seconds since 1970.
    pub fn all(issuer: &Issuer, now: u64) -> Result<[Self; 4], IssuerError> {
        let token = |subject: &str, scope: &str| {
            let claims: Map<String, Value> = [
                ("aud", json!("crm")),
                ("sub", json!(subject)),
                ("scope", json!(scope)),
                ("iat", json!(now)),
                ("exp", json!(now + LIFETIME)),
            ]
            .map(|(name, value)| (name.to_owned(), value))
            .into_iter()
            .collect();
            issuer.token(&claims)
        };
        let post = |title, status, says, token| Self {
            title,
            status,
            says,
            method: Method::POST,
            token,
            body: Some(LEAD.trim_ascii_end()),
            times: 1,
        };
        Ok([
            post(
                "A lead is scored on its way to the CRM",
                201,
                "the CRM tells what it received: Lead_Score__c in the body and x-lead-score, both 0.7876",
                Some(token("ada", "crm.read crm.write")?),
            ),
            post("No token", 401, "TokenMissing, and WWW-Authenticate says what is wanted", None),
            post(
                "A token that may only read",
                403,
                "AccessDenied: no rule allows it; the CRM never hears of it",
                Some(token("grace", "crm.read")?),
            ),
            Self {
                title: "Twelve requests where five may come at once",
                status: 429,
                says: "200 five times, then 429: each caller has a limit of its own",
                method: Method::GET,
                token: Some(token("loop", "crm.read")?),
                body: None,
                times: MANY,
            },
        ])
    }

    /// A command to paste into a shell. `base` is such as `http://127.0.0.1:8080`.
    pub fn curl(&self, base: &str) -> String {
        let command = if self.times == 1 {
            format!("curl -si -X {} {base}{PATH}", self.method)
        } else {
            format!("curl -s -o /dev/null -w '%{{http_code}}\\n' '{base}{PATH}?n=[1-{}]'", self.times)
        };
        let token = self.token.as_ref().map(|token| format!(" -H 'Authorization: Bearer {token}'"));
        let body = self.body.map(|body| format!(" -H 'Content-Type: application/json' -d '{body}'"));
        [Some(command), token, body].into_iter().flatten().collect()
    }

    /// Sends it, one after the other where it is sent several times, and anew where its score is late.
    ///
    /// # Errors
    /// Where there is no answer, or one that breaks off.
    pub async fn send(&self, client: &Client, base: &str) -> Result<Outcome, reqwest::Error> {
        let mut outcome = self.send_once(client, base).await?;
        for _ in 1..self.times {
            outcome = self.send_once(client, base).await?;
        }
        for _ in 0..ANEW {
            if outcome.reason.as_deref() != Some(Reason::ScoreUnavailable.name()) {
                break;
            }
            outcome = self.send_once(client, base).await?;
        }
        Ok(outcome)
    }

    async fn send_once(&self, client: &Client, base: &str) -> Result<Outcome, reqwest::Error> {
        let mut request = client.request(self.method.clone(), format!("{base}{PATH}"));
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(body) = self.body {
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let body: Value = serde_json::from_slice(&response.bytes().await?).unwrap_or_default();
        Ok(Outcome {
            status,
            score: body.pointer("/received/body/Lead_Score__c").and_then(Value::as_f64),
            reason: body.get("reason").and_then(Value::as_str).map(str::to_owned),
        })
    }

    /// True where the promise was kept; the call that forwards a lead must show a score.
    pub fn kept(&self, outcome: &Outcome) -> bool {
        outcome.status == self.status && (self.status != 201 || outcome.score.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::{Call, Outcome};
    use crate::issuer::Issuer;

    #[test]
    fn commands_can_be_pasted_as_they_are() {
        let calls = Call::all(&Issuer::new("http://127.0.0.1:1").unwrap(), 1_800_000_000).unwrap();
        assert_eq!(calls.each_ref().map(|call| call.status), [201, 401, 403, 429]);
        for call in &calls {
            let command = call.curl("http://127.0.0.1:2");
            assert!(
                command.starts_with("curl -s") && command.matches('\'').count().is_multiple_of(2),
                "{command}"
            );
            assert_eq!(command.contains("Bearer eyJ"), call.status != 401);
            assert_eq!(command.contains("[1-12]"), call.status == 429);
        }
    }

    #[test]
    fn a_promise_is_a_status_and_a_score_where_a_lead_is_forwarded() {
        let calls = Call::all(&Issuer::new("http://127.0.0.1:1").unwrap(), 0).unwrap();
        let outcome = |status, score| Outcome { status, score, reason: None };
        assert!(calls[0].kept(&outcome(201, Some(0.5))));
        assert!(!calls[0].kept(&outcome(201, None)));
        assert!(!calls[0].kept(&outcome(503, Some(0.5))));
        assert!(calls[3].kept(&outcome(429, None)));
        assert!(!calls[3].kept(&outcome(200, None)));
    }
}
