//! Forms with secrets in them (WHATWG URL, application/x-www-form-urlencoded).

use foregate_filters::percent;
use zeroize::Zeroizing;

/// Room for a form: a token of 16 KiB, each byte of it written as three, and what goes with it.
const ROOM: usize = 64 * 1024;

/// Members in the order they were added; overwritten when dropped, never printed.
pub struct Form(Zeroizing<String>);

impl Default for Form {
    /// An empty form, with room for all of it: growing would leave copies behind.
    fn default() -> Self {
        Self(Zeroizing::new(String::with_capacity(ROOM)))
    }
}

impl Form {
    /// Adds one member.
    pub fn add(&mut self, name: &str, value: &str) {
        if !self.0.is_empty() {
            self.0.push('&');
        }
        encode(name, &mut self.0);
        self.0.push('=');
        encode(value, &mut self.0);
    }

    /// The body to send.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.as_bytes().to_vec()
    }
}

impl std::fmt::Debug for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Form")
    }
}

/// Writes `text` so that it can stand in a form, and in the user name or password of RFC 6749, section 2.3.1.
pub fn encode(text: &str, into: &mut String) {
    percent::push(into, text.bytes(), |byte| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'*' | b'-' | b'.' | b'_')
    });
}

#[cfg(test)]
mod tests {
    use super::Form;

    #[test]
    fn members_keep_their_bounds() {
        let mut form = Form::default();
        form.add("token", "a&b=c d+é");
        form.add("scope", "x-1_2.*~");
        assert_eq!(form.bytes(), b"token=a%26b%3Dc%20d%2B%C3%A9&scope=x-1_2.*%7E");
        assert_eq!(format!("{form:?}"), "Form");
    }
}
