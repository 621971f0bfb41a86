//! `costmark`: what does a million tokens cost on this hardware, and what margin is left?
//!
//! The only crate that reads arguments, prints, or ends the process. Each verb has its own
//! file; [`plan`] turns what was typed into what is meant; errors of every crate become an
//! exit code in [`failure`].

mod accelerator;
mod accelerators;
mod advice;
mod agenda;
mod args;
mod backend;
mod build_info;
mod compare;
mod drive;
mod endpoint;
mod environment;
mod estimate;
mod failure;
mod generate;
mod hints;
mod live;
mod measure;
mod model_info;
mod models;
mod money;
mod output;
mod plan;
mod plan_file;
mod price;
mod probe;
mod progress;
mod recompute;
mod recorder;
mod report;
mod resume;
mod run;
mod schema;
mod serve;
mod stop;
mod text;
mod threads;
mod trace_info;
mod units;
mod workloads;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command, ModelCommand, TraceCommand};

fn main() -> ExitCode {
    // `costmark` alone is `costmark run`.
    let command = Cli::parse().command.unwrap_or_else(|| {
        Cli::parse_from(["costmark", "run"])
            .command
            .unwrap_or_else(|| unreachable!("a command was given"))
    });
    let result = match command {
        Command::Run(args) => run::run(&args),
        Command::Probe(args) => probe::run(&args),
        Command::Model(ModelCommand::Info(args)) => model_info::run(&args),
        Command::Workloads(args) => workloads::run(&args),
        Command::Trace(TraceCommand::Info(args)) => trace_info::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Price(args) => money::price::run(&args),
        Command::Margin(args) => money::margin::run(&args),
        Command::Claims(args) => money::claims::run(&args),
        Command::Rank(args) => money::rank::run(&args),
        Command::Recompute(args) => recompute::run(&args),
        Command::Schema(args) => schema::run(args),
        Command::Prices(command) => money::prices::run(&command),
        Command::Serve(args) => serve::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
