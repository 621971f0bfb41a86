//! The books that come along, the file format, and finding a price.

// The lint knows test functions, not their helpers.
#![allow(clippy::unwrap_used)]

use costmark_econ::{BookError, LookupError, PriceBasis, PriceBook, PriceBooks, PriceChoice, Term};
use jiff::civil::date;

const BOOK: &str = r#"
schema_version = 1
provider = "acme"
default_cpu_instance = "c1"

[[quote]]
source = "acme price list"
as_of = "2026-01-31"
region = "north"
term = "on_demand"
prices = [
  { instance = "g1", accelerator = "H100 SXM", accelerator_count = 2, vcpus = 8, memory_gib = 64, usd_per_hour = 5.0 },
  { instance = "c1", vcpus = 4, memory_gib = 16, usd_per_hour = 0.2 },
  { instance = "c1", region = "south", vcpus = 4, usd_per_hour = 0.3, suspect = "half of the usual price" },
]

[[quote]]
source = "acme price list"
as_of = "2026-01-31"
region = "north"
term = "spot"
prices = [
  { instance = "g1", accelerator = "H100 SXM", accelerator_count = 2, usd_per_hour = 2.0 },
  { instance = "s1", usd_per_hour = 0.1 },
]
"#;

fn books() -> PriceBooks {
    let mut books = PriceBooks::default();
    books.push(PriceBook::parse("acme.toml", BOOK).unwrap());
    books
}

fn find(reference: &str) -> f64 {
    books().find(reference).unwrap().price.usd_per_hour
}

#[test]
fn the_books_that_come_along() {
    let books = PriceBooks::embedded().unwrap();
    let p5 = books.find("aws/p5.4xlarge").unwrap();
    assert_eq!(p5.price.usd_per_hour, 6.88);
    assert_eq!(p5.price.as_of, date(2026, 7, 20));
    assert_eq!(
        p5.basis,
        PriceBasis::Book {
            file: "configs/prices/rental/aws.toml".into()
        }
    );
    assert!(p5.caveats().is_empty());
    assert_eq!(
        books
            .find("azure/standard_nd96isr_h100_v5:spot")
            .unwrap()
            .price
            .usd_per_hour,
        18.169_536
    );
    assert_eq!(
        books.find("vast/1x-H200-32-65536").unwrap().price.term,
        Term::Marketplace
    );
    let doubted = books.find("gcp/a3-highgpu-8g").unwrap();
    assert!(
        doubted.caveats()[0].starts_with("The price is suspect: "),
        "{:?}",
        doubted.caveats()
    );

    let mut providers: Vec<_> = books.prices().map(|(_, p)| p.provider.clone()).collect();
    providers.dedup();
    assert_eq!(
        providers,
        [
            "aws",
            "azure",
            "gcp",
            "lambda",
            "nebius",
            "runpod",
            "shadeform",
            "vast",
            "verda"
        ]
    );
    for (file, price) in books.prices() {
        // Every price is found again by its own reference, and costs what such things cost:
        // an accelerator between 10 cents and 30 dollars an hour, a vCPU a cent to 10 cents.
        let found = books.find(&price.reference()).unwrap();
        assert_eq!(&found.price, price, "{file}");
        let rate = price
            .usd_per_accelerator_hour()
            .unwrap_or_else(|| price.usd_per_hour / f64::from(price.vcpus.unwrap()) * 10.0);
        assert!(
            (0.07..30.0).contains(&rate),
            "{file}: {} at {rate}",
            price.reference()
        );
    }
}

#[test]
fn a_reference_finds_one_price() {
    assert_eq!(find("acme/g1"), 5.0);
    assert_eq!(find("ACME/G1@North"), 5.0);
    assert_eq!(find("acme/g1:spot"), 2.0);
    assert_eq!(find("acme/s1"), 0.1, "the only term there is");
    assert_eq!(find("acme/c1@south"), 0.3);
    assert_eq!(
        books().find("acme/c1@south").unwrap().caveats(),
        ["The price is suspect: half of the usual price."]
    );
}

#[test]
fn errors_show_the_way() {
    let message = |reference: &str| books().find(reference).unwrap_err().to_string();
    assert!(
        message("acme/g2").contains("did you mean acme/g1"),
        "{}",
        message("acme/g2")
    );
    assert!(
        message("g1").contains("has no provider (did you mean acme/g1?)"),
        "{}",
        message("g1")
    );
    assert!(message("acme/g1:hourly").contains("on_demand, spot, reserved_1y"));
    assert!(message("acme/g1@west").contains("acme/g1@north:on_demand"));
    assert!(message("acme/").contains("a part of it is empty"));
    assert!(message("zzz/qqqqq").contains("costmark prices list"));
    let LookupError::Ambiguous { candidates, .. } = books().find("acme/c1").unwrap_err() else {
        panic!("two regions")
    };
    assert_eq!(
        candidates,
        ["acme/c1@north:on_demand", "acme/c1@south:on_demand"]
    );
}

#[test]
fn a_later_book_wins() {
    let mut books = books();
    let mine = BOOK.replace("usd_per_hour = 5.0", "usd_per_hour = 4.5");
    books.push(PriceBook::parse("mine.toml", &mine).unwrap());
    let found = books.find("acme/g1").unwrap();
    assert_eq!(found.price.usd_per_hour, 4.5);
    assert_eq!(
        found.basis,
        PriceBasis::Book {
            file: "mine.toml".into()
        }
    );
    assert_eq!(books.prices().count(), 5);
}

#[test]
fn the_default_is_per_vcpu_and_says_so() {
    let choice = books().default_for_vcpus(6).unwrap();
    assert!((choice.price.usd_per_hour - 0.3).abs() < 1e-15);
    assert_eq!(choice.price.vcpus, Some(6));
    assert!(
        choice.describe().contains("by default: 6 vCPU"),
        "{}",
        choice.describe()
    );
    assert!(
        choice.describe().contains("acme/c1@north"),
        "{}",
        choice.describe()
    );
    assert!(choice.caveats()[0].contains("--price"));
    assert!(matches!(
        books().default_for_vcpus(0),
        Err(LookupError::Value(_))
    ));
    assert_eq!(
        PriceBooks::default().default_for_vcpus(2),
        Err(LookupError::NoDefault)
    );
    // 3.70944 USD for 64 vCPU.
    let real = PriceBooks::embedded()
        .unwrap()
        .default_for_vcpus(2)
        .unwrap();
    assert!((real.price.usd_per_hour - 0.115_92).abs() < 1e-12);
}

#[test]
fn a_stated_price() {
    let today = date(2026, 11, 2);
    let choice = PriceChoice::stated(3.99, today).unwrap();
    assert_eq!(
        (choice.price.as_of, choice.price.source.as_str()),
        (today, "stated by user")
    );
    assert_eq!(choice.describe(), "$3.99/h, stated by user");
    assert_eq!(
        choice.cost_model(0.5, 1.0).unwrap().usd_per_loaded_hour(),
        7.98
    );
    assert!(choice.cost_model(1.5, 1.0).is_err());
    for bad in [0.0, -1.0, f64::NAN] {
        assert!(PriceChoice::stated(bad, today).is_err());
    }
    let json = serde_json::to_string(&choice).unwrap();
    assert_eq!(serde_json::from_str::<PriceChoice>(&json).unwrap(), choice);
}

#[test]
fn a_book_with_a_mistake_is_refused_by_file_and_entry() {
    for (from, to, hint) in [
        ("source = \"acme price list\"", "", "missing field `source`"),
        (
            "source = \"acme price list\"",
            "source = \" \"",
            "quote 1: source is empty",
        ),
        ("as_of = \"2026-01-31\"", "", "missing field `as_of`"),
        (
            "as_of = \"2026-01-31\"",
            "as_of = \"January\"",
            "quote 1: as_of `January` is not a date",
        ),
        (
            "as_of = \"2026-01-31\"",
            "as_of = \"2026-02-30\"",
            "is not a date",
        ),
        (
            "term = \"spot\"",
            "term = \"sport\"",
            "unknown variant `sport`",
        ),
        ("region = \"north\"", "", "quote 1, entry 1 (g1): no region"),
        (
            "region = \"north\"",
            "region = \"a b\"",
            "must not be empty or hold spaces",
        ),
        (
            "usd_per_hour = 5.0",
            "usd_per_hour = 0.0",
            "quote 1, entry 1 (g1): usd_per_hour is 0",
        ),
        (
            "usd_per_hour = 5.0",
            "usd_per_hour = nan",
            "must be a positive price",
        ),
        (
            "usd_per_hour = 5.0",
            "usd_per_hr = 5.0",
            "unknown field `usd_per_hr`",
        ),
        (
            "accelerator_count = 2, vcpus",
            "vcpus",
            "needs an accelerator_count",
        ),
        (
            "instance = \"c1\", vcpus",
            "instance = \"c1\", accelerator_count = 3, vcpus",
            "no accelerator is named",
        ),
        ("vcpus = 8", "vcpus = 0", "vcpus is 0"),
        (
            "memory_gib = 64",
            "memory_gib = -1.0",
            "memory_gib must be positive",
        ),
        (
            "suspect = \"half of the usual price\"",
            "suspect = \"\"",
            "quote 1, entry 3 (c1): suspect is empty",
        ),
        (
            "region = \"south\"",
            "region = \"north\"",
            "acme/c1@north:on_demand is priced twice",
        ),
        (
            "default_cpu_instance = \"c1\"",
            "default_cpu_instance = \"g1\"",
            "default_cpu_instance `g1`",
        ),
        (
            "schema_version = 1",
            "schema_version = 9",
            "this costmark reads 1",
        ),
        (
            "provider = \"acme\"",
            "provider = \"a/b\"",
            "provider `a/b`",
        ),
        ("[[quote]]", "[[qoute]]", "acme.toml"),
        ("prices = [", "prices = [[", "line "),
    ] {
        assert!(BOOK.contains(from), "{from}");
        let text = BOOK.replacen(from, to, 1);
        let message = PriceBook::parse("acme.toml", &text)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("acme.toml") && message.contains(hint),
            "{to}: {message}"
        );
    }
}

#[test]
fn a_book_of_the_users_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.toml");
    std::fs::write(&path, BOOK).unwrap();
    assert_eq!(PriceBook::load(&path).unwrap().prices.len(), 5);
    let missing = PriceBook::load(&dir.path().join("none.toml")).unwrap_err();
    assert!(matches!(missing, BookError::Read { .. }));
    assert!(missing.to_string().contains("none.toml"));
}
