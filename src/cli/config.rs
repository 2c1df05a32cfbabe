//! `--config run.toml`: a file of flags.
//!
//! Its keys are the flags that clap knows, with `_` for `-`; there is no other list of them. What the file says becomes
//! words of the command line, unless the user's own words say otherwise.

use std::any::TypeId;
use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::builder::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, CommandFactory, FromArgMatches};
use ddpm_gpu::files::read_regular_text;
use ddpm_gpu::train::SETTINGS_FILE;
use toml::{Table, Value};

use super::Cli;
use super::bounds::take_negative_numbers;
use super::hints::Flags;
use super::terminal::{escape_words, escaped};

/// A file of settings.
#[derive(clap::Args)]
pub(super) struct ConfigArgs {
    /// Take settings from a file: a line such as `learning_rate = 1e-4` or `random_flip = true` for each flag, with _ for -.
    /// Flags on the command line win; paths are relative to the current folder. A run writes all of its settings to run.toml in its
    /// output folder
    #[arg(long, value_name = "FILE.toml")]
    pub(super) config: Option<PathBuf>,
}

/// Flags that say what to do now; no file holds them.
const NO_SETTINGS: [&str; 4] = ["config", "resume", "dry-run", "help"];

/// The command line, parsed.
pub(super) struct Parsed {
    pub(super) cli: Cli,
    /// The text of a file with all settings, for commands that have `--config`.
    pub(super) settings: Option<String>,
    /// What hints may name.
    pub(super) flags: Flags,
}

/// Parses the command line, with the file that `--config` names.
pub(super) fn parse(words: Vec<OsString>) -> clap::error::Result<Parsed> {
    let mut cli = take_negative_numbers(Cli::command());
    cli.build();
    let named = words.get(1).and_then(|word| cli.find_subcommand(word));
    let Some(command) = named.filter(|command| argument(command, "config").is_some()) else {
        let matches = cli.try_get_matches_from_mut(words).map_err(escape_words)?;
        let flags = Flags::new(cli, &matches);
        return Ok(Parsed { cli: Cli::from_arg_matches(&matches)?, settings: None, flags });
    };
    let command = command.clone();
    let fault = |text: String| command.clone().error(ErrorKind::InvalidValue, escaped(&text));
    let path = config_path(&words);
    let from_file = match &path {
        Some(path) => words_of_file(path, &command, &words).map_err(fault)?,
        None => Vec::new(),
    };
    let (start, own) = words.split_at(2);
    let all = start.iter().chain(&from_file).chain(own);
    let matches = cli.try_get_matches_from_mut(all).map_err(escape_words).map_err(|error| match &path {
        Some(path) if is_about(&error, &from_file) => {
            let text = error.to_string();
            let cause = text.trim_start_matches("error: ").split("\n\n").next().unwrap_or_default();
            fault(format!("{}: {cause}", path.display()))
        }
        _ => error,
    })?;
    let settings = match matches.subcommand() {
        Some((_, matches)) => Some(settings(&command, matches).map_err(fault)?),
        None => None,
    };
    let flags = Flags::new(cli, &matches);
    Ok(Parsed { cli: Cli::from_arg_matches(&matches)?, settings, flags })
}

/// What has changed from one file of settings to another, in words.
pub(super) fn changes(then: &str, now: &str) -> Vec<String> {
    let table = |text: &str| text.parse::<Table>().unwrap_or_default();
    let (then, now) = (table(then), table(now));
    let keys = then.keys().chain(now.keys().filter(|key| !then.contains_key(*key)));
    let show = |table: &Table, key: &str| table.get(key).map_or("not set".to_owned(), Value::to_string);
    keys.filter(|key| then.get(*key) != now.get(*key))
        .map(|key| format!("{key} was {}, now it is {}", show(&then, key), show(&now, key)))
        .collect()
}

fn argument<'c>(command: &'c Command, flag: &str) -> Option<&'c Arg> {
    command.get_arguments().find(|arg| arg.get_long() == Some(flag))
}

fn is_setting(arg: &Arg) -> bool {
    arg.get_long().is_some_and(|flag| !NO_SETTINGS.contains(&flag))
}

/// The key of a flag.
fn key(arg: &Arg) -> String {
    arg.get_long().unwrap_or_default().replace('-', "_")
}

fn is_flag(word: &OsStr, flag: &str) -> bool {
    let rest = word.to_str().and_then(|word| word.strip_prefix("--")?.strip_prefix(flag));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
}

/// The value of `--config`.
fn config_path(words: &[OsString]) -> Option<PathBuf> {
    let at = words.iter().rposition(|word| is_flag(word, "config"))?;
    match words[at].to_str()?.split_once('=') {
        Some((_, path)) => Some(path.into()),
        None => words.get(at + 1).map(PathBuf::from),
    }
}

/// Whether the user's own words set a flag, by its name or another.
fn is_given(arg: &Arg, words: &[OsString]) -> bool {
    let names = arg.get_long().into_iter().chain(arg.get_all_aliases().unwrap_or_default());
    names.into_iter().any(|name| words.iter().any(|word| is_flag(word, name)))
}

fn are_in_conflict(command: &Command, one: &Arg, other: &Arg) -> bool {
    let lists = |of: &Arg, what: &Arg| {
        command.get_arg_conflicts_with(of).iter().any(|found| found.get_id() == what.get_id())
    };
    lists(one, other) || lists(other, one)
}

/// The settings of a file as words, without those that the user's own words replace or exclude.
fn words_of_file(path: &Path, command: &Command, words: &[OsString]) -> Result<Vec<OsString>, String> {
    let name = path.display();
    let text = read_regular_text(path).map_err(|error| format!("{name}: cannot be read: {error}"))?;
    let table: Table = text.parse().map_err(|error| format!("{name}: {error}"))?;
    let given: Vec<&Arg> = command.get_arguments().filter(|arg| is_given(arg, words)).collect();
    let mut found = Vec::new();
    for (written, value) in &table {
        let known = command.get_arguments().find(|arg| is_setting(arg) && key(arg) == *written);
        let Some(arg) = known else { return Err(format!("{name}: {}", unknown(command, written))) };
        let is_replaced = |own: &&Arg| own.get_id() == arg.get_id() || are_in_conflict(command, arg, own);
        let words = to_words(arg, value).map_err(|expected| {
            format!("{name}: {written} is {value} of type {}; expected {expected}", value.type_str())
        })?;
        if !given.iter().any(is_replaced) {
            found.extend(words);
        }
    }
    Ok(found)
}

/// What is wrong with a key, and which one may have been meant.
fn unknown(command: &Command, written: &str) -> String {
    if NO_SETTINGS.contains(&written.replace('_', "-").as_str()) {
        return format!("{written} is not for files; give it on the command line");
    }
    let keys = command.get_arguments().filter(|arg| is_setting(arg)).map(key);
    let near = |key: &String| strsim::damerau_levenshtein(key, written);
    let nearest = keys.min_by_key(near).unwrap_or_default();
    format!("there is no setting {written}; the nearest is {nearest}, and `--help` explains all of them")
}

fn is_number(arg: &Arg) -> bool {
    let id = arg.get_value_parser().type_id();
    [
        TypeId::of::<usize>(),
        TypeId::of::<u64>(),
        TypeId::of::<u32>(),
        TypeId::of::<f64>(),
        TypeId::of::<f32>(),
    ]
    .iter()
    .any(|number| id == *number)
}

fn is_text(arg: &Arg) -> bool {
    let id = arg.get_value_parser().type_id();
    id == TypeId::of::<String>() || id == TypeId::of::<PathBuf>()
}

/// Whether a flag takes several values.
fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

/// A setting as words of the command line, or what it should have been.
fn to_words(arg: &Arg, value: &Value) -> Result<Vec<OsString>, &'static str> {
    let flag = arg.get_long().unwrap_or_default();
    let word = |value: &Value| {
        let text = match value {
            Value::String(text) if !is_number(arg) || is_beyond_toml(text) => text.clone(),
            Value::Integer(_) | Value::Float(_) => value.to_string(),
            _ if is_number(arg) => return Err("a number"),
            _ => return Err("a string"),
        };
        Ok(OsString::from(format!("--{flag}={text}")))
    };
    match (arg.get_action(), value) {
        (ArgAction::SetTrue, Value::Boolean(true)) => Ok(vec![format!("--{flag}").into()]),
        (ArgAction::SetTrue, Value::Boolean(false)) => Ok(Vec::new()),
        (ArgAction::SetTrue, _) => Err("true or false"),
        (_, Value::Array(values)) if is_list(arg) => values.iter().map(word).collect(),
        _ => Ok(vec![word(value)?]),
    }
}

/// TOML's integers have 63 bits; the largest seeds are written as text.
fn is_beyond_toml(text: &str) -> bool {
    text.parse::<u64>().is_ok() && text.parse::<i64>().is_err()
}

/// Whether an error is about a value of the file.
fn is_about(error: &clap::Error, from_file: &[OsString]) -> bool {
    let Some(ContextValue::String(named)) = error.get(ContextKind::InvalidArg) else { return false };
    let flag = named.trim_start_matches("--").split(' ').next().unwrap_or_default();
    from_file.iter().any(|word| is_flag(word, flag))
}

/// Every setting as it is, defaults included, as the text of a file.
fn settings(command: &Command, matches: &ArgMatches) -> Result<String, String> {
    let is_given = |arg: &Arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
    let given: Vec<&Arg> = command.get_arguments().filter(|arg| is_given(arg)).collect();
    let mut text = format!(
        "# All settings of this run. To go on with it: ddpm-gpu {} --config {SETTINGS_FILE} --resume\n",
        command.get_name()
    );
    for arg in command.get_arguments().filter(|arg| is_setting(arg)) {
        // A default that a given flag excludes is not in force.
        if !is_given(arg) && given.iter().any(|given| are_in_conflict(command, arg, given)) {
            continue;
        }
        let Some(raw) = matches.get_raw(arg.get_id().as_str()) else { continue };
        let values: Option<Vec<Value>> = raw.map(|raw| Some(to_value(arg, raw.to_str()?))).collect();
        let mut values = values.ok_or_else(|| {
            format!("--{} is not UTF-8, which {SETTINGS_FILE} needs", arg.get_long().unwrap_or_default())
        })?;
        let value = if is_list(arg) { Value::Array(values) } else { values.swap_remove(0) };
        // Writing to a string never fails.
        let _ = writeln!(text, "{} = {value}", key(arg));
    }
    Ok(text)
}

fn to_value(arg: &Arg, text: &str) -> Value {
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        return Value::Boolean(text == "true");
    }
    let integer = text.parse::<i64>().ok().filter(|integer| integer.to_string() == text);
    match integer {
        _ if is_text(arg) => Value::String(text.to_owned()),
        Some(integer) => Value::Integer(integer),
        None => match text.parse().ok().filter(|_| is_number(arg) && !is_beyond_toml(text)) {
            Some(float) => Value::Float(float),
            None => Value::String(text.to_owned()),
        },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
