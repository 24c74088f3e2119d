//! Outbound messages of Salesforce: the ids of their notifications, and whether an answer acknowledges.

use std::ops::Range;

use super::xml::{Malformed, elements};

/// Most notifications of one message.
pub const MAX_NOTIFICATIONS: usize = 100;

/// The way to a notification, without prefixes.
const WAY: [&str; 3] = ["Envelope", "Body", "notifications"];

/// One notification of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Of 15 or 18 letters and digits.
    pub id: String,
    /// Where it stands in the body, its tags included.
    pub range: Range<usize>,
}

/// A message: whose it is, and what it tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Id of the org; empty where the message names none.
    pub org: String,
    /// In the order of the message.
    pub notifications: Vec<Notification>,
}

/// Reads a message.
///
/// # Errors
/// What is no message: not well-formed, without a notification, with more than 100, or with one that has no id.
pub fn message(body: &[u8]) -> Result<Message, Malformed> {
    let (mut message, mut id, mut wrong) = (Message::default(), None, None);
    elements(body, |element| {
        let within = element.parents.strip_prefix(&WAY[..]);
        match (within, element.name) {
            (Some([]), "OrganizationId") => {
                element.text.unwrap_or_default().trim().clone_into(&mut message.org);
            }
            (Some(["Notification"]), "Id") => {
                let text = element.text.map(str::trim).filter(|text| is_id(text));
                match text {
                    Some(text) if id.is_none() => id = Some(text.to_owned()),
                    _ => wrong = Some("a notification whose id is none, or that has several"),
                }
            }
            (Some([]), "Notification") => match id.take() {
                Some(_) if message.notifications.len() >= MAX_NOTIFICATIONS => {
                    wrong = Some("more than 100 notifications");
                }
                Some(id) => message.notifications.push(Notification { id, range: element.range.clone() }),
                None => wrong = Some("a notification without an id"),
            },
            _ => {}
        }
    })?;
    if message.notifications.is_empty() {
        wrong = wrong.or(Some("no notification"));
    }
    wrong.map_or(Ok(message), |what| Err(Malformed(what)))
}

fn is_id(text: &str) -> bool {
    matches!(text.len(), 15 | 18) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// True where an answer acknowledges a message: Salesforce sends one that is not acknowledged again.
pub fn acknowledged(body: &[u8]) -> bool {
    let (mut acks, mut all) = (0, true);
    let read = elements(body, |element| {
        if element.name == "Ack" {
            acks += 1;
            all &= matches!(element.text.map(str::trim), Some("true" | "1"));
        }
    });
    read.is_ok() && acks > 0 && all
}

#[cfg(test)]
mod tests {
    use super::{acknowledged, message};

    fn envelope(notifications: &str) -> String {
        format!(
            r#"<?xml version="1.0" encoding="UTF-8"?>
<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"><soapenv:Body>
<notifications xmlns="http://soap.sforce.com/2005/09/outbound"><OrganizationId>00D5e000000AbCdEAK</OrganizationId>
<ActionId>04k5e0000004C92AAE</ActionId><SessionId>not to be seen</SessionId>{notifications}</notifications>
</soapenv:Body></soapenv:Envelope>"#
        )
    }

    fn one(id: &str) -> String {
        format!(
            "<Notification><Id>{id}</Id><sObject xsi:type=\"sf:Lead\"><sf:Id>00Q5e000001AbCdEAK</sf:Id></sObject></Notification>"
        )
    }

    #[test]
    fn notifications_are_found_with_their_places() {
        let text = envelope(&(one("04l5e0000009abcAAA") + &one("04l5e0000009abd")));
        let found = message(text.as_bytes()).unwrap();
        assert_eq!(found.org, "00D5e000000AbCdEAK");
        let ids: Vec<&str> = found.notifications.iter().map(|one| one.id.as_str()).collect();
        assert_eq!(ids, ["04l5e0000009abcAAA", "04l5e0000009abd"]);
        assert_eq!(text[found.notifications[1].range.clone()], one("04l5e0000009abd"));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let many: String = (0..101).map(|n| one(&format!("04l5e00000{n:05}"))).collect();
        let id = "04l5e0000009abd";
        for notifications in [
            String::new(),
            many,
            one("short"),
            one("04l5e0000009ab<!---->c"),
            format!("<Notification><Id>{id}</Id><Id>{id}</Id></Notification>"),
            "<Notification/>".to_owned(),
            format!("<x>{}</x>", one(id)),
        ] {
            assert!(message(envelope(&notifications).as_bytes()).is_err(), "{notifications}");
        }
        assert!(message(b"{}").is_err());
    }

    #[test]
    fn an_answer_acknowledges_or_does_not() {
        let answer = |ack: &str| {
            format!(
                "<e:Envelope><e:Body><notificationsResponse>{ack}</notificationsResponse></e:Body></e:Envelope>"
            )
        };
        for (ack, expected) in [
            ("<Ack>true</Ack>", true),
            ("<x:Ack> true </x:Ack>", true),
            ("<Ack>1</Ack>", true),
            ("<Ack>false</Ack>", false),
            ("<Ack>true</Ack><Ack>false</Ack>", false),
            ("<Ack/>", false),
            ("", false),
        ] {
            assert_eq!(acknowledged(answer(ack).as_bytes()), expected, "{ack}");
        }
        assert!(!acknowledged(b"<Ack>true"));
    }
}
