//! `costmark run --plan FILE`: a measurement written down.
//!
//! A plan file is TOML without tables. Each key is the flag of `costmark run` of the same name,
//! with `_` for `-`, and takes what the flag takes: whatever can be typed can be written down,
//! and means the same. Where the flag takes several values the key takes a list; `model`,
//! `dtype` and `quantize` take one too, and each model is then measured in each format. What
//! the file says cannot be said again on the command line.

#[cfg(test)]
mod schema;
#[cfg(test)]
mod tests;
mod value;

use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, CommandFactory, Parser};
use toml::de::DeTable;

use crate::args::{Cli, Command, ModelArgs, RunArgs};
use crate::backend::format_choice;
use crate::failure::{Failure, Result};
use crate::hints;

/// What belongs to a call and not to a plan.
const NOT_IN_FILES: [&str; 6] = ["plan", "output", "resume", "json", "quiet", "help"];
/// A line for people; without a meaning.
const DESCRIPTION: &str = "description";
/// Axes that no flag has: each takes a list in a file.
const AXES: [&str; 3] = ["model", "dtype", "quantize"];

/// What a key of a file says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// Of the flag, without dashes.
    flag: String,
    line: usize,
    /// Empty for a flag that takes none.
    values: Vec<String>,
}

/// A plan file, every value of which its flag takes.
#[derive(Debug)]
pub(crate) struct PlanFile {
    path: PathBuf,
    entries: Vec<Entry>,
}

/// What a command line asks for, together with the plan file it names.
///
/// Returns the file too, to say where in it something stands ([`PlanFile::locate`]).
pub(crate) fn resolve(typed: &[String], args: &RunArgs) -> Result<Option<(RunArgs, PlanFile)>> {
    let Some(path) = &args.plan else {
        return Ok(None);
    };
    let file = PlanFile::read(path)?;
    let args = file.merge(typed)?;
    Ok(Some((args, file)))
}

/// The flags of `costmark run` that can be keys.
fn flags() -> Vec<Arg> {
    let mut cli = Cli::command();
    cli.build();
    cli.find_subcommand("run")
        .into_iter()
        .flat_map(clap::Command::get_arguments)
        .filter(|arg| arg.get_long().is_some_and(|l| !NOT_IN_FILES.contains(&l)))
        .cloned()
        .collect()
}

/// The key of a flag.
fn key_of(flag: &str) -> String {
    flag.replace('-', "_")
}

/// Whether the key takes a list.
fn takes_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
        || arg.get_long().is_some_and(|long| AXES.contains(&long))
}

impl PlanFile {
    /// Reads a file and checks each value by itself.
    fn read(path: &Path) -> Result<Self> {
        let content = std::fs::read_to_string(path)
            .map_err(|e| Failure::input(format!("--plan {}: {e}", path.display())))?;
        Self::parse(path, &content)
    }

    fn parse(path: &Path, content: &str) -> Result<Self> {
        let name = path.display().to_string();
        let table = DeTable::parse(content)
            .map_err(|error| Failure::input(hints::toml_error(&name, content, &error)))?;
        let flags = flags();
        let mut keys: Vec<String> = flags.iter().filter_map(Arg::get_long).map(key_of).collect();
        keys.push(DESCRIPTION.into());
        let mut entries = Vec::new();
        for (key, value) in table.get_ref() {
            let line = hints::line_of(content, key.span().start);
            let key = key.get_ref().as_ref();
            let wrong = |line: usize, why: &str| Failure::input(format!("{name}:{line}: {why}"));
            if key == DESCRIPTION {
                if !value.get_ref().is_str() {
                    return Err(wrong(line, "description: takes text"));
                }
                continue;
            }
            let flag = flags
                .iter()
                .find(|arg| arg.get_long().is_some_and(|long| key_of(long) == key));
            let Some(flag) = flag else {
                let names: Vec<&str> = keys.iter().map(String::as_str).collect();
                let what = match value.get_ref().is_table() {
                    true => "table",
                    false => "key",
                };
                let hint = hints::nearest(key, &names);
                return Err(wrong(
                    line,
                    &format!(
                        "there is no {what} `{key}`{}",
                        match hint.is_empty() {
                            true => "; keys are the flags of costmark run, with _ for -",
                            false => &hint,
                        }
                    ),
                ));
            };
            let long = flag.get_long().unwrap_or_default();
            let texts = value::texts(flag, value.get_ref())
                .map_err(|why| wrong(line, &format!("{key}: {why}")))?;
            let Some(texts) = texts else { continue };
            let mut values = Vec::new();
            for (text, span) in texts {
                let at = span.map_or(line, |span| hints::line_of(content, span.start));
                check(long, &text).map_err(|why| wrong(at, &format!("{key}: {why}")))?;
                values.push(text);
            }
            entries.push(Entry {
                flag: long.into(),
                line,
                values,
            });
        }
        entries.sort_by_key(|entry| entry.line);
        Ok(Self {
            path: path.to_path_buf(),
            entries,
        })
    }

    /// What was typed and what is written, together.
    fn merge(&self, typed: &[String]) -> Result<RunArgs> {
        self.refuse_twice(typed)?;
        let (program, rest) = typed
            .split_first()
            .map_or(("costmark", typed), |(p, r)| (p, r));
        let rest = rest.strip_prefix(&["run".to_string()]).unwrap_or(rest);
        let written = self.entries.iter().flat_map(|entry| {
            let flag = &entry.flag;
            let values = match (entry.values.as_slice(), AXES.contains(&flag.as_str())) {
                // The others are axes; the formats exclude each other on a command line.
                ([_, ..], true) if flag == "dtype" && self.values("quantize").is_some() => &[],
                ([first, ..], true) => std::slice::from_ref(first),
                (all, _) => all,
            };
            let takes_none = entry.values.is_empty();
            let bare = takes_none.then(|| format!("--{flag}"));
            let with_values = values.iter().map(move |value| format!("--{flag}={value}"));
            bare.into_iter().chain(with_values)
        });
        let all = [program.to_string(), "run".into()]
            .into_iter()
            .chain(written)
            .chain(rest.iter().cloned());
        let mut args = match Cli::try_parse_from(all).map(|cli| cli.command) {
            Ok(Some(Command::Run(args))) => *args,
            Ok(_) => return Err(Failure::input("--plan: is a flag of costmark run")),
            Err(error) => {
                return Err(self.locate(Failure::input(format!(
                    "--plan {}: {}",
                    self.path.display(),
                    first_words(&error)
                ))));
            }
        };
        args.models = self.models(&args.model);
        Ok(args)
    }

    fn values(&self, flag: &str) -> Option<&[String]> {
        let entry = self.entries.iter().find(|entry| entry.flag == flag)?;
        Some(&entry.values)
    }

    /// Refuses a flag that the file has too: nobody should have to know which of them counts.
    fn refuse_twice(&self, typed: &[String]) -> Result<()> {
        let Ok(matches) = Cli::command().try_get_matches_from(typed) else {
            return Ok(());
        };
        let Some(matches) = matches.subcommand_matches("run") else {
            return Ok(());
        };
        for arg in flags() {
            let is_typed =
                matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
            let long = arg.get_long().unwrap_or_default();
            let entry = self.entries.iter().find(|entry| entry.flag == long);
            if let (true, Some(entry)) = (is_typed, entry) {
                return Err(Failure::input(format!(
                    "--{long}: {}:{} says it already; leave out one of them",
                    self.path.display(),
                    entry.line
                )));
            }
        }
        Ok(())
    }

    /// Each model in each format, if there are several.
    fn models(&self, base: &ModelArgs) -> Vec<ModelArgs> {
        let one = |value: &Option<String>| vec![value.clone()];
        let several = |values: &[String]| values.iter().cloned().map(Some).collect::<Vec<_>>();
        let models = self.values("model").map_or(one(&base.model), several);
        let (dtypes, quantized) = (self.values("dtype"), self.values("quantize"));
        let formats: Vec<(Option<String>, Option<String>)> = if dtypes.or(quantized).is_none() {
            vec![(base.dtype.clone(), base.quantize.clone())]
        } else {
            let floats = dtypes
                .into_iter()
                .flatten()
                .map(|d| (Some(d.clone()), None));
            let others = quantized.into_iter().flatten();
            floats
                .chain(others.map(|q| (None, Some(q.clone()))))
                .collect()
        };
        let all: Vec<ModelArgs> = models
            .iter()
            .flat_map(|model| {
                formats.iter().map(|(dtype, quantize)| ModelArgs {
                    model: model.clone(),
                    dtype: dtype.clone(),
                    quantize: quantize.clone(),
                    ..base.clone()
                })
            })
            .collect();
        if all.len() > 1 { all } else { Vec::new() }
    }

    /// Says where in the file a flag stands that a failure names.
    pub(crate) fn locate(&self, failure: Failure) -> Failure {
        let Failure::Input(error) = &failure else {
            return failure;
        };
        let message = error.to_string();
        let named = message.split("--").skip(1).find_map(|rest| {
            let end = rest.find(|c: char| !(c.is_ascii_lowercase() || c == '-'));
            let name = &rest[..end.unwrap_or(rest.len())];
            self.entries.iter().find(|entry| entry.flag == name)
        });
        match named {
            Some(entry) => {
                Failure::input(format!("{}:{}: {message}", self.path.display(), entry.line))
            }
            None => failure,
        }
    }
}

/// Whether a flag takes a value, by itself.
fn check(flag: &str, text: &str) -> Result<(), String> {
    let format = match flag {
        "dtype" => format_choice(Some(text), None).err(),
        "quantize" => format_choice(None, Some(text)).err(),
        _ => None,
    };
    if let Some(failure) = format {
        let message = failure.message();
        let known = message.strip_prefix(&format!("--{flag}"));
        return Err(known.map_or(message.clone(), |m| m.trim_start_matches([' ', ':']).into()));
    }
    use clap::error::ErrorKind::{InvalidValue, ValueValidation};
    match Cli::try_parse_from(["costmark", "run", &format!("--{flag}={text}")]) {
        Err(error) if matches!(error.kind(), InvalidValue | ValueValidation) => {
            Err(value::complaint(text, &error))
        }
        // Whether it goes with the other flags is told of all of them together.
        _ => Ok(()),
    }
}

/// The first paragraph of what clap says.
fn first_words(error: &clap::Error) -> String {
    let text = error.to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    first
        .trim_start_matches("error: ")
        .trim()
        .replace('\n', " ")
}
