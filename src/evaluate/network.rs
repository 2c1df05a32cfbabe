//! The trained network, with what its output does to a probe when x_t changes.

use super::{EvaluateError, EvaluateRequest, ImageBatch};
use crate::device::{Device, Executor};
use crate::graph::{Graph, ValueId, gradients};
use crate::image_size::image_in_words;
use crate::network::{CONDITION_IMAGE, Component, Input, Precision, SAMPLE, TIMESTEPS, prepare};
use crate::pipeline::Pipeline;
use crate::setting::SettingError;

/// A network prepared on a device for batches of one size.
pub(super) struct Network {
    executor: Executor,
    batch: usize,
    /// Elements of an image.
    pub(super) elements: usize,
    /// Channels of an image, and of the output.
    pub(super) channels: [usize; 2],
    x: ValueId,
    timesteps: ValueId,
    /// What else the network is told of each image, and where.
    conditions: Vec<(Input, ValueId)>,
    output: ValueId,
    product: Option<Product>,
}

/// A vector-Jacobian product.
#[derive(Clone, Copy)]
struct Product {
    /// The vector, of the output's shape.
    vector: ValueId,
    /// The product, of x's shape.
    d_x: ValueId,
}

fn check_finite(values: &[f32], what: impl FnOnce() -> String) -> Result<(), EvaluateError> {
    let is_finite = values.iter().all(|value| value.is_finite());
    if is_finite { Ok(()) } else { Err(EvaluateError::NotFinite { what: what() }) }
}

impl Network {
    /// Prepares `pipeline` with its averaged weights; with `differentiate`, for vector-Jacobian products too.
    pub(super) async fn new(
        device: &Device,
        pipeline: &Pipeline,
        request: &EvaluateRequest,
        differentiate: bool,
    ) -> Result<Self, EvaluateError> {
        let Component { network, weights } = pipeline.denoiser()?;
        network.image()?;
        let fault = |text: String| Err(EvaluateError::Request(text));
        if network.takes(CONDITION_IMAGE) {
            let why =
                "the model is given another image beside each one, so images have no likelihood by it alone";
            return fault(why.to_owned());
        }
        pipeline.check_timesteps(network.as_ref()).map_err(EvaluateError::Request)?;
        let [height, width, channels] = network.image()?;
        let out_channels = network.out_channels()?;
        let shape = request.dataset.image_shape();
        let found = [shape.height, shape.width, shape.channels];
        if found != [height, width, channels] {
            let message = format!(
                "{} has images of {}, the model takes {}; choose another dataset",
                request.dataset.name(),
                image_in_words(found),
                image_in_words([height, width, channels])
            );
            return Err(SettingError::new(&["dataset"], message).into());
        }
        if out_channels != pipeline.scheduler.variance_type.output_channels(channels) {
            return fault(format!(
                "the model has {out_channels} output channels for {channels} input channels, which does not fit its \
                 variance_type"
            ));
        }
        if request.num_images == 0 || request.batch_size == 0 {
            return fault("the number of images and the batch size must be at least 1".to_owned());
        }
        let classes = request.dataset.classes().len();
        match network.num_classes() {
            Some(embeds) if classes == 0 || embeds < classes => {
                return fault(format!(
                    "the model is conditional on {embeds} classes, {} has {classes}",
                    request.dataset.name()
                ));
            }
            _ => {}
        }
        let batch = request.batch_size.min(request.num_images);
        let mut graph = Graph::new();
        let inputs = network.declare_inputs(&mut graph, batch)?;
        let (x, timesteps) = (inputs.get(SAMPLE)?, inputs.get(TIMESTEPS)?);
        let output = network.apply(&mut graph, Precision::F32, &inputs, None)?.get(SAMPLE)?;
        let mut keep = vec![output];
        let mut product = None;
        if differentiate {
            let vector = graph.input("vector", graph.ty(output).clone());
            if let Some(d_x) = gradients(&mut graph, &[(output, vector)], &[x])?[0] {
                keep.push(d_x);
                product = Some(Product { vector, d_x });
            }
        }
        let executor = prepare::<EvaluateError>(device, &graph, &[("", weights)], &keep).await?;
        let mut conditions = Vec::new();
        for input in network.conditions()? {
            let value = inputs.get(input.name)?;
            conditions.push((input, value));
        }
        Ok(Self {
            executor,
            batch,
            elements: height * width * channels,
            channels: [channels, out_channels],
            x,
            timesteps,
            conditions,
            output,
            product,
        })
    }

    /// Sets what the network is told of the batch that is evaluated next; a batch that is short is filled with zeros.
    pub(super) fn start(&mut self, batch: &ImageBatch) -> Result<(), EvaluateError> {
        let conditions = batch.conditions.resized(self.batch);
        for (input, value) in &self.conditions {
            let Some(condition) = conditions.get(input.name) else {
                return Err(EvaluateError::Request(format!(
                    "the model is told `{}` of each image, and not all images have it",
                    input.name
                )));
            };
            input.write(&mut self.executor, *value, condition)?;
        }
        Ok(())
    }

    /// The output for `x` `[n, H, W, C]` at one timestep, which need not be whole: `[n, H, W, out_channels]`; n is at
    /// most the batch size.
    pub(super) async fn output(&mut self, x: &[f32], timestep: f32) -> Result<Vec<f32>, EvaluateError> {
        let count = x.len() / self.elements;
        self.run(x, timestep)?;
        let mut output = self.executor.read(self.output).await?;
        output.truncate(count * self.elements / self.channels[0] * self.channels[1]);
        check_finite(&output, || format!("the network's output at timestep {timestep}"))?;
        Ok(output)
    }

    /// As [`Network::output`]; and the product of `vector` `[n, H, W, C]` with the Jacobian of the output's first C
    /// channels by x, `[n, H, W, C]`.
    pub(super) async fn output_and_product(
        &mut self,
        x: &[f32],
        timestep: f32,
        vector: &[f32],
    ) -> Result<(Vec<f32>, Vec<f32>), EvaluateError> {
        let Some(Product { vector: id, d_x }) = self.product else {
            return Err(EvaluateError::Request(
                "the network's output does not depend on its input".to_owned(),
            ));
        };
        let [channels, out_channels] = self.channels;
        let mut padded = vec![0.0; self.batch * self.elements / channels * out_channels];
        for (to, from) in padded.chunks_exact_mut(out_channels).zip(vector.chunks_exact(channels)) {
            to[..channels].copy_from_slice(from);
        }
        self.executor.write(id, &padded)?;
        let output = self.output(x, timestep).await?;
        let mut product = self.executor.read(d_x).await?;
        product.truncate(x.len());
        check_finite(&product, || format!("the gradient of the network's output at timestep {timestep}"))?;
        Ok((output, product))
    }

    fn run(&mut self, x: &[f32], timestep: f32) -> Result<(), EvaluateError> {
        let mut x = x.to_vec();
        x.resize(self.batch * self.elements, 0.0);
        self.executor.write(self.x, &x)?;
        self.executor.write(self.timesteps, &vec![timestep; self.batch])?;
        self.executor.run()?;
        Ok(())
    }
}
