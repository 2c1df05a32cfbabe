//! `ddpm-gpu evaluate`

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use ddpm_gpu::data::{self, Dataset, OpenOptions, Split};
use ddpm_gpu::evaluate::{
    Estimate, EvaluateRequest, OdeOptions, OdeResult, VlbResult, ode_likelihood, variational_bound,
};
use ddpm_gpu::output::check_writable;

use super::checkpoint::CheckpointArgs;
use super::progress::Progress;
use super::{DeviceArgs, one_of};

/// Measure how likely a trained model finds images
///
/// Bits per dimension of images as 8-bit values; less is better. The variational bound takes a pass through the network for
/// every timestep, the ODE a hundred or two, there and back.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: CheckpointArgs,
    /// The images: digits (in the program), fashion-mnist, or a folder of PNG images
    #[arg(long, value_name = "digits|fashion-mnist|PATH")]
    dataset: String,
    /// Where the files of a named data set are
    #[arg(long, value_name = "DIR")]
    data_path: Option<PathBuf>,
    /// Which images of a named data set: test, those held out; or train
    #[arg(long, default_value = "test", value_name = "test|train", value_parser = parse_split)]
    split: Split,
    /// The negative logarithm of the likelihood: vlb, the variational bound term by term (Ho et al. 2020); ode, by the
    /// probability-flow ODE with Hutchinson's estimator (Song et al. 2021); or both
    #[arg(long, value_name = "both|vlb|ode", num_args = 0..=1, default_missing_value = "both", value_parser = parse_nll)]
    nll: Option<Nll>,
    /// How many images, from the first on
    #[arg(long, default_value_t = 128, value_name = "N")]
    num_images: usize,
    /// Images that go through the network together
    #[arg(long, default_value_t = 64, value_name = "N")]
    batch_size: usize,
    /// Error that the ODE may make in a step, relative and absolute
    #[arg(long, default_value_t = OdeOptions::default().tolerance, value_name = "X")]
    ode_tolerance: f64,
    /// Decides noise, dequantisation and probes
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Also write the result as JSON, with the bound's term of every timestep
    #[arg(long, value_name = "FILE.json")]
    output: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Nll {
    Both,
    Vlb,
    Ode,
}

fn parse_nll(name: &str) -> Result<Nll, String> {
    one_of("ways", &[("both", Nll::Both), ("vlb", Nll::Vlb), ("ode", Nll::Ode)], name)
}

fn parse_split(name: &str) -> Result<Split, String> {
    one_of("splits", &[("test", Split::Test), ("train", Split::Train)], name)
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let Some(nll) = args.nll else { bail!("say what to measure: --nll, the likelihood") };
    let pipeline = args.model.load()?;
    let options = OpenOptions {
        data_path: args.data_path.clone(),
        channels: Some(pipeline.unet.in_channels),
        image_size: Some(pipeline.unet.image_size()?[0]),
        split: args.split,
        ..OpenOptions::default()
    };
    let dataset: Arc<dyn Dataset> = data::open(&args.dataset, &options)
        .with_context(
            || "the images cannot be opened (--split train takes those that models are trained on)",
        )?
        .into();
    if let Some(path) = &args.output {
        check_writable(path)?;
    }
    let request = EvaluateRequest {
        num_images: args.num_images.min(dataset.len()),
        batch_size: args.batch_size,
        seed: args.seed,
        dataset,
    };
    let device = args.device.open().await?;
    println!("{} images of {}", request.num_images, request.dataset.name());
    let mut vlb = None;
    if nll != Nll::Ode {
        let mut progress: Option<Progress> = None;
        let found = variational_bound(&device, &pipeline, &request, &mut |done, total| {
            progress.get_or_insert_with(|| Progress::new(0, total as u64)).set(done as u64, "bound");
        })
        .await?;
        if let Some(progress) = &progress {
            progress.finish();
        }
        print_vlb(&found);
        vlb = Some(found);
    }
    let mut ode = None;
    if nll != Nll::Vlb {
        let mut progress = Progress::new(0, 1000);
        let options = OdeOptions { tolerance: args.ode_tolerance };
        let found = ode_likelihood(&device, &pipeline, &request, options, &mut |share| {
            progress.set((1000.0 * share) as u64, "thousandths of the ODE");
        })
        .await?;
        progress.finish();
        let OdeResult { bits_per_dimension, evaluations } = found;
        println!("probability-flow ODE    {} bits/dim, {evaluations} evaluations", show(bits_per_dimension));
        ode = Some(found);
    }
    if let Some(path) = &args.output {
        let value = serde_json::json!({ "images": request.num_images, "vlb": vlb, "ode": ode });
        let text = serde_json::to_string_pretty(&value)? + "\n";
        std::fs::write(path, text).with_context(|| format!("{}: cannot be written", path.display()))?;
        eprintln!("wrote {}", path.display());
    }
    Ok(())
}

fn show(estimate: Estimate) -> String {
    format!("{:.4} +- {:.4}", estimate.mean, estimate.standard_error)
}

/// The bound, with its divergences summed over ten ranges of timesteps.
fn print_vlb(found: &VlbResult) {
    println!("variational bound       {} bits/dim, of which", show(found.total));
    println!("  L_T                   {}", show(found.prior));
    let terms = &found.divergences;
    for range in 0..10 {
        let ends = [range, range + 1].map(|i| i * terms.len() / 10);
        if ends[0] < ends[1] {
            let sum: f64 = terms[ends[0]..ends[1]].iter().map(|term| term.mean).sum();
            println!("  L_(t-1), t {:16} {sum:.4}", format!("{} to {}", ends[0] + 1, ends[1]));
        }
    }
    println!("  L_0                   {}", show(found.decoder));
}
