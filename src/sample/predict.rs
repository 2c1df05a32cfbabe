//! One pass through the network.

use super::{Images, SampleError, check_finite};
use crate::conditions::{Condition, Conditions, Numbers};
use crate::device::Device;
use crate::graph::Graph;
use crate::network::{CONDITION_IMAGE, Component, Precision, SAMPLE, TIMESTEPS, prepare};
use crate::pipeline::Pipeline;

/// One forward pass: the network's output `[N, H, W, out_channels]` for `x_t` and a timestep for each image, with
/// activations of `precision`.
///
/// # Errors
/// [`SampleError`] for inputs that do not fit the model, or trouble on the device.
pub async fn predict(
    device: &Device,
    pipeline: &Pipeline,
    x_t: &Images,
    timesteps: &[f32],
    conditions: &Conditions,
    precision: Precision,
) -> Result<Images, SampleError> {
    let Component { network, weights } = pipeline.denoiser()?;
    let [n, h, w, c] = x_t.shape;
    let [height, width, channels] = network.image()?;
    let beside = network.input(CONDITION_IMAGE).map_or(0, |input| input.shape[2]);
    // diffusers' network is given x_t and the condition image as one.
    let is_whole = beside > 0 && !conditions.iter().any(|(name, _)| name == CONDITION_IMAGE);
    let taken = if is_whole { channels + beside } else { channels };
    if [h, w, c] != [height, width, taken] {
        return Err(SampleError::Request(format!(
            "the input is [N, C, H, W] = {:?}, the model takes {:?}",
            [n, c, h, w],
            [n, taken, height, width]
        )));
    }
    let (x_t, conditions) =
        if is_whole { split(x_t, channels, conditions) } else { (x_t.clone(), conditions.clone()) };
    if timesteps.len() != n {
        return Err(SampleError::Request(format!("there are {} timesteps for {n} images", timesteps.len())));
    }
    if let Some(timestep) = timesteps.iter().find(|timestep| !timestep.is_finite()) {
        return Err(SampleError::Request(format!(
            "a timestep is {timestep}; timesteps must be finite numbers"
        )));
    }
    for &timestep in timesteps {
        network.check_timesteps(timestep.into(), timestep.into()).map_err(SampleError::Request)?;
    }
    network.check_conditions(&conditions, n).map_err(SampleError::Request)?;
    let mut graph = Graph::new();
    let inputs = network.declare_inputs(&mut graph, n)?;
    let output = network.apply(&mut graph, precision, &inputs, None)?.get(SAMPLE)?;
    let mut executor = prepare::<SampleError>(device, &graph, &[("", weights)], &[output]).await?;
    executor.write(inputs.get(SAMPLE)?, &x_t.data)?;
    executor.write(inputs.get(TIMESTEPS)?, timesteps)?;
    for input in network.conditions()? {
        if let Some(condition) = conditions.get(input.name) {
            input.write(&mut executor, inputs.get(input.name)?, condition)?;
        }
    }
    executor.run()?;
    let data = executor.read(output).await?;
    let channels = network.out_channels()?;
    let elements = h * w * channels;
    check_finite(&data, elements, |image| format!("the network's output for image {} of {n}", image + 1))?;
    Ok(Images { shape: [n, h, w, channels], data })
}

/// The first channels of each pixel as images, and the others as the condition image of each.
fn split(whole: &Images, channels: usize, conditions: &Conditions) -> (Images, Conditions) {
    let [n, h, w, c] = whole.shape;
    let pixels = || whole.data.chunks_exact(c.max(1));
    let x_t = pixels().flat_map(|pixel| pixel[..channels].to_vec()).collect();
    let beside = pixels().flat_map(|pixel| pixel[channels..].to_vec()).collect();
    let condition = Condition::new(h * w * (c - channels), Numbers::Floats(beside));
    let conditions = conditions.clone();
    let conditions = condition.map_or(conditions.clone(), |image| conditions.with(CONDITION_IMAGE, image));
    (Images { shape: [n, h, w, channels], data: x_t }, conditions)
}
