//! Data to stdout. A reader that has gone away (`costmark probe | head -1`) is no error.

use std::io::{ErrorKind, Write};

use costmark_report::{WIDTH, inert};
use serde::Serialize;

use crate::failure::{Failure, Result};

/// How many columns stdout has; as wide as a result gets where it is no terminal.
pub(crate) fn columns() -> u16 {
    terminal_size::terminal_size_of(std::io::stdout()).map_or(WIDTH, |(width, _)| width.0)
}

/// Writes `text` for people: names in it, whoever gave them, cannot act on a terminal.
pub(crate) fn text(text: &str) -> Result<()> {
    raw(&inert(text))
}

/// Writes `text` as it is.
pub(crate) fn raw(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::run(format!("cannot write to stdout: {e}")))
        }
        _ => Ok(()),
    }
}

/// Writes `value` as indented JSON and a newline.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    let mut json = serde_json::to_string_pretty(value)
        .map_err(|e| Failure::run(format!("cannot write the result as JSON: {e}")))?;
    json.push('\n');
    raw(&json)
}
