//! Samplers: at which timesteps the network is evaluated, and what each step makes of x and of the network's output.
//!
//! A sampler is plain f64 arithmetic; running the network and combining tensors is its caller's work
//! ([`Denoiser`](crate::sample::Denoiser), by [`reverse_step`](mod@crate::ops::reverse_step)). It turns a [`Process`]
//! into
//! [`Steps`]: each says at which timestep the network is evaluated, and the next x as a linear combination of x, the
//! estimate of x_0, the network's output and a history of up to eight values. So nothing that a sampler knows
//! depends on what the network predicts, on guidance, or on how x_0 is clipped. x always has variance 1 where the image
//! and the noise have it. Samplers that the literature writes for x / alpha are written for x here.
//!
//! Adding one takes one file and one line in [`ALL`].

mod combination;
mod ddim;
mod ddim_inverse;
mod ddpm;
mod deis;
mod dpm_solver;
mod euler;
mod euler_ancestral;
mod heun;
mod levels;
mod ode;
mod options;
mod pc;
mod pndm;
mod process;
mod run;
mod unipc;
mod update;

pub use combination::{Combination, OUTPUT, X, X_0, history};
pub use ode::TOLERANCES;
pub use options::{Choice, Clip, SamplerError, SamplerOptions};
pub use process::{Level, NoiseLevels, Process};
pub use run::{Adaptive, Measured, Run, Step, Steps};
pub use update::{Measure, Update};

use crate::diffusion::SchedulerConfig;

/// A method of sampling.
#[derive(Clone, Copy, Debug)]
pub struct Sampler {
    /// The name on the command line.
    pub name: &'static str,
    /// One line for `--help`.
    pub description: &'static str,
    /// Number of steps where the user names none; `None` for every training timestep.
    pub default_steps: Option<usize>,
    /// How many values it keeps from step to step, at most [`MAX_SLOTS`](crate::ops::reverse_step::MAX_SLOTS).
    pub slots: usize,
    /// Whether its steps measure.
    pub measures: bool,
    /// Whether it leads the other way, from images to noise.
    pub inverts: bool,
    /// What a classifier's gradient moves.
    pub guided: Guided,
    /// Whether a step combines the network's outputs at several levels of noise. A division by the image's share in x
    /// then enlarges the differences between them.
    pub extrapolates: bool,
    /// The options that it heeds; others are refused.
    pub choices: &'static [Choice],
    /// The steps from noise to image, in the order in which they are taken.
    pub steps: fn(&Process<'_>) -> Result<Steps, SamplerError>,
}

/// Samplers are the same where they have the same name.
impl PartialEq for Sampler {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Sampler {}

/// What classifier guidance moves in a step (Dhariwal and Nichol 2021).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guided {
    /// The mean of the next x, by the step's variance times the gradient (algorithm 1). Clamping x_0 does not reduce
    /// it.
    Mean,
    /// The noise that the network sees in x (algorithm 2), before x_0 is estimated and clamped.
    Eps,
}

/// Every sampler.
pub const ALL: &[Sampler] = &[
    ddpm::SAMPLER,
    ddim::SAMPLER,
    pndm::PNDM,
    pndm::PLMS,
    dpm_solver::DPMPP_2M,
    dpm_solver::DPMPP_2M_SDE,
    dpm_solver::DPMPP_2S,
    dpm_solver::DPM_2M,
    dpm_solver::DPM_2S,
    deis::SAMPLER,
    unipc::SAMPLER,
    euler::SAMPLER,
    euler_ancestral::SAMPLER,
    heun::SAMPLER,
    ode::SAMPLER,
    pc::SAMPLER,
    ddim_inverse::SAMPLER,
];

/// The sampler of that name.
///
/// # Errors
/// [`SamplerError::Unknown`], which lists the names there are.
pub fn by_name(name: &str) -> Result<&'static Sampler, SamplerError> {
    ALL.iter().find(|sampler| sampler.name == name).ok_or_else(|| {
        let known: Vec<&str> = ALL.iter().map(|sampler| sampler.name).collect();
        SamplerError::Unknown { name: name.to_owned(), known: known.join(", ") }
    })
}

/// The sampler that a config chooses by its class and keys.
///
/// # Errors
/// [`SamplerError::Config`] for a config that cannot be used.
pub fn of(config: &SchedulerConfig) -> Result<&'static Sampler, SamplerError> {
    by_name(config.method()?.sampler)
}

/// The samplers, a line each, for `--help`.
pub fn help() -> String {
    let width = ALL.iter().map(|sampler| sampler.name.len()).max().unwrap_or(0);
    let line = |sampler: &Sampler| format!("- {:width$}  {}", sampler.name, sampler.description);
    ALL.iter().map(line).collect::<Vec<_>>().join("\n")
}

impl Sampler {
    /// The steps by which this sampler reverses a process.
    ///
    /// # Errors
    /// [`SamplerError`] for options that the sampler does not have or the process does not allow.
    pub fn start(&self, config: &SchedulerConfig, options: &SamplerOptions) -> Result<Steps, SamplerError> {
        for choice in Choice::ALL {
            if choice.is_given(options) && !self.choices.contains(choice) {
                return Err(SamplerError::unused(self, *choice));
            }
        }
        (self.steps)(&Process::new(self, config, options)?)
    }

    /// What to warn of in a choice that is no error, in one sentence; `None` where there is nothing.
    ///
    /// # Errors
    /// As [`Sampler::start`].
    pub fn warning(
        &self,
        config: &SchedulerConfig,
        options: &SamplerOptions,
    ) -> Result<Option<String>, SamplerError> {
        self.start(config, options)?;
        if !self.extrapolates {
            return Ok(None);
        }
        let process = Process::new(self, config, options)?;
        let timesteps = process.timesteps()?;
        let &[first, next, ..] = &timesteps[..] else { return Ok(None) };
        // A step divides by the image's share in x, and errors grow by as much.
        let growth = process.level(next).alpha() / process.level(first).alpha();
        Ok((growth > MOST_GROWTH).then(|| {
            format!(
                "the sampler `{}` makes errors of the network {growth:.0} times as large in its first step, because \
                 hardly anything of the image is left at timestep {first}: expect images far beyond -1..1, as \
                 diffusers draws too; take leading spacing or another sampler, such as ddpm (clipping x_0 is enough \
                 with many steps only)",
                self.name
            )
        }))
    }
}

/// How much larger a step may make the network's errors without a warning: of a network whose eps is off by 0.02,
/// diffusers' `PNDMScheduler` draws images of 1000 where it is 126, and sound ones where it is 32.
const MOST_GROWTH: f64 = 100.0;

#[cfg(test)]
mod tests;
