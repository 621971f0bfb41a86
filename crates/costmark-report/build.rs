//! Takes Plotly's script out of the `plotly` crate and packs it for the page.
//!
//! The crate carries the library as published, so the page works without a network and no
//! foreign script is kept in this repository. Packed here, it costs the binary 1.9 MB instead
//! of 4.7, and writing a page no time.

use std::io::Write;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let sources = plotly::Plot::offline_js_sources();
    let begin = sources
        .find("plotly.js v")
        .ok_or("plotly: no script with its banner")?;
    let opening = sources[..begin]
        .rfind("<script")
        .ok_or("plotly: no script element")?;
    let text = &sources[opening..];
    let text = &text[text.find('>').ok_or("plotly: the element has no end")? + 1..];
    // The scripts after it follow in elements of their own.
    let end = text
        .find("<script type=\"text/javascript\">")
        .unwrap_or(text.len());
    let end = text[..end]
        .rfind("</script>")
        .ok_or("plotly: the element is not closed")?;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&text.as_bytes()[..end])?;
    let path = PathBuf::from(std::env::var("OUT_DIR")?).join("plotly.js.gz.base64");
    std::fs::write(path, STANDARD.encode(encoder.finish()?))?;
    Ok(())
}
