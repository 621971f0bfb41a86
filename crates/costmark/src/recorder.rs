//! Where the driver's records go: into the run folder, with a live view on stderr.

use std::io;

use costmark_core::{RequestRecord, StepRecord};
use costmark_load::{Phase, Progress, Recorder};
use costmark_report::{LevelId, RequestLine, RunFolder, StepLine, UnitTag};

use crate::live::Live;
use crate::progress::Stage;

/// Writes the records of one unit.
pub(crate) struct LineRecorder<'a> {
    pub(crate) folder: &'a mut RunFolder,
    pub(crate) level: &'a LevelId,
    pub(crate) repeat: u32,
    pub(crate) stage: &'a Stage,
    /// What the live view begins with.
    pub(crate) label: &'a str,
    /// What it shows.
    pub(crate) live: Live,
}

impl LineRecorder<'_> {
    fn tag(&self, phase: Phase) -> UnitTag {
        tag(self.level.clone(), self.repeat, phase)
    }
}

fn tag(level: LevelId, repeat: u32, phase: Phase) -> UnitTag {
    UnitTag {
        level,
        repeat,
        phase: match phase {
            Phase::Warmup => costmark_report::Phase::Warmup,
            Phase::Measured => costmark_report::Phase::Measured,
            Phase::Cooldown => costmark_report::Phase::Cooldown,
        },
    }
}

impl Recorder for LineRecorder<'_> {
    fn on_step(&mut self, phase: Phase, step: &StepRecord) -> io::Result<()> {
        let tag = self.tag(phase);
        self.folder
            .append_step(&tag, step)
            .map_err(io::Error::other)
    }

    fn on_request(&mut self, phase: Phase, record: &RequestRecord) -> io::Result<()> {
        let tag = self.tag(phase);
        self.live.add(phase, record);
        self.folder
            .append_request(&tag, record)
            .map_err(io::Error::other)
    }

    fn on_progress(&mut self, progress: &Progress) {
        // A failure to write is kept by the folder's writers and shows in the next record.
        let _ = self.folder.flush_if_due();
        let ended = progress.finished + progress.failed;
        let total = progress.total.filter(|_| progress.phase == Phase::Measured);
        let done = total.map(|total| (ended, total));
        let figures = |columns| self.live.words(progress, columns);
        self.stage.view(self.label, done, figures);
    }
}

/// Makes the lines and drops them: what recording costs without a disk.
pub(crate) struct Discard {
    level: LevelId,
}

impl Default for Discard {
    fn default() -> Self {
        let level = LevelId::from("c1");
        Self { level }
    }
}

impl Recorder for Discard {
    fn on_step(&mut self, phase: Phase, step: &StepRecord) -> io::Result<()> {
        let line = StepLine::new(&tag(self.level.clone(), 0, phase), step);
        serde_json::to_writer(io::sink(), &line).map_err(io::Error::from)
    }

    fn on_request(&mut self, phase: Phase, record: &RequestRecord) -> io::Result<()> {
        let line = RequestLine::new(&tag(self.level.clone(), 0, phase), record);
        serde_json::to_writer(io::sink(), &line).map_err(io::Error::from)
    }
}
