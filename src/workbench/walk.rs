//! A sampler's steps taken in f64 on the host, with any function for a network.

use crate::ops::reverse_step::MAX_SLOTS;
use crate::sampler::{Clip, Measure, Measured, SamplerError, Step, Steps, Update};

/// One image on its way from noise, and its sampler's history.
#[derive(Clone, Debug)]
pub struct Walk {
    /// x as it stands.
    pub x: Vec<f64>,
    history: [Vec<f64>; MAX_SLOTS],
    output: Vec<f64>,
    clip: Clip,
}

impl Walk {
    /// Begins at `x`.
    pub fn new(x: Vec<f64>, clip: Clip) -> Self {
        let zeros = vec![0.0; x.len()];
        Self { history: std::array::from_fn(|_| zeros.clone()), output: zeros, x, clip }
    }

    /// Takes one step. `network` maps x and a timestep to the output, which has the length of x, or twice that with
    /// learned variance: the means first, then v. `noise` is the noise that the step adds, if it does.
    pub fn take(
        &mut self,
        step: &Step,
        network: &mut dyn FnMut(&[f64], f64) -> Vec<f64>,
        noise: &[f64],
    ) -> Measured {
        if let Some(timestep) = step.timestep {
            self.output = network(&self.x, timestep);
        }
        let measured = step.measure.map_or_else(Measured::default, |measure| self.measure(&measure, noise));
        self.update(&step.update, noise);
        measured
    }

    /// Takes all steps; `noise` holds a row for each update with noise. Gives x after every step.
    ///
    /// # Errors
    /// [`SamplerError::TooManySteps`]
    pub fn take_all(
        &mut self,
        steps: &Steps,
        network: &mut dyn FnMut(&[f64], f64) -> Vec<f64>,
        noise: &[Vec<f64>],
    ) -> Result<Vec<Vec<f64>>, SamplerError> {
        let mut run = steps.run(1);
        let mut measured = Measured::default();
        let (mut after, mut noises) = (Vec::new(), 0);
        let zeros = vec![0.0; self.x.len()];
        while let Some(next) = run.next(&[measured])? {
            measured = self.take(&next[0], network, noise.get(noises).unwrap_or(&zeros));
            noises += usize::from(next[0].update.sigma != 0.0);
            after.push(self.x.clone());
        }
        Ok(after)
    }

    /// x_0 as the sampler sees it.
    fn x_0(&self, [of_x, of_output]: [f64; 2]) -> Vec<f64> {
        let x_0: Vec<f64> = self.x.iter().zip(&self.output).map(|(x, o)| of_x * x + of_output * o).collect();
        let (limit, factor) = match self.clip {
            Clip::None => return x_0,
            Clip::Clamp(limit) => (limit, 1.0),
            Clip::Dynamic { ratio, max } => {
                let mut sorted: Vec<f64> = x_0.iter().map(|x_0| x_0.abs()).collect();
                sorted.sort_by(f64::total_cmp);
                let rank = ratio * (sorted.len() - 1) as f64;
                let (low, high) = (sorted[rank.floor() as usize], sorted[rank.ceil() as usize]);
                let s = (low + rank.fract() * (high - low)).clamp(1.0, max);
                (s, 1.0 / s)
            }
        };
        x_0.into_iter().map(|x_0| x_0.clamp(-limit, limit) * factor).collect()
    }

    /// x_0, x and output of one element, and its history.
    fn element(&self, x_0: &[f64], at: usize) -> ([f64; 3], [f64; MAX_SLOTS]) {
        ([x_0[at], self.x[at], self.output[at]], std::array::from_fn(|slot| self.history[slot][at]))
    }

    fn measure(&self, measure: &Measure, noise: &[f64]) -> Measured {
        let x_0 = self.x_0(measure.x_0);
        let root_mean = |sum: f64| (sum / self.x.len() as f64).sqrt();
        let scaled = |at: usize| {
            let (now, history) = self.element(&x_0, at);
            let size = self.x[at].abs().max(measure.beside.value(now, &history).abs());
            measure.value.value(now, &history) / (measure.absolute + measure.relative * size)
        };
        Measured {
            value: root_mean((0..self.x.len()).map(|at| scaled(at).powi(2)).sum()),
            noise: root_mean(noise.iter().map(|z| z * z).sum()),
        }
    }

    fn update(&mut self, update: &Update, noise: &[f64]) {
        let x_0 = self.x_0(update.x_0);
        for at in 0..self.x.len() {
            let (now, history) = self.element(&x_0, at);
            self.x[at] = update.x.value(now, &history);
            if update.sigma != 0.0 {
                let v = if update.log_range == 0.0 { 0.0 } else { self.output[self.x.len() + at] };
                self.x[at] += update.sigma * (update.log_range * v).exp() * noise.get(at).unwrap_or(&0.0);
            }
            for (slot, value) in &update.keep {
                self.history[*slot][at] = value.value(now, &history);
            }
        }
    }
}
