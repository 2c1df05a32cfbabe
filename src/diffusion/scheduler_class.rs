//! The classes of diffusers' schedulers whose files are read: their keys, what an absent key means, and by which
//! sampler each draws.
//!
//! A class is a line in [`CLASSES`]. Its keys and their defaults are those of the class's `__init__` in diffusers, as
//! `tools/oracle/scheduler_classes.py` lists them.

use serde_json::{Map, Value, json};

use super::config::{ConfigError, unsupported};
use super::method::{LevelSpacing, Method, Slope, Solver};

/// A class of diffusers' schedulers.
#[derive(Debug)]
pub struct SchedulerClass {
    /// Its name.
    pub name: &'static str,
    /// Its keys and their defaults; of two defaults for a key the first counts.
    keys: &'static [&'static [Key]],
    /// By which sampler it draws.
    method: fn(&Keys<'_>) -> Result<Method, ConfigError>,
}

/// A key, and what it means that a file does not have it.
type Key = (&'static str, Absent);

/// A value of Python's.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Absent {
    None,
    Is(bool),
    Number(f64),
    Whole(u32),
    Text(&'static str),
    NoNumbers,
    MinusInfinity,
}
use Absent::{Is, MinusInfinity, NoNumbers, None as Null, Number, Text, Whole};

/// Every class.
pub const CLASSES: &[SchedulerClass] = &[
    SchedulerClass {
        name: "DDPMScheduler",
        keys: &[PROCESS, FIXED_VARIANCE, CLIP, THRESHOLDING, LEADING, ZERO_SNR],
        // The class that training scripts write, whatever is to draw in the end: its own thousand steps are for those
        // who ask for them.
        method: |_| Ok(by("ddim")),
    },
    SchedulerClass {
        name: "DDIMScheduler",
        keys: &[PROCESS, TO_ONE, CLIP, THRESHOLDING, LEADING, ZERO_SNR],
        method: |_| Ok(by("ddim")),
    },
    SchedulerClass {
        name: "DDIMInverseScheduler",
        keys: &[PROCESS, TO_ONE, CLIP, LEADING, ZERO_SNR],
        method: |_| Ok(by("ddim_inverse")),
    },
    SchedulerClass {
        name: "PNDMScheduler",
        keys: &[PROCESS, &[("skip_prk_steps", Is(false)), ("set_alpha_to_one", Is(false))], LEADING],
        method: |keys| Ok(by(if keys.is("skip_prk_steps")? { "plms" } else { "pndm" })),
    },
    SchedulerClass {
        name: "DPMSolverMultistepScheduler",
        keys: &[
            PROCESS,
            DPM_SOLVER,
            &[("lower_order_final", Is(true)), ("euler_at_final", Is(false)), ("use_lu_lambdas", Is(false))],
            LEVELS,
            FLOW,
            THRESHOLDING,
            LINSPACE,
            ZERO_SNR,
        ],
        method: |keys| dpm_solver(keys, ["dpmpp_2m", "dpm_2m"], Some("dpmpp_2m_sde")),
    },
    SchedulerClass {
        name: "DPMSolverSinglestepScheduler",
        keys: &[PROCESS, DPM_SOLVER, &[("lower_order_final", Is(false))], LEVELS, FLOW, THRESHOLDING],
        method: |keys| dpm_solver(keys, ["dpmpp_2s", "dpm_2s"], None),
    },
    SchedulerClass {
        name: "DEISMultistepScheduler",
        keys: &[
            PROCESS,
            &[("solver_order", Whole(2)), ("algorithm_type", Text("deis")), ("solver_type", Text("logrho"))],
            &[("lower_order_final", Is(true))],
            LEVELS,
            FLOW,
            THRESHOLDING,
            LINSPACE,
        ],
        method: deis,
    },
    SchedulerClass {
        name: "UniPCMultistepScheduler",
        keys: &[
            PROCESS,
            &[("solver_order", Whole(2)), ("predict_x0", Is(true)), ("solver_type", Text("bh2"))],
            &[("lower_order_final", Is(true)), ("disable_corrector", NoNumbers), ("solver_p", Null)],
            LEVELS,
            FLOW,
            &[("sigma_min", Null), ("sigma_max", Null), ("shift_terminal", Null)],
            FINAL,
            THRESHOLDING,
            LINSPACE,
            ZERO_SNR,
        ],
        method: unipc,
    },
    SchedulerClass {
        name: "EulerDiscreteScheduler",
        keys: &[
            PROCESS,
            &[("interpolation_type", Text("linear")), ("timestep_type", Text("discrete"))],
            LEVELS,
            &[("sigma_min", Null), ("sigma_max", Null)],
            FINAL,
            LINSPACE,
            ZERO_SNR,
        ],
        method: euler,
    },
    SchedulerClass {
        name: "EulerAncestralDiscreteScheduler",
        keys: &[PROCESS, LINSPACE, ZERO_SNR],
        method: |keys| Ok(Method { sampler: "euler_ancestral", solver: on_levels(keys)? }),
    },
    SchedulerClass {
        name: "HeunDiscreteScheduler",
        keys: &[
            &[("beta_start", Number(0.00085)), ("beta_end", Number(0.012)), ("clip_sample", Is(false))],
            PROCESS,
            CLIP,
            LEVELS,
            LINSPACE,
        ],
        method: |keys| Ok(Method { sampler: "heun", solver: on_levels(keys)? }),
    },
];

const PROCESS: &[Key] = &[
    ("num_train_timesteps", Whole(1000)),
    ("beta_start", Number(1e-4)),
    ("beta_end", Number(0.02)),
    ("beta_schedule", Text("linear")),
    ("trained_betas", Null),
    ("prediction_type", Text("epsilon")),
];
const FIXED_VARIANCE: &[Key] = &[("variance_type", Text("fixed_small"))];
const TO_ONE: &[Key] = &[("set_alpha_to_one", Is(true))];
const CLIP: &[Key] = &[("clip_sample", Is(true)), ("clip_sample_range", Number(1.0))];
const THRESHOLDING: &[Key] = &[
    ("thresholding", Is(false)),
    ("dynamic_thresholding_ratio", Number(0.995)),
    ("sample_max_value", Number(1.0)),
];
const LEADING: &[Key] = &[("timestep_spacing", Text("leading")), ("steps_offset", Whole(0))];
const LINSPACE: &[Key] = &[("timestep_spacing", Text("linspace")), ("steps_offset", Whole(0))];
const ZERO_SNR: &[Key] = &[("rescale_betas_zero_snr", Is(false))];
const FINAL: &[Key] = &[("final_sigmas_type", Text("zero"))];
const LEVELS: &[Key] = &[
    ("use_karras_sigmas", Is(false)),
    ("use_exponential_sigmas", Is(false)),
    ("use_beta_sigmas", Is(false)),
];
const FLOW: &[Key] = &[
    ("use_flow_sigmas", Is(false)),
    ("flow_shift", Number(1.0)),
    ("use_dynamic_shifting", Is(false)),
    ("time_shift_type", Text("exponential")),
];
const DPM_SOLVER: &[Key] = &[
    ("solver_order", Whole(2)),
    ("algorithm_type", Text("dpmsolver++")),
    ("solver_type", Text("midpoint")),
    ("final_sigmas_type", Text("zero")),
    ("lambda_min_clipped", MinusInfinity),
    ("variance_type", Null),
];

/// A sampler without choices.
fn by(sampler: &'static str) -> Method {
    Method { sampler, solver: Solver::default() }
}

/// The DPM solvers: of the samplers, the first predicts x_0, the second eps; `sde` is the first with noise.
fn dpm_solver(
    keys: &Keys<'_>,
    [of_x_0, of_eps]: [&'static str; 2],
    sde: Option<&'static str>,
) -> Result<Method, ConfigError> {
    let mut algorithms = vec![("dpmsolver++", of_x_0), ("dpmsolver", of_eps)];
    algorithms.extend(sde.map(|sde| ("sde-dpmsolver++", sde)));
    // What diffusers turns into it.
    algorithms.push(("deis", of_x_0));
    let sampler = keys.one_of("algorithm_type", &algorithms)?;
    let midpoint = Slope::Midpoint;
    let slopes = [
        ("midpoint", midpoint),
        ("heun", Slope::Heun),
        ("logrho", midpoint),
        ("bh1", midpoint),
        ("bh2", midpoint),
    ];
    let solver = Solver {
        slope: keys.one_of("solver_type", &slopes)?,
        euler_at_final: keys.is("euler_at_final")?,
        ends_at_first_timestep: ends_at_first_timestep(keys)?,
        lambda_min: keys.lambda_min()?,
        ..multistep(keys)?
    };
    if Some(sampler) == sde {
        keys.one_of_numbers("solver_order", &[1, 2])?;
    }
    if sampler == of_eps && !solver.ends_at_first_timestep {
        let reason = "with `algorithm_type` = \"dpmsolver\" it must be \"sigma_min\", as in diffusers";
        return Err(keys.refused("final_sigmas_type", reason.to_owned()));
    }
    Ok(Method { sampler, solver })
}

fn deis(keys: &Keys<'_>) -> Result<Method, ConfigError> {
    keys.one_of("algorithm_type", &[("deis", ()), ("dpmsolver", ()), ("dpmsolver++", ())])?;
    keys.one_of("solver_type", &[("logrho", ()), ("midpoint", ()), ("heun", ()), ("bh1", ()), ("bh2", ())])?;
    Ok(Method { sampler: "deis", solver: Solver { ends_at_first_timestep: true, ..multistep(keys)? } })
}

fn unipc(keys: &Keys<'_>) -> Result<Method, ConfigError> {
    keys.only("predict_x0", &json!(true))?;
    for key in ["solver_p", "sigma_min", "sigma_max", "shift_terminal"] {
        keys.only(key, &Value::Null)?;
    }
    let types = [("bh2", false), ("bh1", true), ("midpoint", false), ("heun", false), ("logrho", false)];
    let solver = Solver {
        is_bh1: keys.one_of("solver_type", &types)?,
        ends_at_first_timestep: ends_at_first_timestep(keys)?,
        uncorrected: keys.whole_numbers("disable_corrector")?,
        ..multistep(keys)?
    };
    Ok(Method { sampler: "unipc", solver })
}

fn euler(keys: &Keys<'_>) -> Result<Method, ConfigError> {
    keys.only("interpolation_type", &json!("linear"))?;
    if keys.value("prediction_type") == json!("v_prediction") {
        keys.only("timestep_type", &json!("discrete"))?;
    }
    let level_ends = [keys.level("sigma_min")?, keys.level("sigma_max")?];
    if let [Some(least), Some(most)] = level_ends
        && least >= most
    {
        return Err(keys.refused("sigma_min", format!("it must be below `sigma_max`, which is {most}")));
    }
    let solver =
        Solver { level_ends, ends_at_first_timestep: ends_at_first_timestep(keys)?, ..on_levels(keys)? };
    Ok(Method { sampler: "euler", solver })
}

/// What the multistep schedulers and `DPMSolverSinglestepScheduler` have in common.
fn multistep(keys: &Keys<'_>) -> Result<Solver, ConfigError> {
    for key in ["use_flow_sigmas", "use_dynamic_shifting"] {
        keys.only(key, &json!(false))?;
    }
    Ok(Solver {
        order: Some(keys.one_of_numbers("solver_order", &[1, 2, 3])?),
        lower_order_final: keys.is("lower_order_final")?,
        levels: Some(level_spacing(keys)?),
        ..Solver::default()
    })
}

/// What the schedulers on levels of sigma / alpha have in common.
fn on_levels(keys: &Keys<'_>) -> Result<Solver, ConfigError> {
    Ok(Solver { levels: Some(level_spacing(keys)?), scales_noise: true, ..Solver::default() })
}

fn level_spacing(keys: &Keys<'_>) -> Result<LevelSpacing, ConfigError> {
    let mut found = LevelSpacing::Timesteps;
    for (key, spacing) in [
        ("use_karras_sigmas", LevelSpacing::Karras),
        ("use_exponential_sigmas", LevelSpacing::Exponential),
        ("use_beta_sigmas", LevelSpacing::Beta),
        ("use_lu_lambdas", LevelSpacing::Lu),
    ] {
        if keys.is(key)? {
            if found != LevelSpacing::Timesteps {
                return Err(keys.refused(key, "another key asks for other levels already".to_owned()));
            }
            found = spacing;
        }
    }
    Ok(found)
}

fn ends_at_first_timestep(keys: &Keys<'_>) -> Result<bool, ConfigError> {
    keys.one_of("final_sigmas_type", &[("zero", false), ("sigma_min", true)])
}

/// The class of that name.
///
/// # Errors
/// [`ConfigError::Unsupported`], which lists the classes there are.
pub(super) fn by_name(name: &str) -> Result<&'static SchedulerClass, ConfigError> {
    CLASSES.iter().find(|class| class.name == name).ok_or_else(|| {
        let known: Vec<&str> = CLASSES.iter().map(|class| class.name).collect();
        let reason = format!(
            "files of these schedulers are read: {0}; where the model was trained with one of them, write its file \
             with diffusers' {1}.from_config(pipeline.scheduler.config).save_pretrained(...)",
            known.join(", "),
            known[0]
        );
        unsupported("_class_name", &json!(name), reason)
    })
}

impl SchedulerClass {
    /// What it means that its file does not have a key; `None` for a key that the class does not have.
    pub(super) fn default_of(&self, key: &str) -> Option<Value> {
        let (_, default) = self.keys.iter().copied().flatten().find(|(other, _)| *other == key)?;
        Some(match *default {
            Null => Value::Null,
            Is(flag) => json!(flag),
            Number(number) => json!(number),
            Whole(number) => json!(number),
            Text(text) => json!(text),
            NoNumbers => json!([]),
            // How numbers that JSON does not have are written: see `checkpoint::json`.
            MinusInfinity => json!("-Infinity"),
        })
    }

    /// Whether its files have this key.
    pub fn has(&self, key: &str) -> bool {
        self.default_of(key).is_some()
    }

    /// The names of its keys with their defaults.
    pub fn defaults(&self) -> Map<String, Value> {
        let keys = self.keys.iter().copied().flatten().map(|(key, _)| *key);
        keys.filter_map(|key| Some((key.to_owned(), self.default_of(key)?))).collect()
    }

    /// How a file draws.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key.
    pub(super) fn method(&self, file: &Map<String, Value>) -> Result<Method, ConfigError> {
        (self.method)(&Keys { class: self, file })
    }
}

/// A file of a class.
struct Keys<'a> {
    class: &'a SchedulerClass,
    file: &'a Map<String, Value>,
}

impl Keys<'_> {
    /// The value of a key: the file's, or the default; null for a key that the class does not have.
    fn value(&self, key: &str) -> Value {
        let default = self.class.default_of(key);
        default.map_or(Value::Null, |default| self.file.get(key).cloned().unwrap_or(default))
    }

    fn refused(&self, key: &str, reason: String) -> ConfigError {
        unsupported(key, &self.value(key), reason)
    }

    /// Null is false, as in Python.
    fn is(&self, key: &str) -> Result<bool, ConfigError> {
        match self.value(key) {
            Value::Null => Ok(false),
            Value::Bool(flag) => Ok(flag),
            _ => Err(self.refused(key, "it must be true or false".to_owned())),
        }
    }

    /// Refuses all values but one.
    fn only(&self, key: &str, accepted: &Value) -> Result<(), ConfigError> {
        let value = self.value(key);
        if value == *accepted || (value.is_null() && *accepted == json!(false)) {
            return Ok(());
        }
        Err(self.refused(key, format!("it must be {accepted}")))
    }

    fn one_of<T: Copy>(&self, key: &str, known: &[(&str, T)]) -> Result<T, ConfigError> {
        let value = self.value(key);
        let found = known.iter().find(|(name, _)| value.as_str() == Some(name));
        found.map(|(_, found)| *found).ok_or_else(|| {
            let known: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            self.refused(key, format!("it must be one of {}", known.join(", ")))
        })
    }

    fn one_of_numbers(&self, key: &str, known: &[usize]) -> Result<usize, ConfigError> {
        let value = self.value(key);
        let found = known.iter().copied().find(|number| value.as_u64() == Some(*number as u64));
        found.ok_or_else(|| {
            let known: Vec<String> = known.iter().map(usize::to_string).collect();
            self.refused(key, format!("it must be one of {}", known.join(", ")))
        })
    }

    fn whole_numbers(&self, key: &str) -> Result<Vec<usize>, ConfigError> {
        let numbers = self.value(key);
        let each = |number: &Value| number.as_u64().map(|number| number as usize);
        let found = numbers.as_array().and_then(|numbers| numbers.iter().map(each).collect());
        found.ok_or_else(|| self.refused(key, "it must be a list of whole numbers".to_owned()))
    }

    /// sigma / alpha of a level, or null.
    fn level(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        let value = self.value(key);
        let number = value.as_f64().filter(|number| (1e-6..=1e6).contains(number));
        if value.is_null() || number.is_some() {
            return Ok(number);
        }
        Err(self.refused(key, "it must be null or a number from 0.000001 to 1000000".to_owned()))
    }

    /// `lambda_min_clipped`, whose default JSON does not have.
    fn lambda_min(&self) -> Result<f64, ConfigError> {
        let value = self.value("lambda_min_clipped");
        if value == json!("-Infinity") {
            return Ok(f64::NEG_INFINITY);
        }
        value
            .as_f64()
            .ok_or_else(|| self.refused("lambda_min_clipped", "it must be a number or -Infinity".to_owned()))
    }
}
