//! The verbs of money as processes: what they answer, and how they refuse.

#![allow(clippy::unwrap_used)] // clippy.toml's leave covers #[test] functions, not their helpers.

mod common;

use common::{Place, stderr, stdout};
use serde_json::Value;

fn json(place: &Place, args: &[&str]) -> Value {
    serde_json::from_str(&stdout(&mut place.costmark(args))).unwrap()
}

#[track_caller]
fn refused(place: &Place, args: &[&str], says: &[&str]) {
    let text = stderr(&mut place.costmark(args), 2);
    for part in says {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

/// A place with a measured run in `r`, and its document.
fn measured() -> (Place, Value) {
    let place = Place::new();
    stdout(&mut place.run(&[
        "-o",
        "r",
        "--concurrency",
        "1,2",
        "--repeats",
        "2",
        "--quiet",
    ]));
    let document = place.document("r");
    (place, document)
}

#[track_caller]
fn close(a: &Value, b: f64) {
    let a = a.as_f64().unwrap();
    assert!((a / b - 1.0).abs() < 1e-9, "{a} is not {b}");
}

fn narrow(text: &str) {
    for line in text.lines() {
        assert!(
            line.chars().count() <= 100,
            "{} columns: {line}",
            line.chars().count()
        );
    }
}

#[test]
fn a_run_at_other_prices() {
    let (place, run) = measured();
    let was = |level: usize, key: &str| run["levels"][level][key]["value"].as_f64().unwrap();
    // Measured at $1 an hour; at $3 for half of the machine, used 60 % of the time: 2.5 times.
    let priced = json(
        &place,
        &[
            "price",
            "r",
            "--price",
            "3",
            "--share",
            "0.5",
            "--utilization",
            "0.6",
            "--json",
        ],
    );
    for key in [
        "usd_per_mtok_input",
        "usd_per_mtok_output",
        "usd_per_mtok_blended",
    ] {
        close(&priced["levels"][1][key]["value"], was(1, key) * 2.5);
    }
    let low = run["levels"][1]["usd_per_mtok_output"]["low"]
        .as_f64()
        .unwrap();
    close(
        &priced["levels"][1]["usd_per_mtok_output"]["low"],
        low * 2.5,
    );
    let own = json(&place, &["price", "r", "--json"]);
    close(
        &own["levels"][0]["usd_per_mtok_output"]["value"],
        was(0, "usd_per_mtok_output"),
    );

    let instance = json(
        &place,
        &["price", "r", "--instance", "aws/p5.4xlarge", "--json"],
    );
    close(&instance["usd_per_hour"], 6.88);
    // $8760 over a year is a dollar an hour; 6 minutes lost every 10 hours are 1 %.
    let reserved = ["--price", "1", "--upfront", "8760", "--reserved-years", "1"];
    let spot = [
        "--interruptions-per-hour",
        "0.1",
        "--minutes-lost",
        "6",
        "--json",
    ];
    let both = json(
        &place,
        &[&["price", "r"][..], &reserved[..], &spot[..]].concat(),
    );
    close(&both["usd_per_hour"], 2.0 / 0.99);
    // $8760 over a year, 1 kW around the clock at 10 cents: $1.10 an hour.
    let owned = [
        "price",
        "r",
        "--capex",
        "8760",
        "--life-years",
        "1",
        "--load-kw",
        "1",
    ];
    let power = [
        "--pue",
        "1",
        "--usd-per-kwh",
        "0.1",
        "--utilization",
        "1",
        "--json",
    ];
    close(
        &json(&place, &[&owned[..], &power[..]].concat())["usd_per_hour"],
        1.1,
    );

    let usage = ["--usage-input", "1000", "--usage-output", "100", "--json"];
    let chat = json(&place, &[&["price", "r"][..], &usage[..]].concat());
    let best = (0..2)
        .min_by(|&a, &b| was(a, "usd_per_mtok_output").total_cmp(&was(b, "usd_per_mtok_output")));
    let best = best.unwrap();
    let request =
        (1000.0 * was(best, "usd_per_mtok_input") + 100.0 * was(best, "usd_per_mtok_output")) / 1e6;
    close(&chat["usage"]["usd_per_request"]["value"], request);
    close(
        &chat["usage"]["usd_per_user_month"]["value"],
        request * 100.0,
    );

    let text = stdout(&mut place.costmark(&["price", "r", "--instance", "gcp/a3-highgpu-8g"]));
    assert!(text.contains("suspect"), "the mark is carried: {text}");
    narrow(&text);
}

#[test]
fn a_margin_and_what_must_change() {
    let (place, run) = measured();
    let list = ["--list-input", "100", "--list-output", "100"];
    let args = [&["margin", "r"][..], &list[..]].concat();
    let found = json(&place, &[&args[..], &["--level", "2", "--json"]].concat());
    let rate = run["levels"][1]["summary"]["total_tok_per_s"]["value"]
        .as_f64()
        .unwrap();
    // One price for all tokens: revenue is it, cost is a dollar an hour over the rate.
    let cost = 1.0 / 3600.0 / rate * 1e6;
    close(&found["margin"]["revenue_usd_per_mtok"], 100.0);
    close(&found["margin"]["inference_usd_per_mtok"], cost);
    close(&found["gross_margin"]["value"], 1.0 - cost / 100.0);
    let target = &found["needed"][1];
    close(&target["list_factor"]["value"], cost / 0.3 / 100.0);
    close(&target["usd_per_hour"]["value"], 30.0 / cost);
    close(&target["tok_per_s"]["value"], rate * cost / 30.0);
    assert!(found["spread"]["p5"].as_f64() <= found["spread"]["p95"].as_f64());
    let text = stdout(&mut place.costmark(&args));
    for part in [
        "At this list price and ",
        "alone would bring it down to 70.0 %: ",
        "Markup: ",
        "to change alone",
        "70.0 %",
        "one at a time",
        "P50",
        "stated by user",
    ] {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    narrow(&text);
    let host = stdout(&mut place.costmark(&["margin", "r", "--list-price", "deepinfra/Qwen3-32B"]));
    assert!(
        host.contains("2026-11-25") && host.contains("BerriAI/litellm"),
        "{host}"
    );
    assert!(host.contains("the run measured "), "{host}");
}

#[test]
fn electricity_stands_beside_the_hour() {
    let (place, run) = measured();
    let args = ["price", "r", "--instance", "lambda/gpu_1x_h100_pcie"];
    let more = ["--usd-per-kwh", "0.36", "--pue", "1"];
    let found = json(&place, &[&args[..], &more, &["--json"]].concat());
    let rate = run["levels"][0]["summary"]["output_tok_per_s"]["value"].as_f64();
    // 350 W by datasheet; a joule costs 1e-7 dollars.
    let joules = 350.0 / rate.unwrap();
    close(&found["energy"][0]["joules_per_output_token"], joules);
    close(&found["energy"][0]["usd_per_mtok_output"], joules * 0.1);
    let text = stdout(&mut place.costmark(&args));
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        words.contains("NOT measured") && words.contains("a rental price holds it"),
        "{text}"
    );
    assert!(words.contains("do not belong together"), "{text}");
    let output = place
        .costmark(&args)
        .args(["--pue", "0.5"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn claims_and_a_run() {
    let (place, run) = measured();
    let claims = json(&place, &["claims", "--json"]);
    let all: Vec<&Value> = claims["files"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|f| f["claims"].as_array().unwrap())
        .collect();
    assert_eq!(all.len(), 33);
    let text = stdout(&mut place.costmark(&["claims"]));
    narrow(&text);
    for part in [
        "12 reproduce, 1 under an assumption, 3 do not",
        "confirm nothing",
        "Assumed: 21 working days",
    ] {
        assert!(text.contains(part), "{part}");
    }
    let markdown = stdout(&mut place.costmark(&["claims", "--markdown", "--only", "deepseek"]));
    assert!(markdown.contains("| deepseek-day-cost |"), "{markdown}");
    let filled = json(
        &place,
        &[
            "claims",
            "--only",
            "measured-cost",
            "--result",
            "r",
            "--json",
        ],
    );
    let outcomes = &filled["files"][0]["claims"][0]["outcomes"];
    assert_eq!(filled["files"][0]["claims"][0]["verdict"], "what_if");
    assert!(outcomes[0]["recomputed"]["value"].as_f64().unwrap() > 0.0);
    assert_eq!(run["status"], "complete");
    let host = ["claims", "--only", "host-margin", "--result", "r"];
    let host = [
        &host[..],
        &["--list-price", "deepinfra/Qwen3-32B", "--json"],
    ]
    .concat();
    assert_eq!(
        json(&place, &host)["files"][0]["claims"][0]["verdict"],
        "what_if"
    );
}

#[test]
fn scenarios_with_own_figures() {
    let place = Place::new();
    let own = [
        "margin",
        "--scenario",
        "fleet",
        "--set",
        "spend=8760",
        "--set",
        "usd_per_gpu_hour=1",
    ];
    let fleet = json(&place, &[&own[..], &["--json"]].concat());
    close(&fleet["outcomes"][1]["recomputed"]["value"], 1.0);
    assert_eq!(fleet["missing"][0]["name"], "measured_of_break_even");
    for name in [
        "provider-year",
        "fleet",
        "capital-intensity",
        "memory-shock",
        "token-multiple",
    ] {
        let text = stdout(&mut place.costmark(&["margin", "--scenario", name]));
        assert!(
            text.contains("What-if") || text.contains("what-if"),
            "{text}"
        );
        assert!(
            text.contains("Source") && text.contains("Assumption"),
            "{text}"
        );
        narrow(&text);
    }
    let markdown = stdout(&mut place.costmark(&["margin", "--scenario", "fleet", "--markdown"]));
    assert!(markdown.starts_with("# fleet"), "{markdown}");
}

#[test]
fn machines_side_by_side() {
    let (place, _) = measured();
    let args = ["rank", "r", "r", "--instance", "lambda/gpu_1x_h100_pcie"];
    let args = [&args[..], &["--instance", "aws/p5.4xlarge", "--json"]].concat();
    let found = json(&place, &args);
    // The same run at half the price is cheaper, but its card's power is half too.
    assert_eq!(found["runs"][0]["watts"], 350.0);
    assert_eq!(found["runs"][1]["watts"], 700.0);
    assert_eq!(found["runs"][0]["pareto"], true);
    assert_eq!(found["runs"][1]["pareto"], false);
    let text = stdout(&mut place.costmark(&["rank", "r", "--slo-ttft-ms", "1000"]));
    narrow(&text);
    assert!(text.contains("Limits: TTFT p90 up to 1000"), "{text}");
    refused(
        &place,
        &["rank", "r", "r", "r", "--watts", "1", "--watts", "2"],
        &["--watts", "2 times for 3 runs"],
    );
}

#[test]
fn price_books_listed_and_checked() {
    let place = Place::new();
    let h100 = json(
        &place,
        &["prices", "list", "--accelerator", "h100 nvl", "--json"],
    );
    assert!(
        h100.as_array()
            .unwrap()
            .iter()
            .all(|p| p["accelerator"] == "H100 NVL")
    );
    for args in [
        &["prices", "list"][..],
        &["prices", "list", "--kind", "api"],
        &["prices", "list", "--kind", "hardware"],
        &["prices", "check", "--today", "2026-11-25"],
    ] {
        narrow(&stdout(&mut place.costmark(args)));
    }
    stderr(&mut place.costmark(&["prices", "check", "--strict"]), 1);
    refused(
        &place,
        &["prices", "list", "--provider", "acme"],
        &["no price fits", "aws"],
    );
    refused(
        &place,
        &["prices", "list", "--term", "hourly"],
        &["--term", "on_demand"],
    );
    refused(
        &place,
        &["prices", "list", "--kind", "api", "--region", "x"],
        &["--region"],
    );
}

const BOOK: &str = r#"
schema_version = 1
provider = "acme"
[[quote]]
source = "acme's page"
as_of = "2026-01-31"
region = "north"
term = "on_demand"
prices = [{ instance = "g1", accelerator = "H100 SXM", accelerator_count = 1, usd_per_hour = 2.5 }]
"#;

#[test]
fn own_price_books() {
    let place = Place::new();
    let file = place.path().join("mine.toml");
    std::fs::write(&file, BOOK).unwrap();
    let list = [
        "prices",
        "list",
        "--provider",
        "acme",
        "--prices",
        "mine.toml",
        "--json",
    ];
    close(&json(&place, &list)[0]["usd_per_hour"], 2.5);
    for (from, to, says) in [
        ("source = \"acme's page\"", "", &["mine.toml", "source"][..]),
        ("as_of = \"2026-01-31\"", "", &["mine.toml", "as_of"]),
        (
            "2.5",
            "-2.5",
            &["mine.toml", "quote 1, entry 1 (g1)", "usd_per_hour is -2.5"],
        ),
        (
            "2.5",
            "0.0",
            &["mine.toml", "quote 1, entry 1 (g1)", "usd_per_hour is 0"],
        ),
        (
            "2.5",
            "2.5, currency = \"EUR\"",
            &["mine.toml", "entry 1 (g1)", "currency is EUR"],
        ),
    ] {
        std::fs::write(&file, BOOK.replacen(from, to, 1)).unwrap();
        refused(&place, &list, says);
    }
}

#[test]
fn catalogues_imported() {
    let place = Place::new();
    let csv = "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,Price,Region,SpotPrice\n\
               g1,H100,1,16,200,2.95,eu,1.25\ng2,H100,8,128,1600,0,eu,\n";
    std::fs::write(place.path().join("vms.csv"), csv).unwrap();
    let origin = ["--source", "catalogue at 1234", "--as-of", "2026-01-31"];
    let import = [
        "prices",
        "import",
        "skypilot",
        "vms.csv",
        "--provider",
        "acme",
    ];
    let args = [&import[..], &origin[..], &["-o", "acme.toml"]].concat();
    let output = place.costmark(&args).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    assert!(
        told.contains("g2") && told.contains("2 prices, 1 left out"),
        "{told}"
    );
    let list = [
        "prices",
        "list",
        "--provider",
        "acme",
        "--prices",
        "acme.toml",
        "--json",
    ];
    assert_eq!(json(&place, &list).as_array().unwrap().len(), 2);
    refused(&place, &args, &["--output", "acme.toml"]);
    refused(&place, &import, &["--source", "--as-of"]);
    let future = [&import[..], &["--source", "x", "--as-of", "2999-01-01"]].concat();
    refused(&place, &future, &["--as-of"]);
    std::fs::write(place.path().join("x.json"), "[1]").unwrap();
    let litellm = [
        "prices",
        "import",
        "litellm",
        "x.json",
        "--provider",
        "acme",
    ];
    refused(
        &place,
        &[&litellm[..], &origin[..]].concat(),
        &["x.json", "LiteLLM"],
    );
}

#[test]
fn money_that_can_not_be() {
    let (place, _) = measured();
    for (args, says) in [
        (&["price", "r", "--price", "0"][..], &["--price"][..]),
        (
            &["claims", "no-such-file.toml"],
            &["cannot read no-such-file.toml"],
        ),
        (
            &["price", "r", "--instance", "aws/p5.5xlarge"],
            &["--instance", "aws/p5.4xlarge"],
        ),
        (&["price", "r", "--utilization", "1.5"], &["utilization"]),
        (&["price", "r", "--capex", "1000"], &["--load-kw"]),
        (
            &[
                "price",
                "r",
                "--capex",
                "1000",
                "--load-kw",
                "1",
                "--pue",
                "0.5",
            ],
            &["PUE"],
        ),
        (
            &["price", "r", "--capex", "1", "--device-name", "8xH900"],
            &["H900", "H100 SXM"],
        ),
        (
            &[
                "price",
                "r",
                "--usage-input",
                "10",
                "--usage-cached",
                "5",
                "--usage-output",
                "1",
            ],
            &["cached", "not measured"],
        ),
        (&["price", "nowhere"], &["nowhere"]),
        (&["margin", "r"], &["--list-price"]),
        (
            &["margin", "r", "--list-price", "deepinfra/Qwen/Qwen3-33B"],
            &["deepinfra/Qwen/Qwen3-32B"],
        ),
        (
            &["margin", "r", "--list-input", "-1", "--list-output", "1"],
            &["input is -1"],
        ),
        (
            &[
                "margin",
                "r",
                "--list-input",
                "1",
                "--list-output",
                "1",
                "--level",
                "9",
            ],
            &["--level", "concurrency 2"],
        ),
        (
            &[
                "margin",
                "r",
                "--list-input",
                "1",
                "--list-output",
                "1",
                "--cached-share",
                "0.5",
            ],
            &["cached input token was not measured"],
        ),
        (&["margin", "--scenario", "flet"], &["did you mean fleet"]),
        (
            &["margin", "--scenario", "fleet", "--set", "spendd=1"],
            &["--set", "spend"],
        ),
        (
            &["margin", "--scenario", "fleet", "--set", "spend=much"],
            &["--set", "not a number"],
        ),
        (
            &[
                "margin",
                "--scenario",
                "fleet",
                "--set",
                "usd_per_gpu_hour=0",
            ],
            &["fleet.toml", "gpu_hours", "divides by zero"],
        ),
        (&["claims", "--only", "nothing-like-it"], &["--only"]),
        (&["claims", "none.toml"], &["none.toml"]),
    ] {
        let text = stderr(&mut place.costmark(args), 2);
        for part in says {
            assert!(text.contains(part), "{args:?}: `{part}` is not in: {text}");
        }
    }
    let claim = "schema_version = 1\ntitle = \"t\"\nsource = \"s\"\nas_of = \"2026-01-31\"\n\
                 [[claim]]\nid = \"c\"\nsays = \"x\"\nkind = \"identity\"\n\
                 results = [{ name = \"r\", formula = \"alpha\", unit = \"x\", text = \"x\" }]\n";
    std::fs::write(place.path().join("own.toml"), claim).unwrap();
    refused(
        &place,
        &["claims", "own.toml"],
        &["own.toml", "claim `c`", "result `r`", "`alpha`"],
    );
}
