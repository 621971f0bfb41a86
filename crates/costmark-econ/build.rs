//! A file added to or taken from these folders must rebuild this crate; the embedding macro
//! only sees changes of files it already knows.

fn main() {
    for folder in ["prices/rental", "prices/api", "claims", "scenarios"] {
        println!("cargo::rerun-if-changed=../../configs/{folder}");
    }
}
