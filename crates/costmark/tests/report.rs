//! The page, used by a real browser: `chromium`, which scripts/test installs where it can.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)] // clippy.toml's leave covers #[test] functions, not their helpers.

mod common;

use std::path::Path;
use std::process::Command;

use common::{Place, stderr, stdout};
use serde_json::{Value, json};

/// Set where no browser can be had: the test that needs one then says so and ends.
const NO_BROWSER: &str = "COSTMARK_TEST_WITHOUT_BROWSER";

fn browser() -> Option<String> {
    let found = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| {
            Command::new(name)
                .arg("--version")
                .output()
                .is_ok_and(|o| o.status.success())
        });
    if found.is_none() {
        assert!(
            std::env::var_os(NO_BROWSER).is_some(),
            "no chromium: install it (scripts/test does, with apt), or set {NO_BROWSER}=1 to go \
             without"
        );
        eprintln!("no browser: the page was not opened");
    }
    found.map(str::to_string)
}

/// Opens a copy of the page with `tests/browser.js` in it and gives what that found.
fn open(browser: &str, page: &Path, prices: &Value, flags: &[&str]) -> Value {
    let html = std::fs::read_to_string(page).unwrap();
    let watch = format!(
        "<script>window.testErrors = []; window.testPrices = {prices};\
         addEventListener('error', (e) => testErrors.push(String(e.message)));\
         addEventListener('unhandledrejection', (e) => testErrors.push(String(e.reason)));\
         addEventListener('securitypolicyviolation', (e) => testErrors.push(e.violatedDirective));\
         for (const name of ['error', 'warn']) {{ const old = console[name];\
         console[name] = (...a) => {{ testErrors.push(a.join(' ')); old(...a); }}; }}</script><title>"
    );
    let html = html.replacen("<title>", &watch, 1);
    let end = html.rfind("</body>").unwrap();
    let html = format!(
        "{}<script>{}</script>{}",
        &html[..end],
        include_str!("browser.js"),
        &html[end..]
    );
    let copy = page.with_file_name("copy.html");
    std::fs::write(&copy, html).unwrap();
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new("timeout")
        .arg("90")
        .arg(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
        ])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(["--virtual-time-budget=120000", "--dump-dom"])
        .args(flags)
        .arg(format!("file://{}", copy.display()))
        .output()
        .unwrap();
    let dom = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let begin = dom
        .find("<pre id=\"found\">")
        .unwrap_or_else(|| panic!("{errors}\n{}", &dom[..dom.len().min(2000)]));
    let json = &dom[begin + 16..];
    let json = &json[..json.find("</pre>").unwrap()];
    let json = json
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&nbsp;", " ")
        .replace("&amp;", "&");
    serde_json::from_str(&json).unwrap()
}

/// The margin of each level, by `costmark margin`.
fn margins(place: &Place, folder: &str, prices: &Value) -> Vec<f64> {
    let number = |name: &str| prices[name].as_f64().unwrap();
    let mut command = place.costmark(&["margin", folder, "--json"]);
    for (flag, value) in [
        ("--price", number("usd_per_hour")),
        ("--utilization", number("utilization") / 100.0),
        ("--list-input", number("list_input")),
        ("--list-cached", number("list_cached")),
        ("--list-output", number("list_output")),
    ] {
        command.arg(flag).arg(value.to_string());
    }
    let report: Value = serde_json::from_str(&stdout(&mut command)).unwrap();
    let levels = report["levels"].as_array().unwrap();
    levels
        .iter()
        .map(|l| l[1]["value"].as_f64().unwrap())
        .collect()
}

fn assert_close(found: &Value, expected: &[f64]) {
    let found: Vec<f64> = found
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap())
        .collect();
    assert_eq!(found.len(), expected.len());
    for (a, b) in found.iter().zip(expected) {
        assert!(
            (a - b).abs() <= 1e-9 * b.abs().max(1.0),
            "{found:?} {expected:?}"
        );
    }
}

fn check(found: &Value, charts: &[&str]) {
    assert_eq!(found["errors"], json!([]), "{found:#}");
    assert_eq!(found["drawn"], true);
    let seen: Vec<&str> = found["charts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["id"].as_str().unwrap())
        .collect();
    assert_eq!(seen, charts);
    for chart in found["charts"].as_array().unwrap() {
        assert!(
            chart["marks"].as_u64().unwrap() > 0,
            "nothing is drawn: {chart}"
        );
        assert!(chart["rows"].as_u64().unwrap() > 0, "no table: {chart}");
        assert_eq!(chart["named"], true, "{chart}");
        assert!(chart["summary"].as_u64().unwrap() > 40, "{chart}");
    }
    assert_eq!(found["unreachable"], json!([]));
    assert_eq!(found["unlabelled"], json!([]));
    assert_eq!(found["foreign"], 0);
    assert_eq!(found["scripts_run"], 0);
    assert!(
        found["least_contrast"].as_f64().unwrap() >= 4.5,
        "{} at {}",
        found["least_contrast"],
        found["least_contrast_at"]
    );
    assert_eq!(found["wider_than_screen"], 0);
}

const ONE_RUN: [&str; 7] = [
    "cost",
    "margin",
    "tradeoff",
    "percentiles",
    "phases",
    "roofline",
    "timeline",
];

#[test]
fn a_reader_uses_the_page() {
    let place = Place::new();
    place
        .run(&[
            "--concurrency",
            "1,2",
            "--repeats",
            "2",
            "-o",
            "run",
            "--quiet",
        ])
        .assert()
        .success();
    let page = place.path().join("run/report.html");
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.len() < 5 << 20);
    for address in ["src=\"http", "href=\"http", "@import", "url("] {
        let own = &html[..html.find("id=\"plotly\"").unwrap()];
        assert!(!own.contains(address), "{address}");
    }
    let Some(browser) = browser() else { return };
    let prices = json!({
        "usd_per_hour": 1.7, "utilization": 60, "list_input": 0.4, "list_cached": 0.04, "list_output": 2.5
    });
    let run = place.document("run");
    let light = open(&browser, &page, &prices, &["--window-size=1280,1000"]);
    check(&light, &ONE_RUN);
    assert_eq!(light["dark"], false);
    assert_close(&light["margins"], &margins(&place, "run", &prices));
    assert_eq!(light["marked"], "true");
    assert_eq!(light["after_wrong"], light["margins"]);
    assert_eq!(light["shown_by_slider"], "25");
    let mut quarter = prices.clone();
    quarter["utilization"] = json!(25);
    assert_close(
        &light["margins_at_quarter"],
        &margins(&place, "run", &quarter),
    );
    // Without a list price the page begins at what tokens cost at the cheapest level.
    let blended = |level: &&Value| level["usd_per_mtok_blended"]["value"].as_f64().unwrap();
    let levels = run["levels"].as_array().unwrap();
    let cheapest = levels
        .iter()
        .min_by(|a, b| blended(a).total_cmp(&blended(b)))
        .unwrap();
    let start = json!({
        "usd_per_hour": 1.0,
        "utilization": 100,
        "list_input": cheapest["usd_per_mtok_input"]["value"],
        "list_cached": cheapest["usd_per_mtok_cached"]["value"].as_f64()
            .or(cheapest["usd_per_mtok_input"]["value"].as_f64()),
        "list_output": cheapest["usd_per_mtok_output"]["value"],
    });
    assert_close(&light["margins_at_start"], &margins(&place, "run", &start));
    let phone = [
        "--window-size=500,900",
        "--blink-settings=preferredColorScheme=0",
    ];
    let dark = open(&browser, &page, &prices, &phone);
    check(&dark, &ONE_RUN);
    assert_eq!(dark["dark"], true);
}

#[test]
fn a_page_of_two_hostile_runs_is_inert() {
    let place = Place::new();
    place
        .run(&[
            "--concurrency",
            "1,2",
            "--repeats",
            "2",
            "-o",
            "a",
            "--quiet",
        ])
        .assert()
        .success();
    let evil = "</script><script>window.hostile = 1</script><img src=x onerror='hostile=2'>\
                <a href=\"javascript:hostile=3\">\u{202e}\u{1b}[2Jx {{data}} {{plotly}}";
    let copy = place.path().join("b");
    std::fs::create_dir(&copy).unwrap();
    for file in ["requests.jsonl", "steps.jsonl"] {
        std::fs::copy(place.path().join("a").join(file), copy.join(file)).unwrap();
    }
    let mut run = place.document("a");
    run["environment"]["label"] = json!(evil);
    run["environment"]["machine"]["hostname"] = json!(evil);
    run["notes"] = json!([evil]);
    run["price"]["source"] = json!(evil);
    for model in run["backends"].as_array_mut().unwrap() {
        model["model"] = json!(evil);
    }
    std::fs::write(copy.join("run.json"), run.to_string()).unwrap();
    let text = stdout(&mut place.costmark(&["compare", "a", "b"]));
    assert!(!text.contains(['\u{1b}', '\u{202e}']));
    assert_eq!(
        stdout(&mut place.costmark(&["report", "a", "b", "-o", "both.html"])),
        "both.html\n"
    );
    let page = place.path().join("both.html");
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(!html.contains("<script>window.hostile") && !html.contains('\u{202e}'));
    let Some(browser) = browser() else { return };
    let prices = json!({ "usd_per_hour": 2, "utilization": 50, "list_input": 1, "list_cached": 1, "list_output": 3 });
    let charts = [&["hardware", "pareto"][..], &ONE_RUN[..]].concat();
    check(
        &open(&browser, &page, &prices, &["--window-size=1280,1000"]),
        &charts,
    );
}

#[test]
fn what_cannot_be_shown_is_told() {
    let place = Place::new();
    let error = stderr(&mut place.costmark(&["report", "nowhere"]), 2);
    assert!(error.contains("nowhere: no run.json"), "{error}");
    std::fs::create_dir(place.path().join("empty")).unwrap();
    let error = stderr(&mut place.costmark(&["report", "empty"]), 2);
    assert!(error.contains("no run.json"), "{error}");
    place
        .run(&[
            "--concurrency",
            "1",
            "--repeats",
            "1",
            "-o",
            "run",
            "--quiet",
        ])
        .assert()
        .success();
    let steps = place.path().join("run/steps.jsonl");
    let text = std::fs::read_to_string(&steps).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines[2] = "{\"unit\": 3}";
    std::fs::write(&steps, lines.join("\n")).unwrap();
    let error = stderr(&mut place.costmark(&["report", "run"]), 2);
    assert!(error.contains("steps.jsonl:3: "), "{error}");
    // The end of a crash is left out and told on the page.
    std::fs::write(&steps, &text[..text.len() - 20]).unwrap();
    let page = stdout(&mut place.costmark(&["report", "run", "-o", "-"]));
    assert!(page.contains("the last line is cut off"));
    let error = stderr(
        &mut place.costmark(&["report", "run", "-o", "no/such/folder.html"]),
        2,
    );
    assert!(error.contains("--output"), "{error}");
    let error = stderr(
        &mut place.costmark(&["report", "run", "--list-input", "1"]),
        2,
    );
    assert!(error.contains("--list-output"), "{error}");
}

#[test]
fn comparisons_end_as_a_bar_says() {
    let place = Place::new();
    for name in ["a", "b"] {
        place
            .run(&[
                "--concurrency",
                "1",
                "--repeats",
                "2",
                "-o",
                name,
                "--quiet",
            ])
            .assert()
            .success();
    }
    let text = stdout(&mut place.costmark(&["compare", "a", "b", "--fail-on", "throughput<-99%"]));
    assert!(text.contains("baseline a"), "{text}");
    let error = stderr(
        &mut place.costmark(&["compare", "a", "b", "--fail-on", "throughput>0"]),
        1,
    );
    assert!(error.contains("output_tok_per_s>0 holds for b"), "{error}");
    let error = stderr(
        &mut place.costmark(&["compare", "a", "b", "--fail-on", "speed>0"]),
        2,
    );
    assert!(error.contains("no metric is called `speed`"), "{error}");
    let error = stderr(&mut place.costmark(&["compare", "a"]), 2);
    assert!(error.contains("only one run"), "{error}");
    let json: Value = serde_json::from_str(&stdout(
        &mut place.costmark(&["compare", "a", "b", "--json"]),
    ))
    .unwrap();
    assert_eq!(json["levels"][0]["metrics"][0]["name"], "output_tok_per_s");
    let csv = stdout(&mut place.costmark(&["compare", "a", "b", "--csv", "--metrics", "ttft"]));
    assert_eq!(csv.lines().count(), 3, "{csv}");
    place
        .run(&["--concurrency", "1", "--warmup", "2", "-o", "c", "--quiet"])
        .assert()
        .success();
    let error = stderr(
        &mut place.costmark(&["compare", "a", "c", "--fail-on", "throughput<-99%"]),
        2,
    );
    assert!(error.contains("not the same work"), "{error}");
}

/// No step is seen: nothing is said of where the time went, and the rest stands.
#[test]
fn a_run_without_steps_has_a_page() {
    let place = Place::new();
    let run = [
        "run",
        "--backend",
        "mock",
        "--rate",
        "50",
        "--requests",
        "20",
    ];
    place
        .costmark(&run)
        .args(["--repeats", "1", "-o", "run", "--quiet"])
        .assert()
        .success();
    let page = place.path().join("run/report.html");
    let Some(browser) = browser() else { return };
    let prices = json!({ "usd_per_hour": 2, "utilization": 50, "list_input": 1, "list_cached": 1, "list_output": 3 });
    let found = open(&browser, &page, &prices, &["--window-size=1280,1000"]);
    assert_eq!(found["errors"], json!([]), "{found:#}");
    let charts = found["charts"].as_array().unwrap();
    let marks = |id: &str| charts.iter().find(|c| c["id"] == id).unwrap()["marks"].clone();
    assert_eq!(marks("roofline"), 0);
    for id in ["cost", "margin", "tradeoff", "percentiles", "timeline"] {
        assert!(marks(id).as_u64().unwrap() > 0, "{id}");
    }
}
