//! Predictor-corrector sampling (Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential
//! Equations", algorithms 3 and 5): before each ancestral step, Langevin steps bring x closer to the distribution
//! of its noise level.

use super::{
    Adaptive, Choice, Guided, Level, Measure, Measured, Process, Sampler, SamplerError, Step, Steps, Update,
    X,
};

pub(super) const SAMPLER: Sampler = Sampler {
    name: "pc",
    description: "predictor-corrector (Song et al. 2021): ancestral steps with Langevin steps between, two evaluations a step",
    default_steps: Some(250),
    slots: 0,
    measures: true,
    inverts: false,
    guided: Guided::Eps,
    extrapolates: false,
    choices: &[
        Choice::Steps,
        Choice::Spacing,
        Choice::Strength,
        Choice::CorrectorSteps,
        Choice::Snr,
        Choice::NoiseInLastStep,
    ],
    steps,
};

/// The signal-to-noise ratio r of the authors' code.
const SNR: f64 = 0.16;

fn steps(process: &Process<'_>) -> Result<Steps, SamplerError> {
    let snr = process.options.snr.unwrap_or(SNR);
    if !(snr > 0.0 && snr.is_finite()) {
        return Err(SamplerError::NotPositive { field: Choice::Snr.field(), value: snr });
    }
    let corrections = process.options.corrector_steps.unwrap_or(1);
    let Steps::Fixed(predictor) = super::ddpm::steps(process)? else {
        unreachable!("ancestral steps are known beforehand")
    };
    let timesteps = process.timesteps()?;
    let stage = |(i, (&t, prediction)): (usize, (&usize, Step))| {
        let level = process.level(t);
        let previous = timesteps.get(i + 1).map_or(process.image(), |&t| process.level(t));
        Stage { level, alpha: level.alpha_cumprod / previous.alpha_cumprod, prediction }
    };
    let stages: Vec<Stage> = timesteps.iter().zip(predictor).enumerate().map(stage).collect();
    Ok(Steps::Adaptive(Box::new(move |images| {
        Box::new(PredictorCorrector { stages: stages.clone(), corrections, snr, done: 0, images })
    })))
}

/// A timestep: Langevin steps at its level, and the ancestral step from there.
#[derive(Clone, Debug)]
struct Stage {
    level: Level,
    alpha: f64,
    prediction: Step,
}

struct PredictorCorrector {
    stages: Vec<Stage>,
    corrections: usize,
    snr: f64,
    /// Two for each correction, and one for the prediction.
    done: usize,
    images: usize,
}

impl PredictorCorrector {
    fn steps_of_stage(&self) -> usize {
        2 * self.corrections + 1
    }
}

impl Adaptive for PredictorCorrector {
    fn next(&mut self, measured: &[Measured]) -> Result<Option<Vec<Step>>, SamplerError> {
        let at = self.done % self.steps_of_stage();
        let Some(Stage { level, alpha, prediction }) = self.stages.get(self.done / self.steps_of_stage())
        else {
            return Ok(None);
        };
        self.done += 1;
        Ok(Some(if at == 2 * self.corrections {
            vec![prediction.clone(); self.images]
        } else if at.is_multiple_of(2) {
            // The size of the score decides how far the Langevin step goes.
            let measure = Measure::norms(level.x_0(), level.eps());
            let evaluation = Step::at(level.timestep, Update::new(level.x_0(), X)).measuring(measure);
            vec![evaluation; self.images]
        } else {
            measured.iter().map(|measured| langevin(*level, *alpha, self.snr, *measured)).collect()
        }))
    }

    fn progress(&self) -> f64 {
        self.done as f64 / (self.stages.len() * self.steps_of_stage()).max(1) as f64
    }
}

/// Lines 5 to 8 of algorithm 5: x + epsilon g + sqrt(2 epsilon) z along the score g = -eps / sigma. The paper takes norms
/// over the batch; here each image has its own, so that it does not depend on the others.
fn langevin(level: Level, alpha: f64, snr: f64, measured: Measured) -> Step {
    let norm_of_score = (measured.value / level.sigma()).max(1e-12);
    let epsilon = 2.0 * alpha * (snr * measured.noise / norm_of_score).powi(2);
    let x = X - epsilon / level.sigma() * level.eps();
    Step::again(Update::new(level.x_0(), x).noise((2.0 * epsilon).sqrt()))
}
