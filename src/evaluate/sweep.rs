//! One model, drawn from in many ways: samplers by numbers of steps by guidance.

use serde::Serialize;

use super::EvaluateError;
use super::quality::{Evaluator, Quality};
use crate::device::Device;
use crate::diffusion::Respacing;
use crate::pipeline::Pipeline;
use crate::sample::{Guidance, SampleProgress, SampleRequest, sample_with};
use crate::sampler::{Choice, Sampler};

/// The ways to compare: every sampler with every number of steps and every guidance.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// The samplers.
    pub samplers: Vec<&'static Sampler>,
    /// The steps; none for each sampler's own. A sampler that finds its steps itself is tried once.
    pub steps: Vec<Respacing>,
    /// The guidance.
    pub guidance: Vec<Guidance>,
    /// What all trials have in common.
    pub request: SampleRequest,
}

/// One way of drawing images, and how good they are.
#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    /// The sampler.
    pub sampler: &'static str,
    /// The steps asked for; `None` for the sampler's own.
    pub steps: Option<String>,
    /// As in [`Guidance::scale`].
    pub guidance_scale: f64,
    /// The scale of the guiding classifier, where there is one.
    pub classifier_scale: Option<f64>,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: TrialOutcome,
}

/// What came of a trial.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum TrialOutcome {
    /// The images were drawn and measured.
    Measured(Quality),
    /// The sampler does not do this.
    Refused {
        /// Why, in one sentence.
        refused: String,
    },
}

/// What happens in a sweep.
#[derive(Debug)]
pub enum SweepEvent<'a> {
    /// A trial draws its images.
    Sampling(SampleProgress),
    /// A trial is over.
    Finished(&'a Trial),
}

impl Sweep {
    /// The trials' requests, in order; those of one sampler and guidance follow each other.
    fn requests(&self) -> Vec<SampleRequest> {
        let mut requests = Vec::new();
        for sampler in &self.samplers {
            let takes_steps = sampler.choices.contains(&Choice::Steps) && !self.steps.is_empty();
            let steps = if takes_steps { self.steps.iter().cloned().map(Some).collect() } else { vec![None] };
            for guidance in &self.guidance {
                for steps in &steps {
                    let mut request =
                        SampleRequest { sampler, guidance: guidance.clone(), ..self.request.clone() };
                    request.options.steps = steps.clone();
                    requests.push(request);
                }
            }
        }
        requests
    }

    /// Refuses what does not fit the model, whatever the steps.
    ///
    /// # Errors
    /// [`EvaluateError::Sample`] in one sentence.
    pub fn check(&self, pipeline: &Pipeline) -> Result<(), EvaluateError> {
        Ok(self.requests().iter().try_for_each(|request| request.check(pipeline))?)
    }

    /// What to warn of in ways that are no error, a sentence each.
    pub fn warnings(&self, pipeline: &Pipeline) -> Vec<String> {
        let mut warnings: Vec<String> = Vec::new();
        for SampleRequest { sampler, options, .. } in self.requests() {
            // What a sampler refuses is noted in its trial.
            if let Ok(Some(warning)) = sampler.warning(&pipeline.scheduler, &options)
                && !warnings.contains(&warning)
            {
                warnings.push(warning);
            }
        }
        warnings
    }

    /// Draws images in every way and has `evaluator` measure them; a way that a sampler does not have is noted in its trial.
    ///
    /// # Errors
    /// [`EvaluateError`] for what does not fit the model, or trouble on the device.
    pub async fn run(
        &self,
        device: &Device,
        pipeline: &Pipeline,
        evaluator: &mut Evaluator,
        report: &mut (dyn FnMut(SweepEvent<'_>) + Send),
    ) -> Result<Vec<Trial>, EvaluateError> {
        self.check(pipeline)?;
        let mut trials = Vec::new();
        let requests = self.requests();
        // Other steps of the same sampler and guidance are drawn by the same denoiser.
        let is_same = |a: &SampleRequest, b: &SampleRequest| {
            let scales = |request: &SampleRequest| {
                (request.guidance.scale, request.guidance.classifier.as_ref().map(|(_, scale)| *scale))
            };
            a.sampler == b.sampler && scales(a) == scales(b)
        };
        for requests in requests.chunk_by(is_same) {
            let mut denoiser = None;
            for request in requests {
                let outcome = match request.sampler.start(&pipeline.scheduler, &request.options) {
                    Err(error) => TrialOutcome::Refused { refused: error.to_string() },
                    Ok(_) => {
                        let denoiser = match &mut denoiser {
                            Some(denoiser) => denoiser,
                            None => denoiser.insert(request.denoiser(device, pipeline).await?),
                        };
                        let mut progress = |progress| report(SweepEvent::Sampling(progress));
                        let sampled = sample_with(denoiser, pipeline, request, &mut progress).await?;
                        let labels = request.conditions.class_labels();
                        TrialOutcome::Measured(evaluator.measure(&sampled.images, labels).await?)
                    }
                };
                let trial = Trial {
                    sampler: request.sampler.name,
                    steps: request.options.steps.as_ref().map(ToString::to_string),
                    guidance_scale: request.guidance.scale,
                    classifier_scale: request.guidance.classifier.as_ref().map(|(_, scale)| *scale),
                    outcome,
                };
                report(SweepEvent::Finished(&trial));
                trials.push(trial);
            }
        }
        Ok(trials)
    }
}
