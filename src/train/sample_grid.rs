//! Grids of samples that a run draws on its way.

use std::path::Path;

use super::{Event, Run, TrainError};
use crate::checkpoint;
use crate::conditions::{CLASS_LABELS, Conditions};
use crate::data::Batch;
use crate::diffusion::Respacing;
use crate::log::Log;
use crate::network::{Element, SuperResolution};
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
        .num_classes()
        .map(|classes| (0..classes.min(10) as u32).flat_map(|class| [class; COLUMNS]).collect::<Vec<u32>>());
    let is_class = |element: Element| matches!(element, Element::Class { .. });
    let is_told_more = network.conditions()?.iter().any(|input| !is_class(input.element));
    let (conditions, low_resolution) = if network.super_resolution().is_some() || is_told_more {
        // What else the network is told is that of images of the data set.
        let batch = first_images(run, 4 * COLUMNS)?;
        let low = network.super_resolution().map(|model| low_resolution(run, model, &batch));
        let told = |conditions: Conditions| match network.takes(CLASS_LABELS) {
            true => conditions,
            false => conditions.without(CLASS_LABELS),
        };
        (told(batch.conditions), low)
    } else {
        (Conditions::of_classes(per_class), None)
    };
    let steps = SAMPLE_STEPS.min(pipeline.scheduler.num_train_timesteps);
    // A scheduler that leads to noise draws nothing.
    let own = sampler::of(&pipeline.scheduler).map_err(crate::sample::SampleError::from)?;
    let own =
        if own.inverts { sampler::by_name("ddim").map_err(crate::sample::SampleError::from)? } else { own };
    let options =
        SamplerOptions { steps: Some(Respacing::Steps(steps)), ..SamplerOptions::new(&pipeline.scheduler) };
    let request = SampleRequest {
        options,
        num_images: match &low_resolution {
            Some(low) => low.images.shape[0],
            None => conditions.iter().next().map_or(4 * COLUMNS, |(_, condition)| condition.rows()),
        },
        conditions,
        low_resolution,
        seed: run.options.seed,
        precision: run.options.precision,
        ..SampleRequest::new(own, &pipeline.scheduler)
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

/// Up to `count` images of the data set, and what is known of them.
fn first_images(run: &Run, count: usize) -> Result<Batch, TrainError> {
    Ok(Batch::read(&*run.dataset, 0..count.min(run.dataset.len()))?)
}

/// Images of the data set, shrunk for a super-resolution model.
fn low_resolution(run: &Run, model: SuperResolution, batch: &Batch) -> LowResolution {
    let shape = run.dataset.image_shape();
    let count = batch.images.len() / shape.elements().max(1);
    let data = model.shrink(&batch.images, [count, shape.height, shape.width, shape.channels]);
    let [height, width] = model.low_size.sides();
    LowResolution { images: Images { shape: [count, height, width, shape.channels], data }, augmentation: 0 }
}
