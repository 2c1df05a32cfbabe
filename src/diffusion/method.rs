//! How images are drawn, as far as a file of diffusers says: which sampler, and the choices within it.

use std::str::FromStr;

/// What the class and the keys of a `scheduler_config.json` say of drawing.
#[derive(Clone, Debug, PartialEq)]
pub struct Method {
    /// The name of the sampler.
    pub sampler: &'static str,
    /// The choices within it.
    pub solver: Solver,
}

/// Choices within a sampler. The default leaves them to the sampler.
#[derive(Clone, Debug, PartialEq)]
pub struct Solver {
    /// `solver_order`: the order of the method.
    pub order: Option<usize>,
    /// `solver_type` of the DPM solvers.
    pub slope: Slope,
    /// `solver_type` of UniPC: whether B(h) is h, its B_1, rather than e^h - 1.
    pub is_bh1: bool,
    /// `lower_order_final`: whether the last steps are of lower order.
    pub lower_order_final: bool,
    /// `euler_at_final`: whether the last step is of first order in any case.
    pub euler_at_final: bool,
    /// `use_karras_sigmas` and its like: where the levels of noise lie.
    pub levels: Option<LevelSpacing>,
    /// `sigma_min` and `sigma_max`: the ends of levels that are not those of timesteps, as sigma / alpha.
    pub level_ends: [Option<f64>; 2],
    /// `final_sigmas_type` "sigma_min": whether the last step ends at the level of timestep 0 rather than at the image.
    pub ends_at_first_timestep: bool,
    /// `lambda_min_clipped`: timesteps with a smaller log(alpha / sigma) are not visited.
    pub lambda_min: f64,
    /// `disable_corrector`: the steps that UniPC does not correct.
    pub uncorrected: Vec<usize>,
    /// Whether x_T is sigma eps rather than eps, as of diffusers' schedulers on Karras's levels with linspace and
    /// trailing spacing (`init_noise_sigma`).
    pub scales_noise: bool,
}

impl Default for Solver {
    fn default() -> Self {
        Self {
            order: None,
            slope: Slope::Midpoint,
            is_bh1: false,
            lower_order_final: true,
            euler_at_final: false,
            levels: None,
            level_ends: [None; 2],
            ends_at_first_timestep: false,
            lambda_min: f64::NEG_INFINITY,
            uncorrected: Vec::new(),
            scales_noise: false,
        }
    }
}

/// How the slope is weighted in steps of the DPM solvers of second order, and in single steps of third order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slope {
    /// As that of the midpoint.
    Midpoint,
    /// By its exact integral.
    Heun,
}

/// Where the levels of noise lie that a sampler visits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LevelSpacing {
    /// At the timesteps that are visited.
    Timesteps,
    /// Closer together the less noise is left (Karras et al. 2022, equation 5, with rho = 7).
    Karras,
    /// Evenly in the logarithm of sigma / alpha.
    Exponential,
    /// The same; diffusers' `use_lu_lambdas` (Lu et al. 2022, "DPM-Solver"), which tells the network whole timesteps.
    Lu,
    /// At quantiles of a beta distribution of sigma / alpha (Lee et al. 2024, "Beta Sampling is All You Need").
    Beta,
}

impl LevelSpacing {
    /// Every spacing.
    pub const ALL: &[Self] = &[Self::Timesteps, Self::Karras, Self::Exponential, Self::Lu, Self::Beta];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Timesteps => "timesteps",
            Self::Karras => "karras",
            Self::Exponential => "exponential",
            Self::Lu => "lu",
            Self::Beta => "beta",
        }
    }
}

impl FromStr for LevelSpacing {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().copied().find(|spacing| spacing.name() == name);
        found.ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|spacing| spacing.name()).collect();
            format!("the levels are {}", known.join(", "))
        })
    }
}
