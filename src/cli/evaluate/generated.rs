//! `evaluate --classifier`

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::bail;
use ddpm_gpu::conditions::Conditions;
use ddpm_gpu::data::{Batch, Dataset};
use ddpm_gpu::device::Device;
use ddpm_gpu::diffusion::Respacing;
use ddpm_gpu::evaluate::{Evaluator, Sweep, SweepEvent, Trial, TrialOutcome};
use ddpm_gpu::pipeline::Pipeline;
use ddpm_gpu::sample::{Guidance, Images, SampleRequest};
use serde_json::{Map, Value};

use super::tables;
use crate::cli::bounds::{MOST_SCALE, finite_in};
use crate::cli::checkpoint::load_classifier;
use crate::cli::images::read_images;
use crate::cli::progress::Progress;
use crate::cli::sampling::{SamplerArgs, classes_in_turn, sampler_or_default, told_null_class};

/// What draws images, and what measures them.
#[derive(clap::Args)]
pub(super) struct GeneratedArgs {
    /// Draw images and measure them by this classifier of `train-classifier`
    #[arg(long, value_name = "DIR", help_heading = "Generated images")]
    pub(super) classifier: Option<PathBuf>,
    #[command(flatten, next_help_heading = "Generated images")]
    ways: Ways,
}

/// The ways of drawing images.
#[derive(clap::Args, Default, PartialEq)]
struct Ways {
    /// Samplers to compare, separated by commas, as in `sample`; by default that of the model's scheduler config
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    sampler: Vec<String>,
    /// Numbers of steps to compare, or ddimN; by default each sampler's own
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    steps: Vec<Respacing>,
    /// Scales of classifier-free guidance to compare; 1 is none
    #[arg(long, value_name = "W,...", value_delimiter = ',', value_parser = finite_in(0.0..=MOST_SCALE))]
    guidance_scale: Vec<f64>,
    /// As in `sample`
    #[arg(long, value_name = "K")]
    null_class: Option<u32>,
    /// As in `sample`
    #[arg(long, value_name = "PHI", value_parser = finite_in(0.0..=1.0))]
    guidance_rescale: Option<f64>,
    /// Guide by the gradient of this classifier; one that measures its own guidance is no judge
    #[arg(long, value_name = "DIR")]
    guiding_classifier: Option<PathBuf>,
    /// Factors of that gradient to compare; by default 1
    #[arg(
        long,
        value_name = "S,...",
        value_delimiter = ',',
        requires = "guiding_classifier",
        value_parser = finite_in(-MOST_SCALE..=MOST_SCALE)
    )]
    classifier_scale: Vec<f64>,
    #[command(flatten)]
    options: SamplerArgs,
}

/// What is measured.
pub(super) enum Subject<'a> {
    /// A model that draws images.
    Model { pipeline: &'a Pipeline, sweep: Box<Sweep> },
    /// Given images, and their classes where these are known.
    Images { images: Images, labels: Option<Vec<u32>> },
}

impl GeneratedArgs {
    /// Refuses flags that draw images, where none are asked for.
    pub(super) fn check_unused(&self) -> anyhow::Result<()> {
        if self.ways != Ways::default() {
            bail!(
                "samplers, their options and guidance are for drawing images: add --classifier, or leave them out"
            );
        }
        Ok(())
    }

    /// Refuses flags that draw images, where images are given.
    pub(super) fn check_given(&self) -> anyhow::Result<()> {
        if self.ways != Ways::default() {
            bail!(
                "samplers, their options and guidance are for drawing images: give a model, or leave them out with given \
                 images"
            );
        }
        Ok(())
    }

    /// The model, told which class means none.
    pub(super) fn told(&self, pipeline: Pipeline) -> anyhow::Result<Pipeline> {
        told_null_class(pipeline, self.ways.null_class)
    }

    /// The trials asked for, checked.
    pub(super) fn sweep(
        &self,
        pipeline: &Pipeline,
        num_images: usize,
        batch_size: usize,
        seed: u64,
    ) -> anyhow::Result<Sweep> {
        let Ways { sampler, steps, guidance_scale, guidance_rescale, classifier_scale, .. } = &self.ways;
        let chosen = |name: &String| sampler_or_default(Some(name.trim()), pipeline);
        let samplers = match sampler[..] {
            [] => vec![sampler_or_default(None, pipeline)?],
            _ => sampler.iter().map(chosen).collect::<anyhow::Result<_>>()?,
        };
        let guide = match &self.ways.guiding_classifier {
            Some(folder) => Some(load_classifier(folder)?),
            None => None,
        };
        let scales = |given: &[f64]| if given.is_empty() { vec![1.0] } else { given.to_vec() };
        let mut guidance = Vec::new();
        for scale in scales(guidance_scale) {
            for classifier_scale in scales(classifier_scale) {
                let classifier = guide.clone().map(|classifier| (classifier, classifier_scale));
                guidance.push(Guidance { scale, rescale: guidance_rescale.unwrap_or(0.0), classifier });
            }
        }
        SampleRequest::check_memory(pipeline, num_images, 0)?;
        let network = &pipeline.denoiser()?.network;
        let mut classes = network.num_classes();
        if let (None, Some(guide)) = (classes, &guide) {
            classes = Some(guide.classifier()?.network.classes_told()?);
        }
        let in_turn = |told| classes_in_turn(network.as_ref(), told, num_images);
        let request = SampleRequest {
            num_images,
            conditions: Conditions::of_classes(classes.map(in_turn)),
            options: self.ways.options.options(&pipeline.scheduler, None),
            seed,
            batch_size,
            ..SampleRequest::new(samplers[0], &pipeline.scheduler)
        };
        let sweep = Sweep { samplers, steps: steps.clone(), guidance, request };
        sweep.check(pipeline)?;
        for warning in sweep.warnings(pipeline) {
            eprintln!("warning: {warning}");
        }
        Ok(sweep)
    }
}

impl Subject<'_> {
    /// Images of an .npy file, or of a data set, which `open` opens by its name or path; at most `limit`.
    pub(super) fn images(
        source: &Path,
        (channels, size): (usize, [usize; 2]),
        limit: Option<usize>,
        open: impl Fn(&str) -> anyhow::Result<Arc<dyn Dataset>>,
    ) -> anyhow::Result<Self> {
        let limit = limit.unwrap_or(usize::MAX);
        let name = source.display().to_string();
        if source.extension().is_some_and(|found| found.eq_ignore_ascii_case("npy")) {
            let images = read_images(&name, Some(channels), Some(size), limit)?;
            return Ok(Self::Images { images, labels: None });
        }
        let dataset =
            open(&name).map_err(|error| error.context(format!("{name} is no checkpoint; as images")))?;
        let count = dataset.len().min(limit);
        let shape = dataset.image_shape();
        let Batch { images: data, conditions } = Batch::read(&*dataset, 0..count)?;
        let images = Images { shape: [count, shape.height, shape.width, shape.channels], data };
        Ok(Self::Images { images, labels: conditions.class_labels().map(<[u32]>::to_vec) })
    }
}

/// Measures, prints, and adds the results to `output`.
pub(super) async fn run(
    subject: &Subject<'_>,
    classifier: &Pipeline,
    dataset: &Arc<dyn Dataset>,
    batch_size: usize,
    device: &Device,
    output: &mut Map<String, Value>,
) -> anyhow::Result<()> {
    let mut progress = Progress::new(0, dataset.len() as u64);
    let mut evaluator = Evaluator::new(device, classifier, dataset.as_ref(), batch_size, &mut |done| {
        progress.set(done as u64, "images of the data set");
    })
    .await?;
    progress.finish();
    let accuracy = evaluator.reference_accuracy();
    println!(
        "compared with {} images of {}, of which the classifier gives {} their class",
        dataset.len(),
        dataset.name(),
        accuracy.map_or("none".to_owned(), tables::percent)
    );
    output.insert("dataset".to_owned(), dataset.name().into());
    output.insert("dataset_images".to_owned(), dataset.len().into());
    output.insert("dataset_accuracy".to_owned(), accuracy.into());
    match subject {
        Subject::Images { images, labels } => {
            let quality = evaluator.measure(images, labels.as_deref()).await?;
            println!("{} images\n\n{}", images.shape[0], tables::one(&quality));
            output.insert("generated_images".to_owned(), images.shape[0].into());
            output.insert("quality".to_owned(), serde_json::to_value(quality)?);
        }
        Subject::Model { pipeline, sweep } => {
            let trials = draw(sweep, device, pipeline, &mut evaluator).await?;
            println!("{} images drawn in each way, seed {}\n", sweep.request.num_images, sweep.request.seed);
            print!("{}", tables::all(&trials));
            output.insert("generated_images".to_owned(), sweep.request.num_images.into());
            output.insert("seed".to_owned(), sweep.request.seed.into());
            output.insert("trials".to_owned(), serde_json::to_value(trials)?);
        }
    }
    Ok(())
}

/// Draws and measures in every way; each result is shown at once.
async fn draw(
    sweep: &Sweep,
    device: &Device,
    pipeline: &Pipeline,
    evaluator: &mut Evaluator,
) -> anyhow::Result<Vec<Trial>> {
    let mut bar: Option<Progress> = None;
    let mut report = |event: SweepEvent<'_>| match event {
        SweepEvent::Sampling(state) => {
            bar.get_or_insert_with(|| Progress::new(0, state.total as u64)).set(state.done as u64, "");
        }
        SweepEvent::Finished(trial) => {
            if let Some(bar) = bar.take() {
                bar.finish();
            }
            let said = match &trial.outcome {
                TrialOutcome::Measured(quality) => tables::line(quality),
                TrialOutcome::Refused { refused } => refused.clone(),
            };
            eprintln!("{}: {said}", tables::describe(trial));
        }
    };
    Ok(sweep.run(device, pipeline, evaluator, &mut report).await?)
}
