//! Several replicas from the command line: mocks that serve side by side, and GPUs that are not
//! there.

#![allow(clippy::unwrap_used)] // clippy.toml's leave covers #[test] functions, not their helpers.

mod common;

use common::{Place, lines, stderr, stdout};
use serde_json::Value;

/// Two levels, closed and open, of which the higher one has requests waiting.
fn mock(place: &Place, mock: &str, output: &str) {
    for (load, folder) in [("--concurrency=3,10", "closed"), ("--rate=15,60", "open")] {
        let args = format!(
            "run --backend mock --mock ttft=50ms,itl=10ms,{mock} --price 2 --repeats 2 --requests 80 \
             --input-len 8..32 --output-len 4..24 {load} -q -o {output}-{folder}"
        );
        let args: Vec<&str> = args.split_whitespace().collect();
        stdout(&mut place.costmark(&args));
    }
}

/// Requests by id, without anything that an order of lines could change.
fn requests(place: &Place, folder: &str) -> Vec<Value> {
    let mut all = lines(&place.path().join(folder).join("requests.jsonl"));
    all.sort_by_key(|r| r["id"].as_u64());
    all
}

/// Output tokens per second.
fn levels(document: &Value) -> impl Iterator<Item = f64> + '_ {
    let levels = document["levels"].as_array().unwrap().iter();
    levels.map(|l| l["summary"]["output_tok_per_s"]["value"].as_f64().unwrap())
}

#[test]
fn replicas_serve_as_one_of_all_their_places() {
    let place = Place::new();
    mock(&place, "max-sequences=6,virtual", "one");
    mock(&place, "max-sequences=2,replicas=3,virtual", "three");
    for load in ["closed", "open"] {
        let (one, three) = (format!("one-{load}"), format!("three-{load}"));
        let (a, b) = (place.document(&one), place.document(&three));
        if load == "open" {
            assert_eq!(requests(&place, &one), requests(&place, &three));
            assert_eq!(a["levels"], b["levels"]);
        } else {
            // Which of several that end at one instant is followed up first may differ, and with
            // it who asks for what.
            for (a, b) in levels(&a).zip(levels(&b)) {
                assert!((a / b - 1.0).abs() < 0.02, "{a} {b}");
            }
        }
        assert_eq!(a["backends"][0].get("replicas"), None, "one is not told");
        assert_eq!(b["backends"][0]["replicas"], 3);
        assert_eq!(b["backends"][0]["max_sequences"], 6);
        let notes = b["notes"].to_string();
        assert!(notes.contains("3 replicas"), "{notes}");
        assert!(b["plan"]["mock"].as_str().unwrap().contains("replicas=3"));
        let told = stdout(&mut place.costmark(&["recompute", &three, "--json"]));
        let again: Value = serde_json::from_str(&told).unwrap();
        assert_eq!(again["levels"], b["levels"]);
    }
}

#[test]
fn replicas_on_a_real_clock() {
    let place = Place::new();
    let args = "run --backend mock --mock ttft=4ms,itl=1ms,max-sequences=2,replicas=2 --price 1 \
                --concurrency 6 --requests 60 --repeats 1 --input-len 8 --output-len 2..9 -q -o out";
    let args: Vec<&str> = args.split_whitespace().collect();
    let table = stdout(&mut place.costmark(&args));
    assert!(table.contains("2 replicas"), "{table}");
    stdout(&mut place.costmark(&["recompute", "out"]));
    let measured = requests(&place, "out");
    let measured = measured.iter().filter(|r| r["unit"]["phase"] == "measured");
    assert_eq!(measured.count(), 60);
}

#[track_caller]
fn refused(args: &[&str], says: &[&str]) {
    let place = Place::new();
    std::fs::write(
        place.path().join("plan.toml"),
        "# two lines\nmodel = \"tiny\"\ndevices = \"0-1\"\n",
    )
    .unwrap();
    let text = stderr(&mut place.costmark(args), 2);
    for part in says {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    assert!(!place.path().join("runs").exists(), "nothing was measured");
}

#[track_caller]
fn run_refused(more: &[&str], says: &[&str]) {
    let run = [
        "run",
        "--model",
        "tiny",
        "--weights",
        "synthetic",
        "--price",
        "1",
    ];
    refused(&[&run[..], more].concat(), says);
}

#[test]
fn devices_that_are_none() {
    run_refused(&["--devices", ""], &["--devices", "0-7"]);
    run_refused(&["--devices", "0,x"], &["--devices", "`x`", "0,2,5"]);
    run_refused(&["--devices", "3-1"], &["--devices", "write 1-3"]);
    run_refused(
        &["--devices", "0-2,1"],
        &["--devices", "GPU 1 is named twice"],
    );
    run_refused(&["--devices", "0-99999"], &["--devices", "no machine has"]);
    run_refused(
        &["--devices", "0-1", "--device", "cuda"],
        &["--devices", "--device"],
    );
}

#[test]
fn devices_that_are_not_there() {
    run_refused(
        &["--devices", "0-1"],
        &["--devices 0-1", "cuda:0", "--device cpu"],
    );
    run_refused(&["--devices", "5"], &["cuda:5", "--device cpu"]);
    refused(
        &["run", "--plan", "plan.toml", "--weights", "synthetic"],
        &["plan.toml:3", "--devices 0-1", "cuda:0"],
    );
}

#[test]
fn devices_are_the_engines() {
    for backend in ["lockstep", "mock"] {
        run_refused(
            &["--backend", backend, "--devices", "0,1"],
            &["--devices 0-1", "only the engine"],
        );
    }
    refused(
        &[
            "run",
            "--endpoint",
            "http://127.0.0.1:9",
            "--devices",
            "0,1",
        ],
        &["--devices"],
    );
    // One prompt and one server run on one device.
    let generate = ["generate", "--model", "tiny", "--weights", "synthetic"];
    refused(
        &[&generate[..], &["--prompt-ids", "1", "--devices", "0,1"]].concat(),
        &["--devices", "--device"],
    );
    let serve = ["serve", "--model", "tiny", "--weights", "synthetic"];
    refused(
        &[&serve[..], &["--devices", "0,1"]].concat(),
        &["--devices", "--device"],
    );
}
