//! A datasheet added to or taken from `configs/hardware` must rebuild this crate; the
//! embedding macro only sees changes of files it already knows.

fn main() {
    println!("cargo::rerun-if-changed=../../configs/hardware");
}
