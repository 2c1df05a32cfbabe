//! One pass through the network.

use super::{Images, SampleError, check_finite};
use crate::conditions::Conditions;
use crate::device::Device;
use crate::graph::Graph;
use crate::network::{Component, Precision, SAMPLE, TIMESTEPS, prepare};
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
    network.image()?;
    let taken = network.input(SAMPLE)?.shape;
    if [h, w, c] != taken[..] {
        return Err(SampleError::Request(format!(
            "the input is [N, C, H, W] = {:?}, the model takes {:?}",
            [n, c, h, w],
            [n, taken[2], taken[0], taken[1]]
        )));
    }
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
    network.check_conditions(conditions, n).map_err(SampleError::Request)?;
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
