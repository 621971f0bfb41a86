//! Catalogues of others: what is taken from them, what is left out, and that none of them, however
//! broken, does more than be refused.

#![allow(clippy::unwrap_used)] // clippy.toml's leave covers #[test] functions, not their helpers.

use costmark_econ::check::{check_lists, check_rental};
use costmark_econ::import::{Origin, import_litellm, import_skypilot, list_book, price_book};
use costmark_econ::{ListBook, ListBooks, PriceBook, PriceBooks, Term};
use jiff::civil::date;
use proptest::prelude::*;

fn origin() -> Origin {
    Origin {
        source: "a \"catalogue\" at 1234".into(),
        as_of: date(2026, 1, 31),
    }
}

/// Google's layout: hosts, and accelerators in rows without an instance.
const GCP: &str = "\
InstanceType,vCPUs,MemoryGiB,AcceleratorName,AcceleratorCount,GpuInfo,Region,AvailabilityZone,Price,SpotPrice
a2-highgpu-1g,12.0,85.0,,,,us-central1,us-central1-a,0.73948,0.36975
a2-highgpu-1g,12.0,85.0,,,,us-central1,us-central1-b,0.73948,0.36975
a3-highgpu-8g,208.0,1872.0,,,,us-central1,us-central1-a,9.46,2.89
a4-highgpu-8g,224.0,3968.0,,,,us-central1,us-central1-a,0.0,0.0
c4-standard-16,16.0,60.0,,,,us-central1,us-central1-a,0.79,0.079
,,,A100,1,A100,us-central1,us-central1-a,2.93391,1.4341
,,,B200,8,B200,us-central1,us-central1-a,90.216,34.2368
";

/// Another provider's order of columns; embedded quotes and commas.
const OTHER: &str = "\
InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,Price,Region,GpuInfo,SpotPrice
g1,H100,1,16,200,2.95,eu-north1,\"{'Gpus': [{'Name': 'H100', 'Count': 1}]}\",1.25
g2,H100,8,128,1600,23.60,eu-north1,\"{'a', \"\"b\"\"}\",23.60
g3,H100,8,128,1600,20.0,eu-north1,,2.0
g4,H100,8,128,1600,0,eu-north1,,
g5,H100,,128,1600,3,eu-north1,,
c1,,0,16,64,0.3968,eu-north1,,0.5
c1,,0,16,64,0.4968,eu-north1,,0.5
broken
";

#[test]
fn google_sells_host_and_accelerator_apart() {
    let found = import_skypilot("gcp.csv", GCP, "gcp", &origin()).unwrap();
    let price = |instance: &str, term| {
        found
            .prices
            .iter()
            .find(|p| p.instance == instance && p.term == term)
            .map(|p| p.usd_per_hour)
    };
    assert!((price("a2-highgpu-1g", Term::OnDemand).unwrap() - 3.67339).abs() < 1e-9);
    assert!((price("a2-highgpu-1g", Term::Spot).unwrap() - 1.80385).abs() < 1e-9);
    // A host part of 0 is Google's; the whole is the accelerators'.
    assert_eq!(price("a4-highgpu-8g", Term::OnDemand), Some(90.216));
    // Without its accelerators' row a host is a fraction of the price.
    assert_eq!(price("a3-highgpu-8g", Term::OnDemand), None);
    assert_eq!(price("c4-standard-16", Term::OnDemand), Some(0.79));
    assert_eq!(price("c4-standard-16", Term::Spot), None);
    let reasons: Vec<(usize, &str)> = found
        .rejected
        .iter()
        .map(|r| (r.line, r.reason.as_str()))
        .collect();
    assert!(
        reasons
            .iter()
            .any(|(line, r)| *line == 4 && r.contains("H100")),
        "{reasons:?}"
    );
    assert!(
        reasons
            .iter()
            .any(|(line, r)| *line == 6 && r.contains("a tenth")),
        "{reasons:?}"
    );
}

#[test]
fn placeholders_are_not_prices() {
    let found = import_skypilot("x.csv", OTHER, "acme", &origin()).unwrap();
    let names: Vec<(&str, Term)> = found
        .prices
        .iter()
        .map(|p| (p.instance.as_str(), p.term))
        .collect();
    assert_eq!(
        names,
        [
            ("c1", Term::OnDemand),
            ("c1", Term::Spot),
            ("g1", Term::OnDemand),
            ("g1", Term::Spot),
            ("g2", Term::OnDemand),
            ("g3", Term::OnDemand),
        ]
    );
    let c1 = &found.prices[0];
    assert_eq!(c1.usd_per_hour, 0.4968, "the dearest of the zones");
    assert!(c1.note.as_ref().unwrap().contains("zones"));
    assert!(found.prices[1].suspect.as_ref().unwrap().contains("dearer"));
    let reason = |name: &str| {
        let r = found.rejected.iter().find(|r| r.name == name);
        r.map(|r| r.reason.clone()).unwrap_or_default()
    };
    assert!(reason("g2").contains("on-demand price again"));
    assert!(reason("g3").contains("a tenth"));
    assert!(reason("g4").contains("a price of 0"));
    assert!(reason("g5").contains("no count"));
    // What was taken is a book that can be read, quotes in the source and all.
    let text = price_book("acme", &found.prices);
    let book = PriceBook::parse("acme.toml", &text).unwrap();
    assert_eq!(book.prices.len(), found.prices.len());
    assert!(book.prices.iter().all(|p| found.prices.contains(p)));
}

#[test]
fn what_is_no_catalogue_is_refused_by_file() {
    for (text, provider, hint) in [
        ("", "acme", "InstanceType"),
        ("a,b\n1,2\n", "acme", "InstanceType"),
        (OTHER, "a/b", "provider"),
    ] {
        let error = import_skypilot("x.csv", text, provider, &origin())
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("x.csv") && error.contains(hint),
            "{error}"
        );
    }
    for text in ["", "[]", "{", "3"] {
        let error = import_litellm("x.json", text, None, &origin())
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("x.json") && error.contains("LiteLLM"),
            "{error}"
        );
    }
}

const LITELLM: &str = r#"{
 "sample_spec": {"mode": "chat", "input_cost_per_token": 0.0},
 "acme/big": {"litellm_provider": "acme", "mode": "chat", "input_cost_per_token": 2e-06,
   "output_cost_per_token": 1e-05, "cache_read_input_token_cost": 2e-07,
   "cache_creation_input_token_cost": 2.5e-06, "input_cost_per_token_batches": 1e-06,
   "output_cost_per_token_batches": 5e-06, "input_cost_per_token_above_200k_tokens": 4e-06,
   "output_cost_per_token_above_200k_tokens": 1.5e-05, "deprecation_date": "2026-06-30"},
 "acme/free": {"litellm_provider": "acme", "mode": "chat", "input_cost_per_token": 0,
   "output_cost_per_token": 0},
 "acme/minus": {"litellm_provider": "acme", "mode": "chat", "input_cost_per_token": -1e-06,
   "output_cost_per_token": 1e-06},
 "acme/text": {"litellm_provider": "acme", "mode": "chat", "input_cost_per_token": "cheap",
   "output_cost_per_token": 1e-06},
 "acme/image": {"litellm_provider": "acme", "mode": "image_generation"},
 "other/m": {"litellm_provider": "other", "mode": "chat", "input_cost_per_token": 1e-06,
   "output_cost_per_token": 1e-06},
 "odd": 7
}"#;

#[test]
fn list_prices_per_million() {
    let found = import_litellm("x.json", LITELLM, Some("acme"), &origin()).unwrap();
    let [big] = found.prices.as_slice() else {
        unreachable!("{:?}", found.prices)
    };
    assert_eq!(
        (big.model.as_str(), big.input, big.output),
        ("big", 2.0, 10.0)
    );
    assert_eq!((big.cached_read, big.cache_write), (Some(0.2), Some(2.5)));
    assert_eq!((big.batch_input, big.batch_output), (Some(1.0), Some(5.0)));
    let long = big.long_context.unwrap();
    assert_eq!(
        (long.over_tokens, long.input, long.output),
        (200_000, 4.0, 15.0)
    );
    assert_eq!(big.retires, Some(date(2026, 6, 30)));
    let names: Vec<&str> = found.rejected.iter().map(|r| r.name.as_str()).collect();
    for name in ["acme/free", "acme/minus", "acme/text", "odd"] {
        assert!(names.contains(&name), "{names:?}");
    }
    assert_eq!(names.len(), 4);
    let text = list_book("acme", &found.prices);
    assert_eq!(
        ListBook::parse("acme.toml", &text).unwrap().prices,
        found.prices
    );
    let all = import_litellm("x.json", LITELLM, None, &origin()).unwrap();
    assert_eq!(all.prices.len(), 2);
}

#[test]
fn list_prices_that_come_along() {
    let books = ListBooks::embedded().unwrap();
    assert_eq!(books.prices().count(), 80);
    let found = books.find("deepinfra/qwen/qwen3-32b").unwrap();
    assert_eq!((found.input, found.output), (0.08, 0.28));
    for (model, is) in [
        ("qwen3-32b", true),
        ("Qwen/Qwen3-32B", true),
        ("models/Qwen3_32B/", true),
        ("qwen3-0.6b", false),
        ("qwen3-32b-base", false),
    ] {
        assert_eq!(found.is_of(model), is, "{model}");
    }
    assert_eq!(
        books.find("deepinfra/gpt-oss-20b").unwrap().output,
        0.14,
        "the last part is enough"
    );
    let haiku = books.find("anthropic/claude-haiku-5-5").unwrap();
    assert_eq!(haiku.long_context.unwrap().output, 2.5);
    assert!(
        !books
            .find("mistral/mistral-large-4")
            .unwrap()
            .caveats(date(2026, 11, 25))
            .is_empty()
    );
    let error = books
        .find("deepinfra/Qwen/Qwen3-33B")
        .unwrap_err()
        .to_string();
    assert!(error.contains("deepinfra/Qwen/Qwen3-32B"), "{error}");
    for (_, price) in books.prices() {
        assert!(price.output >= price.input, "{}", price.reference());
        assert!(
            price.cached_read.is_none_or(|c| c < price.input),
            "{}",
            price.reference()
        );
        assert_eq!(books.find(&price.reference()).unwrap(), price);
    }
}

const LIST: &str = r#"
schema_version = 1
provider = "acme"
[[list]]
source = "acme's page"
as_of = "2026-01-31"
unit = "usd_per_mtok"
models = [
  { model = "m", input = 1.0, output = 2.0 },
  { model = "n", input = 1.0, cached_read = 0.1, output = 2.0 },
]
"#;

#[test]
fn a_list_with_a_mistake_is_refused_by_file_and_entry() {
    for (from, to, hints) in [
        (
            "source = \"acme's page\"",
            "",
            &["missing field `source`"][..],
        ),
        (
            "source = \"acme's page\"",
            "source = ''",
            &["list 1: source is empty"],
        ),
        ("as_of = \"2026-01-31\"", "", &["missing field `as_of`"]),
        ("2026-01-31", "soon", &["list 1: as_of `soon`"]),
        (
            "usd_per_mtok",
            "eur_per_mtok",
            &["list 1: unit is `eur_per_mtok`"],
        ),
        (
            "unit =",
            "currency = \"EUR\"\nunit =",
            &["list 1: currency is EUR"],
        ),
        (
            "cached_read = 0.1",
            "cached_read = 0.0",
            &["list 1, entry 2 (n)", "cached_read is 0"],
        ),
        (
            "input = 1.0, output",
            "input = -1.0, output",
            &["list 1, entry 1 (m)", "input is -1"],
        ),
        ("\"n\"", "\"M\"", &["list 1, entry 2 (M)", "priced twice"]),
        ("cached_read", "cache_read", &["unknown field `cache_read`"]),
        (
            "output = 2.0 },\n  { model",
            "output = 2.0, batch_input = 1.0 },\n  { model",
            &["batch_input and batch_output"],
        ),
    ] {
        assert!(LIST.contains(from), "{from}");
        let error = ListBook::parse("acme.toml", &LIST.replacen(from, to, 1))
            .unwrap_err()
            .to_string();
        assert!(error.contains("acme.toml"), "{error}");
        for hint in hints {
            assert!(error.contains(hint), "{to}: {error}");
        }
    }
}

#[test]
fn a_careful_reader_objects() {
    let books = PriceBooks::embedded().unwrap();
    let on = |today| check_rental(books.prices(), today);
    let codes = |code: &str, found: &[costmark_econ::check::Objection]| {
        found.iter().filter(|o| o.code == code).count()
    };
    let early = on(date(2026, 7, 21));
    assert_eq!(codes("stale", &early), 0);
    assert!(codes("future", &early) > 0, "some were seen in November");
    let found = on(date(2026, 11, 25));
    // Lists of May 20 are 189 days old, those of June and July are not too old yet.
    assert!(codes("stale", &found) > 0 && codes("future", &found) == 0);
    assert!(
        found
            .iter()
            .all(|o| o.code != "stale" || !o.reference.starts_with("aws/"))
    );
    assert!(
        found
            .iter()
            .any(|o| o.code == "suspect" && o.reference.starts_with("nebius/"))
    );
    let azure = "azure/Standard_ND96isr_H100_v5@eastus:on_demand";
    let outlier = found
        .iter()
        .find(|o| o.code == "outlier" && o.reference == azure);
    assert!(
        outlier.is_some_and(|o| o.message.contains("H100 SXM")),
        "{found:?}"
    );
    let lists = ListBooks::embedded().unwrap();
    let retired = check_lists(lists.prices(), date(2026, 11, 25));
    assert!(
        retired
            .iter()
            .any(|o| o.code == "retired" && o.reference.contains("kimi-k2.5"))
    );
}

/// A text with some bytes changed, left out or repeated.
fn mutated(text: &'static str) -> impl Strategy<Value = String> {
    let edit = (0..text.len(), 0u8..3, any::<u8>());
    prop::collection::vec(edit, 1..12).prop_map(move |edits| {
        let mut bytes = text.as_bytes().to_vec();
        for (at, kind, byte) in edits {
            let at = at.min(bytes.len().saturating_sub(1));
            match kind {
                0 if !bytes.is_empty() => bytes[at] = byte,
                1 if !bytes.is_empty() => {
                    bytes.remove(at);
                }
                _ => bytes.insert(at, byte),
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

proptest! {
    /// Whatever a catalogue has become, it is read or refused; what is read is a sound book.
    #[test]
    fn mutated_csv(text in mutated(GCP), other in mutated(OTHER)) {
        for (text, provider) in [(&text, "gcp"), (&other, "acme"), (&other, "vast")] {
            if let Ok(found) = import_skypilot("x.csv", text, provider, &origin()) {
                let book = PriceBook::parse("x.toml", &price_book(provider, &found.prices));
                prop_assert!(book.is_ok() || found.prices.is_empty(), "{:?}", book);
                prop_assert!(found.prices.iter().all(|p| p.usd_per_hour > 0.0));
            }
        }
    }

    #[test]
    fn mutated_json(text in mutated(LITELLM)) {
        if let Ok(found) = import_litellm("x.json", &text, Some("acme"), &origin()) {
            let book = ListBook::parse("x.toml", &list_book("acme", &found.prices));
            prop_assert!(book.is_ok() || found.prices.is_empty(), "{:?}", book);
        }
    }

    #[test]
    fn mutated_books(text in mutated(LIST)) {
        if let Ok(book) = ListBook::parse("x.toml", &text) {
            prop_assert!(book.prices.iter().all(|p| p.input > 0.0 && p.output > 0.0));
        }
    }

    #[test]
    fn any_text(text in ".{0,300}") {
        let _ = import_skypilot("x.csv", &text, "acme", &origin());
        let _ = import_litellm("x.json", &text, None, &origin());
        let _ = ListBook::parse("x.toml", &text);
        let _ = costmark_econ::ClaimFile::parse("x.toml", &text);
    }
}
