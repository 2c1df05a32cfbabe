//! `ddpm-gpu evaluate`

mod generated;
mod likelihood;
mod tables;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use ddpm_gpu::checkpoint::{CheckpointError, resolve};
use ddpm_gpu::data::{self, DataError, Dataset, OpenOptions, Split};
use ddpm_gpu::evaluate::{EvaluateRequest, OdeOptions};
use ddpm_gpu::output::{check_writable, write_text};
use ddpm_gpu::sampler::TOLERANCES;
use serde_json::Map;

use generated::{GeneratedArgs, Subject};
use likelihood::{Nll, parse_nll};

use super::bounds::{MOST, MOST_IMAGES, count_in, count_u64_in, finite_in};
use super::checkpoint::{WeightsArgs, load_classifier};
use super::dataset::{DatasetArgs, doubts};
use super::{DeviceArgs, one_of};

/// Measure how likely a trained model finds images, and how good the images are that it draws
///
/// --nll measures bits per dimension of a data set's images as 8-bit values; less is better. The variational bound
/// takes a pass through the network for every timestep, the ODE a hundred or two, there and back.
///
/// --classifier draws images and compares them with a data set's. Accuracy is the share that the classifier gives the
/// class asked for. The Frechet distance (Heusel et al. 2017) and precision and recall (Kynkaanniemi et al. 2019) are
/// those of the classifier's features: precision is the share of images that look real, recall the share of real ones
/// that the model's variety covers. Lists of samplers, steps and scales make a table. Figures of few images, or by
/// another classifier, compare with nothing else.
#[derive(clap::Args)]
pub(super) struct Args {
    /// A checkpoint, a training run's output folder (its newest checkpoint), or a pipeline saved by diffusers; with
    /// --classifier also images: floats [N, C, H, W] in -1..1 as .npy, or a data set's name or path
    #[arg(value_name = "DIR|IMAGES")]
    subject: PathBuf,
    #[command(flatten)]
    weights: WeightsArgs,
    /// The data set: digits (in the program), fashion-mnist, cifar10; or a path, as in `train`
    #[arg(long, value_name = "NAME|PATH")]
    dataset: String,
    #[command(flatten)]
    files: DatasetArgs,
    /// Which images of the data set: test, those held out; or train. By default test, and all of a path that has no
    /// split
    #[arg(long, value_name = "test|train", value_parser = parse_split)]
    split: Option<Split>,
    /// The negative logarithm of the likelihood: vlb, the variational bound term by term (Ho et al. 2020); ode, by the
    /// probability-flow ODE with Hutchinson's estimator (Song et al. 2021); or both
    #[arg(long, value_name = "both|vlb|ode", num_args = 0..=1, default_missing_value = "both", value_parser = parse_nll)]
    nll: Option<Nll>,
    /// How many images: of the data set, from the first on, for --nll; drawn anew for --classifier. By default 128, and
    /// all that are given
    #[arg(long, value_name = "N", value_parser = count_in(1..=MOST_IMAGES))]
    num_images: Option<usize>,
    /// Images that go through the network together
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = count_in(1..=MOST))]
    batch_size: usize,
    /// Error that the ODE of --nll may make in a step, relative and absolute
    #[arg(
        long,
        default_value_t = OdeOptions::default().tolerance,
        value_name = "X",
        requires = "nll",
        value_parser = finite_in(TOLERANCES)
    )]
    ode_tolerance: f64,
    /// Decides all noise, dequantisation and probes
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = count_u64_in(0..=u64::MAX))]
    seed: u64,
    /// Also write the result as JSON, with the bound's term of every timestep
    #[arg(long, value_name = "FILE.json")]
    output: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
    // Last, because its heading holds for what follows.
    #[command(flatten)]
    generated: GeneratedArgs,
}

/// Images where the user says nothing.
const NUM_IMAGES: usize = 128;

fn parse_split(name: &str) -> Result<Split, String> {
    one_of("splits", &[("test", Split::Test), ("train", Split::Train)], name)
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let classifier = match &args.generated.classifier {
        Some(folder) => Some(load_classifier(folder)?),
        None if args.nll.is_none() => {
            bail!(
                "say what to measure: --nll, the likelihood; or --classifier DIR, the quality of generated images"
            )
        }
        None => {
            args.generated.check_unused()?;
            None
        }
    };
    let pipeline = match resolve(&args.subject) {
        Ok(folder) => Some(args.generated.told(args.weights.load(&folder)?)?),
        // Images have no likelihood of their own.
        Err(CheckpointError::NoCheckpoint { .. }) if args.nll.is_none() => None,
        Err(error) => return Err(error.into()),
    };
    let [height, width, channels] = match (&pipeline, &classifier) {
        (_, Some(classifier)) => classifier.classifier()?.network.image()?,
        (Some(pipeline), None) => pipeline.denoiser()?.network.image()?,
        (None, None) => bail!("{}: no checkpoint", args.subject.display()),
    };
    let size = [height, width];
    let open = |name: &str| -> anyhow::Result<Arc<dyn Dataset>> {
        let options = |split| OpenOptions {
            channels: Some(channels),
            image_size: Some(size),
            split,
            ..args.files.options()
        };
        let is_named = data::ALL.iter().any(|source| source.name == name);
        let dataset = match data::open(name, &options(args.split.unwrap_or(Split::Test))) {
            // A folder is what was asked for; of a data set with a name it may be what the model was trained on.
            Err(DataError::NoSplit { .. }) if args.split.is_none() && !is_named => {
                data::open(name, &options(Split::Train))
            }
            Err(error @ DataError::NoSplit { .. }) => {
                return Err(error).context(
                    "the images cannot be opened (--split train takes those that models are trained on)",
                );
            }
            opened => opened,
        };
        let dataset: Arc<dyn Dataset> = dataset.context("the images cannot be opened")?.into();
        doubts(dataset.as_ref()).iter().for_each(|text| eprintln!("{name}: {text}"));
        Ok(dataset)
    };
    let dataset = open(&args.dataset)?;
    // What is wrong is found before a device is opened or a file is written.
    let subject = match (&classifier, &pipeline) {
        (None, _) => None,
        (Some(_), Some(pipeline)) => Some(Subject::Model {
            pipeline,
            sweep: Box::new(args.generated.sweep(
                pipeline,
                args.num_images.unwrap_or(NUM_IMAGES),
                args.batch_size,
                args.seed,
            )?),
        }),
        (Some(_), None) => {
            args.generated.check_given()?;
            Some(Subject::images(&args.subject, (channels, size), args.num_images, open)?)
        }
    };
    if let Some(path) = &args.output {
        check_writable(path)?;
    }
    let device = args.device.open().await?;
    let mut output = Map::new();
    if let (Some(nll), Some(pipeline)) = (args.nll, &pipeline) {
        let request = EvaluateRequest {
            num_images: args.num_images.unwrap_or(NUM_IMAGES).min(dataset.len()),
            batch_size: args.batch_size,
            seed: args.seed,
            dataset: dataset.clone(),
        };
        let options = OdeOptions { tolerance: args.ode_tolerance };
        likelihood::run(nll, options, &device, pipeline, &request, &mut output).await?;
    }
    if let (Some(classifier), Some(subject)) = (&classifier, subject) {
        generated::run(&subject, classifier, &dataset, args.batch_size, &device, &mut output).await?;
    }
    if let Some(path) = &args.output {
        let text = serde_json::to_string_pretty(&output)? + "\n";
        write_text(path, &text)?;
        eprintln!("wrote {}", path.display());
    }
    Ok(())
}
