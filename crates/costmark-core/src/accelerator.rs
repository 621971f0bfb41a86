//! What accelerators are called: drivers and price lists name the same one differently.

use std::collections::BTreeSet;

/// How much of what `driver` says, e.g. `NVIDIA A100-SXM4-80GB`, stands in `listed`, e.g.
/// `A100 80GB SXM`: the number of its words, if they all are there. The listed name with most is
/// the one that is meant.
#[must_use]
pub fn likeness(driver: &str, listed: &str) -> Option<usize> {
    let listed = words(listed);
    (!listed.is_empty() && listed.is_subset(&words(driver))).then_some(listed.len())
}

/// The words that tell accelerators apart.
fn words(name: &str) -> BTreeSet<String> {
    let mut words: BTreeSet<String> = name
        .to_uppercase()
        .split([' ', '-', '_'])
        .filter(|word| !word.is_empty())
        .map(|word| match word {
            "SXM2" | "SXM3" | "SXM4" | "SXM5" | "SXM6" => "SXM".into(),
            word => word.to_string(),
        })
        .collect();
    // So the driver calls the module that others call SXM.
    if words.contains("HBM3") {
        words.insert("SXM".into());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_same_thing_are_alike() {
        assert_eq!(likeness("NVIDIA H200", "H200"), Some(1));
        assert_eq!(likeness("NVIDIA H100 80GB HBM3", "H100 SXM"), Some(2));
        assert_eq!(likeness("NVIDIA A100-SXM4-80GB", "A100 80GB SXM"), Some(3));
        assert_eq!(likeness("NVIDIA A100-SXM4-80GB", "A100 SXM"), Some(2));
    }

    #[test]
    fn others_are_not() {
        assert_eq!(likeness("NVIDIA H100 PCIe", "H100 SXM"), None);
        assert_eq!(likeness("NVIDIA GH200 480GB", "H200"), None);
        assert_eq!(likeness("NVIDIA L40", "L40S"), None);
        assert_eq!(likeness("NVIDIA H200", ""), None);
    }
}
