//! Server-sent events, taken apart as their bytes come.
//!
//! Follows the `text/event-stream` grammar of the HTML standard (line ends `\n`, `\r\n` and
//! `\r`, comments, several `data` lines), but refuses fields the standard does not know: an
//! error page that is served as a stream must not read as a stream without events.

use std::mem;

/// Longest line that is kept; no token event comes near it.
const MAX_LINE_BYTES: usize = 4 << 20;

/// Takes bytes in any portions and hands out the data of each event once it is complete.
#[derive(Debug, Default)]
pub(crate) struct SseParser {
    /// A line whose end has not come.
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// The last byte was `\r`: a `\n` now belongs to it.
    after_cr: bool,
    begun: bool,
}

/// The bytes are no event stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SseError {
    #[error("`{0}` is no line of an event stream")]
    UnknownField(String),
    #[error("a line of an event stream is longer than {MAX_LINE_BYTES} bytes")]
    TooLong,
    #[error("an event is not UTF-8 text")]
    NotText,
}

impl SseParser {
    /// Takes in `bytes`; `on_data` is called with the data of each event they complete.
    pub(crate) fn feed<E: From<SseError>>(
        &mut self,
        mut bytes: &[u8],
        mut on_data: impl FnMut(&str) -> Result<(), E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            if mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = bytes.iter().position(|&b| b == b'\n' || b == b'\r') else {
                if self.line.len() + bytes.len() > MAX_LINE_BYTES {
                    return Err(SseError::TooLong.into());
                }
                self.line.extend_from_slice(bytes);
                return Ok(());
            };
            self.after_cr = bytes[end] == b'\r';
            let (head, rest) = (&bytes[..end], &bytes[end + 1..]);
            bytes = rest;
            if self.line.is_empty() {
                self.on_line(head, &mut on_data)?;
            } else {
                let mut line = mem::take(&mut self.line);
                line.extend_from_slice(head);
                let result = self.on_line(&line, &mut on_data);
                line.clear();
                self.line = line; // its room is used again
                result?;
            }
        }
        Ok(())
    }

    fn on_line<E: From<SseError>>(
        &mut self,
        line: &[u8],
        on_data: &mut impl FnMut(&str) -> Result<(), E>,
    ) -> Result<(), E> {
        let line = if mem::replace(&mut self.begun, true) {
            line
        } else {
            line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line)
        };
        if line.is_empty() {
            return self.dispatch(on_data);
        }
        let colon = line.iter().position(|&b| b == b':');
        let (field, value) = match colon {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &[][..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"" | b"event" | b"id" | b"retry" => Ok(()),
            b"data" => {
                if self.data.len() + value.len() > MAX_LINE_BYTES {
                    return Err(SseError::TooLong.into());
                }
                if mem::replace(&mut self.has_data, true) {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
                Ok(())
            }
            _ => {
                let shown = String::from_utf8_lossy(&line[..line.len().min(60)]).into_owned();
                Err(SseError::UnknownField(shown).into())
            }
        }
    }

    fn dispatch<E: From<SseError>>(
        &mut self,
        on_data: &mut impl FnMut(&str) -> Result<(), E>,
    ) -> Result<(), E> {
        if !mem::take(&mut self.has_data) {
            return Ok(());
        }
        let data = mem::take(&mut self.data);
        let result = match std::str::from_utf8(&data) {
            Ok(text) => on_data(text),
            Err(_) => Err(SseError::NotText.into()),
        };
        self.data = data;
        self.data.clear();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(portions: &[&[u8]]) -> Result<Vec<String>, SseError> {
        let (mut parser, mut events) = (SseParser::default(), Vec::new());
        for portion in portions {
            parser.feed(portion, |data| {
                events.push(data.to_owned());
                Ok::<(), SseError>(())
            })?;
        }
        Ok(events)
    }

    #[test]
    fn grammar() {
        let stream = "\u{feff}data: a\n\n: comment\r\nevent: x\r\ndata:b\r\ndata:  c\r\n\r\n\
                      retry: 3\r\rid\n\ndata\n\ndata: never ended";
        assert_eq!(parse(&[stream.as_bytes()]).unwrap(), ["a", "b\n c", ""]);
        let page = parse(&[b"<html><body>bad gateway\n"]);
        assert!(matches!(page, Err(SseError::UnknownField(line)) if line.starts_with("<html>")));
        assert_eq!(parse(&[b"data: \xff\n\n"]), Err(SseError::NotText));
    }

    #[test]
    fn a_line_without_an_end_is_not_kept_for_ever() {
        let portion = vec![b'x'; MAX_LINE_BYTES / 2 + 1];
        assert_eq!(parse(&[&portion, &portion]), Err(SseError::TooLong));
    }

    proptest! {
        /// However the bytes are cut, within a character or a line end, the events are the same.
        #[test]
        fn portions_do_not_matter(
            events in prop::collection::vec("[a-zé漢🦀:{} ]{0,12}", 0..8),
            ends in prop::collection::vec(prop::sample::select(vec!["\n", "\r\n", "\r"]), 8),
            cuts in prop::collection::vec(0usize..200, 0..20),
        ) {
            let mut stream = Vec::new();
            for (event, end) in events.iter().zip(&ends) {
                stream.extend(format!("data: {event}{end}{end}").bytes());
            }
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(stream.len())).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let portions: Vec<&[u8]> = cuts.windows(2).map(|w| &stream[w[0]..w[1]]).collect();
            prop_assert_eq!(parse(&portions).unwrap(), events);
        }
    }
}
