//! A model prepared to take denoising steps on one device.

use super::evaluation::{CLASSIFIER, Evaluation};
use super::{Guidance, SampleError};
use crate::conditions::Conditions;
use crate::device::{Device, DeviceError, Executor};
use crate::graph::{BufferRole, Graph, GraphError, Phase, TensorType, ValueId};
use crate::network::{Precision, prepare};
use crate::ops::reverse_step::{Noise, StepInputs, coefficients_length};
use crate::ops::step_norms::measures_length;
use crate::ops::{dynamic_threshold, reverse_step, step_norms};
use crate::pipeline::Pipeline;
use crate::random::{Purpose, Stream};
use crate::sampler::{Clip, Measure, Measured, Sampler, Step, Update, X};

/// The values of the graph by which it measures.
struct Norms {
    measures: ValueId,
    norms: ValueId,
}

/// The network and the reverse step as one plan; x and what the sampler keeps stay on the device between steps.
///
/// The plan has two parts. The first evaluates the network at x (`evaluation.rs`); the second,
/// from the first node of [`Phase::ReverseStep`] on, makes the next x of it as the [`Update`] of a step says. A step
/// that evaluates runs both, in one submission; a step that does not runs the second, with the output as it was.
pub struct Denoiser {
    executor: Executor,
    batch: usize,
    slots: usize,
    x: ValueId,
    evaluation: Evaluation,
    /// Number of the first node of the second part.
    first_of_update: usize,
    coefficients: ValueId,
    key_step_sample: ValueId,
    /// What is to be measured, and what has been; for samplers that measure.
    norms: Option<Norms>,
    /// Updates with noise since the start.
    noises: u32,
}

impl Denoiser {
    /// Prepares `pipeline` on `device` for batches of `batch` images and the steps of `sampler`, with activations of
    /// `precision` and estimates of x_0 clipped by `clip`, towards what `guidance` says.
    ///
    /// # Errors
    /// [`SampleError`] for a model that cannot be built or does not fit the device.
    pub async fn new(
        device: &Device,
        pipeline: &Pipeline,
        batch: usize,
        precision: Precision,
        sampler: &Sampler,
        clip: Clip,
        guidance: &Guidance,
    ) -> Result<Self, SampleError> {
        let denoiser = pipeline.denoiser()?;
        let [height, width, channels] = denoiser.network.image()?;
        let slots = sampler.slots.max(1);
        let mut graph = Graph::new();
        let image = TensorType::f32([batch, height, width, channels]);
        let history = TensorType::f32([slots, batch, height, width, channels]);
        let x = graph.state("x", image, BufferRole::Inputs);
        let history = graph.state("history", history, BufferRole::Inputs);
        let coefficients = TensorType::f32([batch, coefficients_length(slots)]);
        let coefficients = graph.input("coefficients", coefficients);
        let given_limits = graph.input("limits", TensorType::f32([batch, 2]));
        let key_step_sample = graph.input("key_step_sample", TensorType::u32([4]));
        let evaluation = Evaluation::build(&mut graph, pipeline, precision, guidance, sampler, x)?;
        let (norms, gradient) = graph.in_phase(Phase::ReverseStep, |graph| {
            let output = evaluation.output;
            let limits = match clip {
                Clip::None | Clip::Clamp(_) => given_limits,
                Clip::Dynamic { ratio, max } => {
                    dynamic_threshold(graph, x, output, coefficients, [ratio, max])?
                }
            };
            let inputs = StepInputs { output, coefficients, limits };
            let noise = Noise { key_step_sample, stream: graph.random_stream(Purpose::ReverseStep) };
            let mut norms = None;
            if sampler.measures {
                let measures = graph.input("measures", TensorType::f32([batch, measures_length(slots)]));
                norms = Some(Norms {
                    measures,
                    norms: step_norms(graph, [x, history, measures], inputs, noise)?,
                });
            }
            reverse_step(graph, x, history, inputs, noise)?;
            // The noise is there already: the order of the two sums makes no difference.
            let gradient = evaluation.guide_mean(graph, x)?;
            Ok::<_, GraphError>((norms, gradient))
        })?;
        // The output is kept, so that its memory still holds it when the second part runs again; the gradient likewise.
        let mut keep = vec![x, evaluation.output];
        keep.extend(gradient);
        keep.extend(norms.as_ref().map(|norms| norms.norms));
        let mut weights = vec![("", &denoiser.weights)];
        if let Some((classifier, _)) = &guidance.classifier {
            weights.push((CLASSIFIER, &classifier.classifier()?.weights));
        }
        let mut executor = prepare::<SampleError>(device, &graph, &weights, &keep).await?;
        let nodes = &executor.plan().nodes;
        let first_of_update =
            nodes.iter().position(|planned| planned.node.phase == Phase::ReverseStep).unwrap_or(nodes.len());
        let limit = match clip {
            // WGSL has no infinity that drivers must keep; the largest float clamps nothing that is finite.
            Clip::None | Clip::Dynamic { .. } => f32::MAX,
            Clip::Clamp(limit) => limit as f32,
        };
        executor.write(given_limits, &[limit, 1.0].repeat(batch))?;
        Ok(Self {
            executor,
            batch,
            slots,
            x,
            evaluation,
            first_of_update,
            coefficients,
            key_step_sample,
            norms,
            noises: 0,
        })
    }

    /// Sets x_T `[N, H, W, C]`, and what the network is told of the images.
    ///
    /// # Errors
    /// [`SampleError`] for contents of another length, and where the network is told more of the images.
    pub fn start(&mut self, x_t: &[f32], conditions: &Conditions) -> Result<(), SampleError> {
        self.noises = 0;
        self.set_images(x_t)?;
        self.evaluation.start(&mut self.executor, conditions)
    }

    /// Sets x `[N, H, W, C]` between two steps.
    ///
    /// # Errors
    /// [`DeviceError`] for contents of another length.
    pub fn set_images(&mut self, x: &[f32]) -> Result<(), DeviceError> {
        self.executor.write(self.x, x)
    }

    /// Takes one step: one for all images, or one for each; images beyond the last step stay as they are.
    ///
    /// `seed` and `first`, the number of the batch's first image, decide the noise: the n-th update with noise since the
    /// start draws number n of each image.
    ///
    /// # Errors
    /// [`DeviceError`], also for trouble in earlier steps.
    pub fn step(&mut self, steps: &[Step], seed: u64, first: u32) -> Result<(), DeviceError> {
        let first_of_update = self.first_of_update;
        let executor = self.prepare_step(steps, seed, first)?;
        if steps.iter().any(|step| step.timestep.is_some()) {
            executor.run()
        } else {
            executor.run_nodes(first_of_update..executor.plan().nodes.len())
        }
    }

    /// Writes the inputs of a step, as [`Denoiser::step`] takes it, and gives the executor, which is then to run once: for
    /// profiles of steps that evaluate the network.
    ///
    /// # Errors
    /// [`DeviceError`], also for trouble in earlier steps.
    pub fn prepare_step(
        &mut self,
        steps: &[Step],
        seed: u64,
        first: u32,
    ) -> Result<&mut Executor, DeviceError> {
        let none = Update::none();
        let of_image = |image: usize| if steps.len() == 1 { steps.first() } else { steps.get(image) };
        let images = || (0..self.batch).map(of_image);
        let update = |step: Option<&Step>| step.map_or(&none, |step| &step.update).coefficients(self.slots);
        let coefficients: Vec<f32> = images().flat_map(update).collect();
        let timesteps: Vec<f32> =
            images().map(|step| step.and_then(|step| step.timestep).unwrap_or(0.0) as f32).collect();
        // The kernels know their stream.
        let stream =
            Stream { seed, step: self.noises + 1, stream: Purpose::ReverseStep.into(), sample: first };
        self.executor.write(self.coefficients, &coefficients)?;
        self.executor.write(self.key_step_sample, &stream.key_step_sample())?;
        if let Some(norms) = &self.norms {
            let nothing = Measure { noise: false, ..Measure::norms([0.0, 0.0], X) };
            let measure = |step: Option<&Step>| step.and_then(|step| step.measure).unwrap_or(nothing);
            let measures: Vec<f32> = images().flat_map(|step| measure(step).to_row(self.slots)).collect();
            self.executor.write(norms.measures, &measures)?;
        }
        if steps.iter().any(|step| step.update.sigma != 0.0) {
            self.noises += 1;
        }
        self.evaluation.set_shift(&mut self.executor, images())?;
        if steps.iter().any(|step| step.timestep.is_some()) {
            self.evaluation.set_timesteps(&mut self.executor, &timesteps)?;
        }
        Ok(&mut self.executor)
    }

    /// What the last step has measured, for each image.
    ///
    /// # Errors
    /// [`DeviceError`]
    pub async fn measured(&mut self) -> Result<Vec<Measured>, DeviceError> {
        let Some(Norms { norms, .. }) = self.norms else { return Ok(vec![Measured::default(); self.batch]) };
        let pairs = self.executor.read(norms).await?;
        let of_pair = |pair: &[f32; 2]| Measured { value: f64::from(pair[0]), noise: f64::from(pair[1]) };
        Ok(pairs.as_chunks().0.iter().map(of_pair).collect())
    }

    /// x as it stands, `[N, H, W, C]`.
    ///
    /// # Errors
    /// [`DeviceError`]
    pub async fn images(&mut self) -> Result<Vec<f32>, DeviceError> {
        self.executor.read(self.x).await
    }
}
