//! diffusers' `scheduler_config.json`: read, checked and written back.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use thiserror::Error;

use super::scheduler_class::{SchedulerClass, by_name};
use super::{
    BetaSchedule, Method, PredictionType, Schedule, ScheduleError, TimestepSpacing, TimestepsError,
    VarianceType, rescale_betas_zero_snr,
};

/// The version of diffusers whose file format is written.
const DIFFUSERS_VERSION: &str = "0.42.1";

/// The diffusion process of a model, key by key as in diffusers' `scheduler_config.json`.
///
/// Through serde, reads and writes such a file: absent keys get the defaults of their class in diffusers, unknown keys
/// are kept, and a value that would change results and is not implemented is an error that names key and value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
pub struct SchedulerConfig {
    /// `_class_name`: the scheduler that diffusers makes of the file, one of
    /// [`SCHEDULER_CLASSES`](super::SCHEDULER_CLASSES).
    pub class_name: String,
    /// `_diffusers_version`: the version that wrote the file.
    pub diffusers_version: String,
    /// T, the number of training timesteps.
    pub num_train_timesteps: usize,
    /// First beta of the schedules that have one.
    pub beta_start: f64,
    /// Last beta of the schedules that have one.
    pub beta_end: f64,
    /// How beta grows between them.
    pub beta_schedule: BetaSchedule,
    /// The betas themselves `[num_train_timesteps]`, in place of the three keys above.
    pub trained_betas: Option<Vec<f64>>,
    /// Whether the betas are changed so that nothing of the image is left at the last timestep.
    pub rescale_betas_zero_snr: bool,
    /// Variance of the reverse process; read by the `ddpm` sampler only.
    pub variance_type: VarianceType,
    /// Whether estimates of x_0 are clamped.
    pub clip_sample: bool,
    /// The largest absolute value of a clamped estimate.
    pub clip_sample_range: f64,
    /// What the network predicts.
    pub prediction_type: PredictionType,
    /// Which timesteps are visited with fewer steps than T.
    pub timestep_spacing: TimestepSpacing,
    /// Added to every visited timestep with leading spacing.
    pub steps_offset: usize,
    /// Whether the last step ends at the image itself rather than at timestep 0; read by `ddim` and `pndm` only.
    pub set_alpha_to_one: bool,
    /// The other keys: those that say how to draw, see [`SchedulerConfig::method`], and those that are not used here,
    /// kept for the next reader.
    pub other: Map<String, Value>,
}

/// Dynamic thresholding (Saharia et al. 2022, "Imagen", section 2.3), with diffusers' defaults.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholding {
    /// Which quantile of the absolute values of x_0 is the threshold.
    pub ratio: f64,
    /// The largest threshold.
    pub max: f64,
}

/// A scheduler config that cannot be used.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum ConfigError {
    /// A value that would change results and is not implemented, or that makes no sense.
    #[error("the scheduler config has `{key}` = {value}, which this program does not support: {reason}")]
    Unsupported {
        /// The key.
        key: String,
        /// Its value, as JSON.
        value: String,
        /// What is supported.
        reason: String,
    },
    /// Betas that make no schedule.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
}

impl Default for SchedulerConfig {
    /// diffusers' defaults of `DDPMScheduler`, those of Ho et al. 2020: linear betas from 1e-4 to 0.02, T = 1000.
    fn default() -> Self {
        Self {
            class_name: "DDPMScheduler".to_owned(),
            diffusers_version: DIFFUSERS_VERSION.to_owned(),
            num_train_timesteps: 1000,
            beta_start: 1e-4,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            trained_betas: None,
            rescale_betas_zero_snr: false,
            variance_type: VarianceType::FixedSmall,
            clip_sample: true,
            clip_sample_range: 1.0,
            prediction_type: PredictionType::Epsilon,
            timestep_spacing: TimestepSpacing::Leading,
            steps_offset: 0,
            set_alpha_to_one: true,
            other: Map::new(),
        }
    }
}

impl SchedulerConfig {
    /// The first key of the noise schedule that another config has otherwise, with both values, in words.
    pub(crate) fn difference_of_schedule(&self, other: &Self) -> Option<String> {
        const KEYS: [&str; 6] = [
            "num_train_timesteps",
            "beta_schedule",
            "beta_start",
            "beta_end",
            "rescale_betas_zero_snr",
            "trained_betas",
        ];
        let [own, others] = [self, other].map(|config| serde_json::to_value(config).unwrap_or_default());
        KEYS.into_iter().find(|key| own.get(key) != others.get(key)).map(|key| {
            let said = |of: &Value| match of.get(key) {
                Some(Value::Array(_)) => "a list".to_owned(),
                Some(value) => value.to_string(),
                None => "not there".to_owned(),
            };
            format!(": its {key} is {}, that of the model is {}", said(&own), said(&others))
        })
    }

    /// The noise schedule, in f64.
    ///
    /// # Errors
    /// [`ScheduleError`] if the betas do not lie strictly between 0 and 1.
    pub fn schedule(&self) -> Result<Schedule, ScheduleError> {
        // Checked before the betas are computed: a file can claim any number of them.
        Schedule::check_length(self.num_train_timesteps)?;
        let betas = match &self.trained_betas {
            Some(betas) => betas.clone(),
            None => self.beta_schedule.betas(self.num_train_timesteps, self.beta_start, self.beta_end),
        };
        Schedule::new(if self.rescale_betas_zero_snr { rescale_betas_zero_snr(&betas) } else { betas })
    }

    /// The timesteps that a sampler visits in `steps` steps, falling, `[steps]`.
    ///
    /// # Errors
    /// [`TimestepsError`] if `steps` is not in 1..=T, or if `steps_offset` leads past the last timestep.
    pub fn timesteps(&self, steps: usize) -> Result<Vec<usize>, TimestepsError> {
        self.timestep_spacing.timesteps(self.num_train_timesteps, steps, self.steps_offset)
    }

    /// The largest absolute value of an estimate of x_0: infinite where estimates are not clamped.
    pub fn clip_limit(&self) -> f64 {
        if self.clip_sample { self.clip_sample_range } else { f64::INFINITY }
    }

    /// Dynamic thresholding in place of a clamp: `thresholding`, `dynamic_thresholding_ratio` and `sample_max_value`.
    ///
    /// # Errors
    /// [`ConfigError::Unsupported`] for a ratio or a largest value that makes no sense.
    pub fn thresholding(&self) -> Result<Option<Thresholding>, ConfigError> {
        // diffusers tests whether the value is true in Python's sense.
        let class = self.class()?;
        if !class.has("thresholding")
            || matches!(self.other.get("thresholding"), None | Some(Value::Bool(false) | Value::Null))
        {
            return Ok(None);
        }
        let number = |key: &str, least: f64, most: f64| {
            let value = self.other.get(key).cloned().or_else(|| class.default_of(key)).unwrap_or_default();
            value.as_f64().filter(|number| (least..=most).contains(number)).ok_or_else(|| {
                unsupported(key, &value, format!("it must be a number from {least} to {most}"))
            })
        };
        let ratio = number("dynamic_thresholding_ratio", 0.0, 1.0)?;
        Ok(Some(Thresholding { ratio, max: number("sample_max_value", 1.0, f64::from(f32::MAX))? }))
    }

    /// The class of the scheduler.
    ///
    /// # Errors
    /// [`ConfigError::Unsupported`] for a class whose files are not read.
    pub fn class(&self) -> Result<&'static SchedulerClass, ConfigError> {
        by_name(&self.class_name)
    }

    /// By which sampler diffusers' class would draw, and with which choices.
    ///
    /// # Errors
    /// [`ConfigError::Unsupported`] for a choice that is not implemented.
    pub fn method(&self) -> Result<Method, ConfigError> {
        self.class()?.method(&self.clone().into())
    }

    /// The keys that say how to draw and are not as they are by default in the class, with their values as JSON.
    pub fn choices(&self) -> Vec<String> {
        let Ok(class) = self.class() else { return Vec::new() };
        let chosen = |(key, value): (&String, &Value)| {
            let default = class.default_of(key)?;
            let is_default = default == *value || (default == json!(false) && value.is_null());
            (!is_default).then(|| format!("{key} = {value}"))
        };
        self.other.iter().filter_map(chosen).collect()
    }

    /// Keys of the file that nothing here uses; those that begin with an underscore are notes of the program that wrote
    /// it.
    pub fn unused_keys(&self) -> Vec<&str> {
        let class = self.class().ok();
        let is_used =
            |key: &str| class.is_some_and(|class| class.has(key)) || READ_IN_ANY_CLASS.contains(&key);
        let is_unused = |key: &str, value: &Value| !value.is_null() && !key.starts_with('_') && !is_used(key);
        self.other.iter().filter(|(key, value)| is_unused(key, value)).map(|(key, _)| key.as_str()).collect()
    }

    /// Refuses what no type rules out.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.method()?;
        self.thresholding()?;
        if self.rescale_betas_zero_snr && !self.class()?.has("rescale_betas_zero_snr") {
            let reason =
                format!("a {} of diffusers has no such key and would not rescale them", self.class_name);
            return Err(unsupported("rescale_betas_zero_snr", &json!(true), reason));
        }
        let range = self.clip_sample_range;
        if range <= 0.0 || !range.is_finite() {
            return Err(unsupported("clip_sample_range", &json!(range), "it must be positive".to_owned()));
        }
        if let Some(betas) = &self.trained_betas
            && betas.len() != self.num_train_timesteps
        {
            let reason = format!("`trained_betas` has {} numbers; the two must agree", betas.len());
            return Err(unsupported("num_train_timesteps", &json!(self.num_train_timesteps), reason));
        }
        if self.schedule()?.has_zero_terminal_snr() && self.prediction_type == PredictionType::Epsilon {
            let reason = "nothing of the image is left at the last timestep, where the noise says nothing of x_0; use \
                          v_prediction or sample, or a schedule without rescale_betas_zero_snr";
            return Err(unsupported("prediction_type", &json!(self.prediction_type), reason.to_owned()));
        }
        Ok(())
    }
}

pub(super) fn unsupported(key: &str, value: &Value, reason: String) -> ConfigError {
    ConfigError::Unsupported { key: key.to_owned(), value: value.to_string(), reason }
}

/// Keys that say something of the model in files of any class: samplers of other classes read them.
const READ_IN_ANY_CLASS: [&str; 2] = ["variance_type", "set_alpha_to_one"];

/// `prediction_type`; or `predict_epsilon`, which diffusers had before it and which says whether it is epsilon or
/// sample.
fn prediction_type(map: &mut Map<String, Value>) -> Result<PredictionType, ConfigError> {
    let kind = match map.contains_key("prediction_type") {
        true => Some(take(map, "prediction_type", PredictionType::default())?),
        false => None,
    };
    let old = take::<Option<bool>>(map, "predict_epsilon", None)?.map(|is_epsilon| match is_epsilon {
        true => PredictionType::Epsilon,
        false => PredictionType::Sample,
    });
    match (kind, old) {
        (Some(kind), Some(old)) if kind != old => {
            let reason =
                format!("`predict_epsilon` is its old name and says {}; delete the wrong one", json!(old));
            Err(unsupported("prediction_type", &json!(kind), reason))
        }
        (kind, old) => Ok(kind.or(old).unwrap_or_default()),
    }
}

/// Moves the value of `key` out of `map`; an absent key has the default.
fn take<T: DeserializeOwned>(map: &mut Map<String, Value>, key: &str, default: T) -> Result<T, ConfigError> {
    match map.remove(key) {
        None => Ok(default),
        Some(value) => T::deserialize(&value).map_err(|error| match value.as_str() {
            // How numbers that JSON does not have come here.
            Some(name @ ("NaN" | "Infinity" | "-Infinity")) => ConfigError::Unsupported {
                key: key.to_owned(),
                value: name.to_owned(),
                reason: "it must be a finite number".to_owned(),
            },
            _ => unsupported(key, &value, error.to_string()),
        }),
    }
}

/// Whether a file of a class has a key whatever it says. Files from before zero-SNR schedules are written as they were.
fn is_always_written(class: &SchedulerClass, key: &str) -> bool {
    key != "rescale_betas_zero_snr" && class.default_of(key).is_some_and(|default| !default.is_null())
}

/// Moves the value of `key` out of `map`, where the class has the key. An absent key has the class's default; what
/// holds in a class without the key is `without`.
///
/// What says no more than the default and need not be written stays in the map, so that a file that had it has it
/// again.
fn take_of<T: DeserializeOwned + PartialEq + Clone>(
    class: &SchedulerClass,
    map: &mut Map<String, Value>,
    key: &str,
    without: T,
) -> Result<T, ConfigError> {
    let default = match class.default_of(key).filter(|default| !default.is_null()) {
        Some(default) => take(&mut Map::from_iter([(key.to_owned(), default)]), key, without)?,
        None => without,
    };
    if !class.has(key) && !READ_IN_ANY_CLASS.contains(&key) {
        return Ok(default);
    }
    if is_always_written(class, key) {
        return take(map, key, default);
    }
    let Some(raw) = map.get(key).cloned() else { return Ok(default) };
    // null is false in Python.
    let value = if raw.is_null() { default.clone() } else { take(map, key, default.clone())? };
    if value == default {
        map.insert(key.to_owned(), raw);
    }
    Ok(value)
}

impl TryFrom<Map<String, Value>> for SchedulerConfig {
    type Error = ConfigError;

    fn try_from(mut map: Map<String, Value>) -> Result<Self, ConfigError> {
        let d = Self::default();
        // The class first: errors in the keys of another class are of no use.
        let class_name = take(&mut map, "_class_name", d.class_name)?;
        let class = by_name(&class_name)?;
        let prediction_type = prediction_type(&mut map)?;
        let config = Self {
            class_name,
            diffusers_version: take(&mut map, "_diffusers_version", d.diffusers_version)?,
            num_train_timesteps: take_of(class, &mut map, "num_train_timesteps", d.num_train_timesteps)?,
            beta_start: take_of(class, &mut map, "beta_start", d.beta_start)?,
            beta_end: take_of(class, &mut map, "beta_end", d.beta_end)?,
            beta_schedule: take_of(class, &mut map, "beta_schedule", d.beta_schedule)?,
            trained_betas: take(&mut map, "trained_betas", None)?,
            rescale_betas_zero_snr: take_of(class, &mut map, "rescale_betas_zero_snr", false)?,
            variance_type: take_of(class, &mut map, "variance_type", d.variance_type)?,
            clip_sample: take_of(class, &mut map, "clip_sample", false)?,
            clip_sample_range: take_of(class, &mut map, "clip_sample_range", 1.0)?,
            prediction_type,
            // `DPMSolverSinglestepScheduler` has no such key, and this spacing.
            timestep_spacing: take_of(class, &mut map, "timestep_spacing", TimestepSpacing::Linspace)?,
            steps_offset: take_of(class, &mut map, "steps_offset", 0)?,
            set_alpha_to_one: take_of(class, &mut map, "set_alpha_to_one", true)?,
            other: map,
        };
        config.check()?;
        Ok(config)
    }
}

impl From<SchedulerConfig> for Map<String, Value> {
    fn from(config: SchedulerConfig) -> Self {
        let class = config.class().ok();
        let has = |key: &str| class.is_none_or(|class| is_always_written(class, key));
        let mut map = config.other;
        for (key, value, is_written) in [
            ("_class_name", json!(config.class_name), true),
            ("_diffusers_version", json!(config.diffusers_version), true),
            ("num_train_timesteps", json!(config.num_train_timesteps), true),
            ("beta_start", json!(config.beta_start), true),
            ("beta_end", json!(config.beta_end), true),
            ("beta_schedule", json!(config.beta_schedule), true),
            ("trained_betas", json!(config.trained_betas), true),
            ("rescale_betas_zero_snr", json!(true), config.rescale_betas_zero_snr),
            ("clip_sample", json!(config.clip_sample), has("clip_sample")),
            ("clip_sample_range", json!(config.clip_sample_range), has("clip_sample_range")),
            ("prediction_type", json!(config.prediction_type), true),
            ("timestep_spacing", json!(config.timestep_spacing), has("timestep_spacing")),
            ("steps_offset", json!(config.steps_offset), has("steps_offset")),
            // Each class warns of a key of another; these two are written there where they say something.
            (
                "variance_type",
                json!(config.variance_type),
                has("variance_type") || config.variance_type != VarianceType::default(),
            ),
            (
                "set_alpha_to_one",
                json!(config.set_alpha_to_one),
                has("set_alpha_to_one") || !config.set_alpha_to_one,
            ),
        ] {
            if is_written {
                map.insert(key.to_owned(), value);
            }
        }
        map
    }
}

#[cfg(test)]
mod tests;
