//! A price book added to or taken from `configs/prices` must rebuild this crate; the
//! embedding macro only sees changes of files it already knows.

fn main() {
    println!("cargo::rerun-if-changed=../../configs/prices");
}
