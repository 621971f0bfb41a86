//! A run on two replicas: the same as on one, twice at the same time.

#![allow(clippy::unwrap_used)] // clippy.toml's leave covers #[test] functions, not their helpers.

mod common;

use costmark_report::document::{DatasheetDocument, DatasheetUse, RunDocument, UnitDocument};
use costmark_report::recompute::{differences, recompute};
use costmark_report::{RunFolder, StoredRun};

fn on_two() -> (Vec<common::Raw>, RunDocument) {
    let raws: Vec<_> = common::raws()
        .into_iter()
        .map(common::Raw::doubled)
        .collect();
    let mut run = common::run_of(&raws, common::plan());
    // Levels are told apart by name; what they ask for is twice as much now.
    for level in &mut run.plan.levels {
        if let costmark_report::document::LoadDocument::ClosedLoop { concurrency } = &mut level.load
        {
            *concurrency *= 2;
        }
    }
    for level in &mut run.levels {
        level.load = run.plan.level(&level.id).unwrap().load.clone();
    }
    run.plan_hash = run.plan.hash();
    run.finding = costmark_report::finding(&run);
    (raws, run)
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-12 * a.abs().max(b.abs())
}

/// Twice the tokens at the price of the same machine; shares of what each replica can do stay.
#[test]
fn twice_as_much_at_the_same_time() {
    let (_, two) = on_two();
    let one = common::run();
    for (one, two) in one.units.iter().zip(&two.units) {
        let rate = |u: &UnitDocument| u.summary.throughput.output_tok_per_s;
        assert!(near(rate(two), 2.0 * rate(one)));
        let (a, b) = (one.summary.steps.unwrap(), two.summary.steps.unwrap());
        assert_eq!((a.replicas, b.replicas), (1, 2));
        assert_eq!(b.steps, 2 * a.steps);
        assert!(near(b.mbu.unwrap(), a.mbu.unwrap()) && near(b.mfu.unwrap(), a.mfu.unwrap()));
        assert!(near(b.decode.mbu.unwrap(), a.decode.mbu.unwrap()));
        assert!(near(b.decode.seconds, 2.0 * a.decode.seconds));
        assert!(near(b.batch_occupancy, a.batch_occupancy));
        assert!((b.idle_share - a.idle_share).abs() < 1e-12);
        let (a, b) = (one.cost.as_ref().unwrap(), two.cost.as_ref().unwrap());
        assert!(near(a.usd, b.usd));
        let parts = b.prefill_s.unwrap() + b.decode_s.unwrap() + b.idle_s.unwrap();
        assert!(near(parts, b.window_s), "{parts} of {}", b.window_s);
        assert!(near(
            a.usd_per_mtok_output.unwrap(),
            2.0 * b.usd_per_mtok_output.unwrap()
        ));
    }
}

#[test]
fn the_raw_lines_give_the_same_again() {
    let (raws, run) = on_two();
    let dir = tempfile::tempdir().unwrap();
    let mut folder = RunFolder::create(dir.path()).unwrap();
    for raw in &raws {
        for step in &raw.steps {
            folder.append_step(&raw.tag, step).unwrap();
        }
        for request in &raw.requests {
            folder.append_request(&raw.tag, request).unwrap();
        }
    }
    folder.save(&run).unwrap();
    drop(folder);
    let stored = StoredRun::load(dir.path()).unwrap();
    let again = recompute(&stored).unwrap();
    assert_eq!(differences(&stored.document, &again), Vec::<String>::new());

    // Read as one replica's, its steps would overlap.
    let mut wrong = stored;
    wrong.document.backends[0].replicas = 1;
    let again = recompute(&wrong).unwrap();
    let found = differences(&wrong.document, &again);
    assert!(found.iter().any(|d| d.contains("mbu")), "{found:?}");
    let note = again.units[0].cost_note.as_deref().unwrap_or_default();
    assert!(note.contains("overlap"), "{note}");
}

/// What is stated is of all devices, what was measured of one.
#[test]
fn a_share_of_what_is_stated_is_of_all_devices() {
    let (_, two) = on_two();
    let sheet = |devices: u32| DatasheetDocument {
        name: "example".into(),
        devices,
        read_bytes_per_s: f64::from(devices) * 80e9,
        flops_per_s: Some(f64::from(devices) * 200e9),
        source: "example".into(),
        unconfirmed: None,
    };
    let of = |unit: &UnitDocument, devices| {
        DatasheetUse::of(&unit.summary, unit.roofline.as_ref(), Some(&sheet(devices))).unwrap()
    };
    let (a, b) = (of(&common::run().units[1], 1), of(&two.units[1], 2));
    assert!(near(a.mbu, b.mbu) && near(a.mfu.unwrap(), b.mfu.unwrap()));
}
