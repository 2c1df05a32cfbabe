//! `ddpm-gpu kernels`: the workbench of those who write, tune and port kernels.

mod bench;
mod bisect;
mod check;
mod list;
mod translate;
mod tune;

use std::sync::Arc;

use clap::Subcommand;
use ddpm_gpu::network::Network;
use ddpm_gpu::train::TrainOptions;
use ddpm_gpu::workbench::Filter;

use super::bounds::{MOST, count_in};
use super::model;

/// List, check, time, tune and translate the kernels
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    List(list::Args),
    Check(check::Args),
    Bench(bench::Args),
    Tune(tune::Args),
    Translate(translate::Args),
    Bisect(bisect::Args),
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::List(args) => list::run(args).await,
        Command::Check(args) => check::run(args).await,
        Command::Bench(args) => bench::run(args).await,
        Command::Tune(args) => tune::run(args).await,
        Command::Translate(args) => translate::run(args),
        Command::Bisect(args) => bisect::run(args).await,
    }
}

/// Which kernels a command is about.
#[derive(clap::Args)]
struct FilterArgs {
    /// Only kernels and variants whose names contain these words, such as conv2d.backward or "linear shuffle"
    #[arg(value_name = "FILTER")]
    filter: Option<Filter>,
}

impl FilterArgs {
    fn get(&self) -> Filter {
        self.filter.clone().unwrap_or_default()
    }

    /// The words, for a message that nothing fits them.
    fn complaint(&self) -> anyhow::Error {
        let words = self.filter.as_ref().map(ToString::to_string).unwrap_or_default();
        anyhow::anyhow!("no kernel fits '{words}'; `ddpm-gpu kernels list` shows all of them")
    }
}

/// Whose training step a command looks into.
#[derive(clap::Args)]
struct ModelArgs {
    /// A preset or a config.json
    #[arg(long, default_value = "unet-s", value_name = "PRESET|FILE")]
    model: String,
    /// Images in a step
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = count_in(1..=MOST))]
    batch_size: usize,
}

impl ModelArgs {
    fn network(&self) -> anyhow::Result<Arc<dyn Network>> {
        Ok(Arc::new(model::load(&self.model)?))
    }

    fn options(&self) -> TrainOptions {
        TrainOptions { batch_size: self.batch_size, ..TrainOptions::default() }
    }
}
