//! Grids of samples that a run draws on its way.

use std::path::Path;

use super::{Event, Run, TrainError};
use crate::checkpoint;
use crate::conditions::Conditions;
use crate::data::Batch;
use crate::diffusion::Respacing;
use crate::log::Log;
use crate::network::SuperResolution;
use crate::output::{GridOptions, columns_for, tile};
use crate::pipeline::Pipeline;
use crate::sample::{Images, LowResolution, SampleRequest, sample};
use crate::sampler::{self, SamplerOptions};

/// The folder for them in a run's output folder.
pub(super) const SAMPLES_FOLDER: &str = "samples";

/// Steps in which they are drawn.
const SAMPLE_STEPS: usize = 50;

/// Draws a grid with the averaged weights: a row per class, or eight rows.
pub(super) async fn draw(
    run: &Run,
    step: u64,
    pipeline: &Pipeline,
    log: &mut Log,
    report: &mut (dyn FnMut(Event) + Send),
) -> Result<(), TrainError> {
    const COLUMNS: usize = 8;
    let network = &pipeline.denoiser()?.network;
    let per_class = network
        .real_classes()
        .map(|classes| (0..classes.min(10) as u32).flat_map(|class| [class; COLUMNS]).collect::<Vec<u32>>());
    let (class_labels, low_resolution) = match network.super_resolution() {
        None => (per_class, None),
        Some(model) => {
            let (low, labels) = first_images(run, model, 4 * COLUMNS)?;
            (labels.filter(|_| per_class.is_some()), Some(low))
        }
    };
    let steps = SAMPLE_STEPS.min(pipeline.scheduler.num_train_timesteps);
    let ddim = sampler::by_name("ddim").map_err(crate::sample::SampleError::from)?;
    let options =
        SamplerOptions { steps: Some(Respacing::Steps(steps)), ..SamplerOptions::new(&pipeline.scheduler) };
    let request = SampleRequest {
        options,
        num_images: match (&low_resolution, &class_labels) {
            (Some(low), _) => low.images.shape[0],
            (None, Some(labels)) => labels.len(),
            (None, None) => 4 * COLUMNS,
        },
        conditions: Conditions::of_classes(class_labels),
        low_resolution,
        seed: run.options.seed,
        precision: run.options.precision,
        ..SampleRequest::new(ddim, &pipeline.scheduler)
    };
    let images = sample(&run.device, pipeline, &request, &mut |_| {}).await?.images;
    let columns = Some(columns_for(COLUMNS, images.shape[3]));
    let grid = tile(&images.data, images.shape, &GridOptions { columns, ..Default::default() })?;
    let folder = run.output.join(SAMPLES_FOLDER);
    checkpoint::create_folder(&folder)?;
    let name = format!("step-{:06}.png", step);
    let path = folder.join(&name);
    grid.write_png(&path)?;
    log.samples(step, &grid, &Path::new(SAMPLES_FOLDER).join(name));
    report(Event::Samples { path, grid });
    Ok(())
}

/// Up to `count` images of the data set, shrunk for a super-resolution model, and their classes.
fn first_images(
    run: &Run,
    model: SuperResolution,
    count: usize,
) -> Result<(LowResolution, Option<Vec<u32>>), TrainError> {
    let shape = run.dataset.image_shape();
    let count = count.min(run.dataset.len());
    let batch = Batch::read(&*run.dataset, 0..count)?;
    let shrunk = model.shrink(&batch.images, [count, shape.height, shape.width, shape.channels]);
    let [low_h, low_w] = model.low_size.sides();
    let images = Images { shape: [count, low_h, low_w, shape.channels], data: shrunk };
    Ok((LowResolution { images, augmentation: 0 }, batch.conditions.class_labels().map(<[u32]>::to_vec)))
}
