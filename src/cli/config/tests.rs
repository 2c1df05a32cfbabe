use super::*;
use crate::cli::{Command as Subcommand, train};

fn words(line: &str) -> Vec<OsString> {
    format!("ddpm-gpu {line}").split_whitespace().map(OsString::from).collect()
}

/// What `train` gets of a file and the rest of a line, and the settings it writes.
fn train(file: &str, line: &str) -> Result<(train::Args, String), String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.toml");
    std::fs::write(&path, file).unwrap();
    let mut words = words(&format!("train {line}"));
    words.extend(["--config".into(), path.into_os_string()]);
    match parse(words).map_err(|error| error.to_string())? {
        Parsed { cli: Cli { command: Subcommand::Train(args) }, settings: Some(settings), .. } => {
            Ok((args, settings))
        }
        _ => panic!("this is another command"),
    }
}

const LEAST: &str = "dataset = \"digits\"\noutput = \"run\"\n";

#[test]
fn the_file_gives_flags_and_the_command_line_wins() {
    let file = format!("{LEAST}steps = 20\nlearning_rate = 1e-3\nrandom_flip = true\nema_decay = 0\n");
    let (args, settings) = train(&file, "--steps 30 --checkpoint-every=10m").unwrap();
    let options = args.training.options();
    assert_eq!((options.steps, options.learning_rate, options.random_flip), (30, 1e-3, true));
    let table: Table = settings.parse().unwrap();
    for (key, value) in [
        ("dataset", Value::from("digits")),
        ("steps", Value::from(30)),
        ("batch_size", Value::from(64)),
        ("learning_rate", Value::from(1e-3)),
        ("random_flip", Value::from(true)),
        ("unconditional", Value::from(false)),
        ("checkpoint_every", Value::from("10m")),
        ("device", Value::from("auto")),
    ] {
        assert_eq!(table.get(key), Some(&value), "{key} in {settings}");
    }
    for key in ["config", "resume", "dry_run", "help", "model"] {
        assert!(!table.contains_key(key), "{key} in {settings}");
    }
}

#[test]
fn what_is_written_gives_the_same_settings_again() {
    let lines = [
        "--dataset digits --output run",
        "--dataset 007 --output run --model 12 --seed 18446744073709551615 --learning-rate 3.3e-5 --random-flip",
        "--dataset digits --output run --trained-betas betas.json --adam-beta1 0.95 --max-grad-norm 0 --tuning 5",
        "--dataset digits --output run --noise-schedule cosine --super-resolution 4 --noise-augmentation 0",
    ];
    for line in lines {
        let (_, written) = train("", line).unwrap();
        let (_, again) = train(&written, "").unwrap();
        assert_eq!(written, again, "{line}");
    }
}

#[test]
fn a_flag_that_excludes_one_of_the_file_wins_too() {
    let file = format!("{LEAST}beta_schedule = \"cosine\"\n");
    let (_, settings) = train(&file, "--trained-betas betas.json").unwrap();
    assert!(settings.contains("betas.json") && !settings.contains("cosine"), "{settings}");
    // by an alias of the flag
    let (_, settings) = train(&file, "--noise-schedule sigmoid").unwrap();
    assert!(settings.contains("sigmoid") && !settings.contains("cosine"), "{settings}");
}

#[test]
fn mistakes_are_named_with_the_file() {
    for (line, words) in [
        ("learnin_rate = 1", &["there is no setting learnin_rate", "nearest is learning_rate"][..]),
        ("batch-size = 1", &["there is no setting batch-size", "nearest is batch_size"]),
        ("resume = true", &["resume is not for files"]),
        ("dry_run = true", &["dry_run is not for files"]),
        ("steps = \"many\"", &["steps is \"many\" of type string; expected a number"]),
        ("steps = true", &["steps is true of type boolean; expected a number"]),
        ("steps = 1.5", &["invalid value '1.5' for '--steps"]),
        ("steps = -1", &["invalid value '-1' for '--steps"]),
        ("steps = [1, 2]", &["steps is [1, 2] of type array; expected a number"]),
        ("random_flip = 1", &["random_flip is 1 of type integer; expected true or false"]),
        ("model = true", &["model is true of type boolean; expected a string"]),
        ("lr_schedule = \"zigzag\"", &["zigzag", "constant, cosine, linear"]),
        ("checkpoint_every = 0", &["--checkpoint-every", "90s, 10m or 2h"]),
        ("steps = ", &["line 3"]),
        ("steps = 1\nsteps = 2", &["duplicate key"]),
    ] {
        let Err(message) = train(&format!("{LEAST}{line}\n"), "") else { panic!("{line} is accepted") };
        for word in words {
            assert!(message.contains(word), "{line} does not say `{word}`: {message}");
        }
        assert!(message.contains("run.toml: "), "{line} does not name the file: {message}");
    }
    let Err(message) = train(LEAST, "--steps many") else { panic!("--steps many is accepted") };
    assert!(!message.contains("run.toml"), "{message}");
    let Err(message) = train("output = \"run\"", "") else { panic!("no --dataset is accepted") };
    assert!(message.contains("--dataset"), "{message}");
}

#[test]
fn lists_are_arrays() {
    let arg =
        Arg::new("rates").long("rates").action(ArgAction::Append).value_parser(clap::value_parser!(f64));
    let command = Command::new("train").arg(&arg);
    let list: Table = "rates = [0.9, 1]".parse().unwrap();
    assert_eq!(to_words(&arg, &list["rates"]).unwrap(), ["--rates=0.9", "--rates=1"]);
    let matches = command.clone().get_matches_from(["train", "--rates=0.9", "--rates=1"]);
    assert!(settings(&command, &matches).unwrap().ends_with("rates = [0.9, 1]\n"));
}

#[test]
fn changes_are_listed() {
    let changed = changes("a = 1\nb = 2\nc = 3\n", "a = 1\nb = \"x\"\nd = 4\n");
    let expected = ["b was 2, now it is \"x\"", "c was 3, now it is not set", "d was not set, now it is 4"];
    assert_eq!(changed, expected);
}

#[test]
fn commands_without_the_flag_are_parsed_as_ever() {
    let Parsed { settings, .. } = parse(words("devices")).unwrap();
    assert_eq!(settings, None);
    for line in ["", "paint", "--version", "train"] {
        assert!(parse(words(line)).is_err(), "{line}");
    }
}
