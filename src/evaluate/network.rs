//! The trained network, with what its output does to a probe when x_t changes.

use super::{EvaluateError, EvaluateRequest, ImageBatch};
use crate::SettingError;
use crate::checkpoint::Pipeline;
use crate::device::{Device, Executor};
use crate::graph::{Graph, TensorType, ValueId, gradients};
use crate::model::{UNetInputs, from_tensors, unet};

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
    class_labels: Option<ValueId>,
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
        let config = &pipeline.unet;
        let [height, width] = config.image_size()?;
        let shape = request.dataset.image_shape();
        let channels = config.in_channels;
        let fault = |text: String| Err(EvaluateError::Request(text));
        if [shape.height, shape.width, shape.channels] != [height, width, channels] {
            let message = format!(
                "{} has images of {}x{} with {} channels, the model takes {width}x{height} with {channels}; choose another \
                 dataset",
                request.dataset.name(),
                shape.width,
                shape.height,
                shape.channels
            );
            return Err(SettingError::new(&["dataset"], message).into());
        }
        if config.out_channels != pipeline.scheduler.variance_type.output_channels(channels) {
            return fault(format!(
                "the model has {} output channels for {channels} input channels, which does not fit its variance_type",
                config.out_channels
            ));
        }
        if request.num_images == 0 || request.batch_size == 0 {
            return fault("the number of images and the batch size must be at least 1".to_owned());
        }
        let classes = request.dataset.classes().len();
        match config.num_class_embeds {
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
        let x = graph.input("x", TensorType::f32([batch, height, width, channels]));
        let timesteps = graph.input("timesteps", TensorType::f32([batch]));
        let class_labels =
            config.num_class_embeds.map(|_| graph.input("class_labels", TensorType::u32([batch])));
        let inputs = UNetInputs { sample: x, timesteps, class_labels, key_step_sample: None };
        let output = unet(&mut graph, config, inputs)?;
        let mut keep = vec![output];
        let mut product = None;
        if differentiate {
            let vector = graph.input("vector", graph.ty(output).clone());
            if let Some(d_x) = gradients(&mut graph, &[(output, vector)], &[x])?[0] {
                keep.push(d_x);
                product = Some(Product { vector, d_x });
            }
        }
        let weights = from_tensors(&graph, &pipeline.weights)?;
        let mut executor = device.prepare(&graph, &keep).await?;
        for (parameter, data) in graph.parameters().iter().zip(&weights) {
            executor.write(parameter.value, data)?;
        }
        Ok(Self {
            executor,
            batch,
            elements: height * width * channels,
            channels: [channels, config.out_channels],
            x,
            timesteps,
            class_labels,
            output,
            product,
        })
    }

    /// Sets the classes of the batch that is evaluated next; a batch that is short is filled with the first class.
    pub(super) fn start(&mut self, batch: &ImageBatch) -> Result<(), EvaluateError> {
        if let Some(id) = self.class_labels {
            let mut labels = batch.labels.clone();
            labels.resize(self.batch, 0);
            self.executor.write(id, &labels)?;
        }
        Ok(())
    }

    /// The output for `x` `[n, H, W, C]` at one timestep, which need not be whole: `[n, H, W, out_channels]`; n is at most
    /// the batch size.
    pub(super) async fn output(&mut self, x: &[f32], timestep: f32) -> Result<Vec<f32>, EvaluateError> {
        let count = x.len() / self.elements;
        self.run(x, timestep)?;
        let mut output = self.executor.read(self.output).await?;
        output.truncate(count * self.elements / self.channels[0] * self.channels[1]);
        check_finite(&output, || format!("the network's output at timestep {timestep}"))?;
        Ok(output)
    }

    /// As [`Network::output`]; and the product of `vector` `[n, H, W, C]` with the Jacobian of the output's first C channels
    /// by x, `[n, H, W, C]`.
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
