//! The shapes that `costmark schema` prints, against what runs really leave behind; and every
//! figure again from raw lines.

#![allow(clippy::unwrap_used)] // clippy.toml's leave covers #[test] functions, not their helpers.

mod common;

use boon::{Compiler, SchemaIndex, Schemas};
use common::{Place, lines, stderr, stdout};
use serde_json::{Value, json};

const FILES: [(&str, &str); 3] = [
    ("request", "requests.jsonl"),
    ("step", "steps.jsonl"),
    ("telemetry", "telemetry.jsonl"),
];

struct Checked {
    schemas: Schemas,
    compiler: Compiler,
}

impl Checked {
    fn new(place: &Place) -> Self {
        let all: Value = serde_json::from_str(&stdout(&mut place.costmark(&["schema"]))).unwrap();
        let mut compiler = Compiler::new();
        for (name, schema) in all.as_object().unwrap() {
            compiler
                .add_resource(&format!("{name}.json"), schema.clone())
                .unwrap();
        }
        Self {
            schemas: Schemas::new(),
            compiler,
        }
    }

    fn of(&mut self, name: &str) -> SchemaIndex {
        let file = format!("{name}.json");
        self.compiler.compile(&file, &mut self.schemas).unwrap()
    }

    #[track_caller]
    fn accepts(&mut self, name: &str, value: &Value) {
        let index = self.of(name);
        if let Err(e) = self.schemas.validate(value, index) {
            let text = format!("{name}: {e:#}");
            assert_eq!(text, "");
        }
    }

    fn refuses(&mut self, name: &str, value: &Value) -> bool {
        let index = self.of(name);
        self.schemas.validate(value, index).is_err()
    }
}

fn split(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn what_runs_leave_behind_is_as_the_schemas_say() {
    let place = Place::new();
    // Phases, MBU, goodput; a run stopped in the middle by nothing; and each kind of load.
    let engine = "--concurrency 1,4 --repeats 2 --slo ttft=1s,itl=1s --quiet -o engine";
    stdout(&mut place.run(&split(engine)));
    // Bounded: a search of what has no limit would double its rate for long.
    let mock = "run --backend mock --mock ttft=5ms,itl=1ms,max-sequences=4,virtual --quiet --input-len 8 \
                --output-len 3..9";
    for (name, more) in [
        (
            "open",
            "--rate 50 --requests 120 --repeats 2 --max-concurrency 4 --price 2",
        ),
        (
            "batch",
            "--max-throughput --requests 20 --repeats 1 --instance aws/p5.4xlarge",
        ),
        (
            "search",
            "--find-goodput --slo ttft=20ms,e2e=100ms@p95 --duration 300ms --repeats 1",
        ),
    ] {
        let mut command = place.costmark(&split(mock));
        stdout(command.args(split(more)).args(["-o", name]));
    }
    let mut checked = Checked::new(&place);
    for folder in ["engine", "open", "batch", "search"] {
        let document = place.document(folder);
        checked.accepts("run", &document);
        let mut seen = 0;
        for (name, file) in FILES {
            let path = place.path().join(folder).join(file);
            if path.exists() {
                for line in lines(&path) {
                    checked.accepts(name, &line);
                    seen += 1;
                }
            }
        }
        assert!(seen > 10, "{folder}: {seen} lines");
        // From raw lines alone the same comes out, to the last figure.
        let text = stdout(&mut place.costmark(&["recompute", folder]));
        assert!(text.ends_with("what the raw lines give.\n"), "{text}");
        assert!(text.lines().all(|l| l.chars().count() <= 100), "{text}");
        let again = stdout(&mut place.costmark(&["recompute", folder, "--json"]));
        checked.accepts("run", &serde_json::from_str(&again).unwrap());
    }

    // A key without a schema, at any depth, is not valid; nor is a key that is missing.
    let whole = place.document("engine");
    let spoilt: [fn(&mut Value); 5] = [
        |run| run["surprise"] = json!(1),
        |run| run["units"][0]["summary"]["throughput"]["surprise"] = json!(1),
        |run| run["plan"]["workloads"][0]["input_len"] = json!(7),
        |run| drop(run.as_object_mut().unwrap().remove("price")),
        |run| run["status"] = json!("done"),
    ];
    for (i, spoil) in spoilt.into_iter().enumerate() {
        let mut run = whole.clone();
        spoil(&mut run);
        assert!(checked.refuses("run", &run), "change {i} was let through");
    }
    let mut request = lines(&place.path().join("engine/requests.jsonl")).remove(0);
    assert!(!checked.refuses("request", &request));
    request["gaps_ns"] = json!([[5, 2, 1]]);
    assert!(checked.refuses("request", &request));
}

#[test]
fn one_schema_can_be_asked_for() {
    let place = Place::new();
    let step: Value =
        serde_json::from_str(&stdout(&mut place.costmark(&["schema", "step"]))).unwrap();
    assert_eq!(step["additionalProperties"], false);
    assert!(step["properties"]["forward_ns"].is_object());
    let plan: Value =
        serde_json::from_str(&stdout(&mut place.costmark(&["schema", "plan"]))).unwrap();
    assert!(plan["properties"]["concurrency"].is_object());
    let error = stderr(&mut place.costmark(&["schema", "steps"]), 2);
    assert!(error.contains("possible values"), "{error}");
}

#[test]
fn a_result_changed_by_hand_is_told() {
    let place = Place::new();
    stdout(&mut place.run(&split("--concurrency 2 --repeats 2 --quiet -o run")));
    let path = place.path().join("run/run.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut run: Value = serde_json::from_str(&text).unwrap();
    let rate = &mut run["units"][1]["summary"]["throughput"]["output_tok_per_s"];
    *rate = json!(rate.as_f64().unwrap() * 2.0);
    std::fs::write(&path, run.to_string()).unwrap();
    let error = stderr(&mut place.costmark(&["recompute", "run"]), 1);
    assert!(error.contains("a figure in run.json is not"), "{error}");
    assert!(
        error.contains("units[1].summary.throughput.output_tok_per_s: "),
        "{error}"
    );

    // Half a document, or a typing error in one: file and line.
    let part = &text[..text.find("\"units\"").unwrap() + 12];
    std::fs::write(&path, part).unwrap();
    let half = stderr(&mut place.costmark(&["report", "run"]), 2);
    let line = part.matches('\n').count() + 1;
    assert!(half.contains(&format!("run.json:{line}: ")), "{half}");
    let misspelt = text.replacen("\"started_at\"", "\"startd_at\"", 1);
    std::fs::write(&path, &misspelt).unwrap();
    let line = misspelt
        .lines()
        .position(|l| l.contains("startd_at"))
        .unwrap()
        + 1;
    let error = stderr(&mut place.costmark(&["compare", "run", "run"]), 2);
    assert!(
        error.contains(&format!("run.json:{line}: unknown field `startd_at`")),
        "{error}"
    );

    // Newer and older files: what to do.
    let version = |number: u32| {
        let other = text.replacen(
            "\"schema_version\": 2",
            &format!("\"schema_version\": {number}"),
            1,
        );
        assert_ne!(other, text);
        std::fs::write(&path, other).unwrap();
        stderr(&mut place.costmark(&["report", "run"]), 2)
    };
    let newer = version(3);
    assert!(
        newer.contains("version 3") && newer.contains("use the newer version of costmark"),
        "{newer}"
    );
    let older = version(1);
    assert!(
        older.contains("version 1") && older.contains("run the command"),
        "{older}"
    );
}
