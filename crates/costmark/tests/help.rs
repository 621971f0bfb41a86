//! Help texts, word for word: they are part of the product.

#![allow(clippy::unwrap_used)] // clippy.toml's leave covers #[test] functions, not their helpers.

mod common;

use common::{Place, stdout};

#[track_caller]
fn help(args: &[&str]) -> String {
    stdout(Place::new().costmark(args).env("COLUMNS", "100"))
}

#[test]
fn overview() {
    insta::assert_snapshot!(help(&["--help"]));
}

#[test]
fn run() {
    insta::assert_snapshot!(help(&["run", "--help"]));
}

#[test]
fn others() {
    insta::assert_snapshot!("probe", help(&["probe", "--help"]));
    insta::assert_snapshot!("model_info", help(&["model", "info", "--help"]));
    insta::assert_snapshot!("generate", help(&["generate", "--help"]));
    insta::assert_snapshot!("serve", help(&["serve", "--help"]));
    insta::assert_snapshot!("compare", help(&["compare", "--help"]));
    insta::assert_snapshot!("report", help(&["report", "--help"]));
}

#[test]
fn the_version_names_the_source() {
    let text = help(&["--version"]);
    assert!(text.starts_with(concat!("costmark ", env!("CARGO_PKG_VERSION"))));
    assert!(text.contains("debug") || text.contains("release"));
}
