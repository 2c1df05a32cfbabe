//! `ddpm-gpu plot`

use std::path::PathBuf;

use anyhow::Context;
use ddpm_gpu::{log, output};

/// Draw the loss curve of a training run
///
/// Also while it runs. The numbers are those of metrics.jsonl in the run's folder.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The output folder of a training run, or a metrics.jsonl
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// The picture: a .png or a .svg
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// What stands above the curve; by default the name of the run's folder
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    output::check_writable(&args.output)?;
    let lines = log::read_metrics(&args.run)?;
    let name = || args.run.file_name().unwrap_or(args.run.as_os_str()).to_string_lossy().into_owned();
    let title = args.title.clone().unwrap_or_else(name);
    log::plot_loss(&lines, &title, &args.output).with_context(|| args.run.display().to_string())?;
    eprintln!("drew {}", args.output.display());
    Ok(())
}
