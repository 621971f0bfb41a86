//! Keys and headers: sent to the server, shown to nobody.

use std::fmt;

use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

use super::error::ConnectError;

const HIDDEN: &str = "[hidden]";
/// Shorter texts are no secrets, and hiding them would hide half of every message.
const SHORTEST_SECRET: usize = 4;

/// What proves to a server who is asking.
#[derive(Clone, Default)]
pub struct Secrets {
    headers: HeaderMap,
    /// What must not appear in any message.
    values: Vec<String>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({} headers)", self.headers.len())
    }
}

impl Secrets {
    /// From an API key and `Name: value` lines, as they stand in the environment.
    ///
    /// # Errors
    /// When one of them cannot be sent; the message does not repeat it.
    pub fn new(api_key: Option<&str>, headers: Option<&str>) -> Result<Self, ConnectError> {
        let mut secrets = Self::default();
        if let Some(key) = api_key.map(str::trim).filter(|key| !key.is_empty()) {
            secrets.add(AUTHORIZATION, &format!("Bearer {key}"), "the API key")?;
            secrets.hide(key);
        }
        let lines = headers.unwrap_or("").lines().enumerate();
        for (i, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
            let what = format!("line {} of the headers", i + 1);
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| ConnectError::Input(format!("{what} is not `Name: value`")))?;
            let name = HeaderName::from_bytes(name.trim().as_bytes())
                .map_err(|_| ConnectError::Input(format!("{what} has no valid name")))?;
            secrets.add(name, value.trim(), &what)?;
        }
        Ok(secrets)
    }

    fn add(&mut self, name: HeaderName, value: &str, what: &str) -> Result<(), ConnectError> {
        let mut header = HeaderValue::from_str(value).map_err(|_| {
            ConnectError::Input(format!("{what} has characters no header may have"))
        })?;
        header.set_sensitive(true);
        self.headers.insert(name, header);
        self.hide(value);
        Ok(())
    }

    fn hide(&mut self, value: &str) {
        if value.len() >= SHORTEST_SECRET {
            self.values.push(value.to_owned());
            // `Bearer x` is hidden whole before its part.
            self.values
                .sort_by_key(|value| std::cmp::Reverse(value.len()));
        }
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// `text` without any of them: servers repeat keys in their error messages.
    pub(crate) fn scrub(&self, text: &str) -> String {
        self.values
            .iter()
            .fold(text.to_owned(), |text, value| text.replace(value, HIDDEN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_secret_is_shown() {
        let secrets = Secrets::new(Some(" sk-12345\n"), Some("X-Team: blue-whale\n\n")).unwrap();
        assert_eq!(secrets.headers().len(), 2);
        let echo = "got Bearer sk-12345, sk-12345 and blue-whale";
        let shown = secrets.scrub(echo);
        assert_eq!(shown, "got [hidden], [hidden] and [hidden]");
        let debug = format!("{secrets:?} {:?}", secrets.headers());
        assert!(!debug.contains("12345") && !debug.contains("whale"));
    }

    #[test]
    fn what_cannot_be_sent_is_refused_without_repeating_it() {
        for (key, headers) in [
            (Some("hush\u{1}hush"), None),
            (None, Some("hush")),
            (None, Some("bad name: hush")),
        ] {
            let message = Secrets::new(key, headers).unwrap_err().to_string();
            assert!(!message.contains("hush"), "{message}");
        }
    }
}
