//! Where a server is.

use std::fmt;
use std::str::FromStr;

use super::error::ConnectError;

/// The address of a server: scheme, host, port and what comes before `/v1`.
///
/// Holds no secret: an address with a password or a query is refused, since addresses go
/// into results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Path before `/v1/…`, without a slash at its end.
    pub(crate) base: String,
}

impl Endpoint {
    /// Whether the server runs on this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost"
            || host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }

    /// `host:port` for the `Host` header.
    pub(crate) fn authority(&self) -> String {
        let default = if self.tls { 443 } else { 80 };
        if self.port == default {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Host as it is resolved and checked in certificates.
    pub(crate) fn host_name(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.base)
    }
}

impl FromStr for Endpoint {
    type Err = ConnectError;

    /// `http://host:port`, with or without `/v1` at its end.
    fn from_str(text: &str) -> Result<Self, ConnectError> {
        let wrong = |why: &str| ConnectError::Input(format!("the endpoint's address {why}"));
        let url = url::Url::parse(text).map_err(|_| {
            wrong("cannot be read; write http://HOST:PORT, such as http://localhost:8000")
        })?;
        // Not repeated in the message: it may hold a secret.
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong(
                "holds a user or password; keep secrets in the environment (COSTMARK_API_KEY)",
            ));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong(
                "has a query or fragment; leave it out, and keep secrets in the environment \
                 (COSTMARK_API_KEY)",
            ));
        }
        let tls = match url.scheme() {
            "http" => false,
            "https" => true,
            _ => return Err(wrong("must begin with http:// or https://")),
        };
        let host = url.host_str().ok_or_else(|| wrong("names no host"))?;
        let base = url.path().trim_end_matches('/');
        Ok(Self {
            tls,
            host: host.to_owned(),
            port: url.port().unwrap_or(if tls { 443 } else { 80 }),
            base: base.strip_suffix("/v1").unwrap_or(base).to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_people_write_them() {
        for (text, shown) in [
            ("http://localhost:8000", "http://localhost:8000"),
            ("http://localhost:8000/v1/", "http://localhost:8000"),
            ("https://api.example.com/v1", "https://api.example.com"),
            ("https://example.com/proxy/v1", "https://example.com/proxy"),
            ("http://[::1]:9", "http://[::1]:9"),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), shown);
        }
        let local: Endpoint = "http://[::1]:9".parse().unwrap();
        assert!(local.is_loopback());
        assert_eq!(local.host_name(), "::1");
    }

    #[test]
    fn secrets_in_addresses_are_refused_and_not_repeated() {
        for text in [
            "http://user:hush@localhost:1",
            "https://hush@h/v1",
            "http://h/v1?key=hush",
            "ftp://hush",
            "hush",
        ] {
            let message = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(!message.contains("hush"), "{message}");
        }
    }
}
