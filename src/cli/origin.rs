//! `--init-from`: the model that a run starts from.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use ddpm_gpu::checkpoint::{BaseModel, averages, newest, resolve};
use ddpm_gpu::diffusion::SchedulerConfig;
use ddpm_gpu::network::{ClassifierConfig, Component, LeftOut, Network, Tensors, UNetConfig};
use ddpm_gpu::pipeline::Pipeline;
use ddpm_gpu::train::LoraOptions;

use super::bounds::{above_up_to, count_in, finite_f32_in};
use super::checkpoint::noted;

/// The model that a run starts from.
#[derive(clap::Args)]
pub(super) struct OriginArgs {
    /// Start a new run from the weights of a model: a checkpoint or a run of this program, of which the averaged
    /// weights are taken, or what diffusers saved. Network, noise schedule and prediction are those of that model,
    /// unless flags say otherwise; the number of classes is that of the images. Goes on with --resume without reading
    /// it again
    #[arg(long, value_name = "DIR")]
    init_from: Option<PathBuf>,
    /// With --init-from: draw the layers anew that the model of --init-from has otherwise or lacks, such as the class
    /// embedding for another number of classes, and leave out those that only it has. All of them are printed
    #[arg(long, requires = "init_from")]
    reinit_mismatched: bool,
    /// Train low-rank adapters (LoRA) of this rank, and leave the model of --init-from as it is. Checkpoints hold the
    /// adapters alone, as diffusers and peft have them, and say which model they are for; export merges them into it
    #[arg(long, value_name = "R", requires = "init_from", conflicts_with = "reinit_mismatched")]
    #[arg(value_parser = count_in(1..=65_536))]
    lora_rank: Option<usize>,
    /// Adapters count so much, divided by the rank; by default as much as the rank, as in diffusers' scripts
    #[arg(long, value_name = "ALPHA", requires = "lora_rank", value_parser = finite_f32_in(above_up_to(0.0, 1e9)))]
    lora_alpha: Option<f32>,
    /// Layers that have an adapter, by the ends of their names: convolutions and fully connected layers; * stands for
    /// any text, alone for all of them. May be given several times. By default the projections of attention: to_q,
    /// to_k, to_v, to_out.0
    #[arg(long, value_name = "PATTERN", requires = "lora_rank")]
    lora_target: Vec<String>,
}

/// The model that a run starts from; or, for a run that goes on, its own newest checkpoint, which has the same.
pub(super) struct Origin {
    folder: PathBuf,
    component: Component,
    scheduler: SchedulerConfig,
    is_resumed: bool,
    reinit_mismatched: bool,
    lora: Option<LoraOptions>,
}

/// What a run trains, and what it begins with.
pub(super) struct Beginning {
    pub(super) network: Arc<dyn Network>,
    pub(super) initial_weights: Option<Tensors>,
    pub(super) base: Option<BaseModel>,
}

impl Beginning {
    /// What a run of `network` trains, and what it begins with.
    pub(super) fn of(
        origin: Option<&Origin>,
        network: Arc<dyn Network>,
        scheduler: &SchedulerConfig,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let Some(origin) = origin else { return Ok(Self { network, initial_weights: None, base: None }) };
        origin.report_scheduler(scheduler)?;
        let weights = origin.weights(network.as_ref(), seed)?;
        let Some(lora) = &origin.lora else {
            return Ok(Self { network, initial_weights: weights, base: None });
        };
        let network: Arc<dyn Network> = Arc::new(lora.adapt(network)?);
        let mut beginning = Self { network, initial_weights: None, base: None };
        if let Some(weights) = weights {
            beginning.base = Some(BaseModel::new(&origin.folder, &origin.component.weights)?);
            let mut all = beginning.network.fresh_weights(seed)?;
            all.extend(weights);
            beginning.initial_weights = Some(all);
        }
        Ok(beginning)
    }
}

impl OriginArgs {
    /// What the settings say of it.
    pub(super) fn name(&self) -> Option<String> {
        self.init_from.as_ref().map(|folder| folder.display().to_string())
    }

    /// Reads the model, where there is one, and says which weights are taken.
    pub(super) fn open(&self, output: &Path, resume: bool) -> anyhow::Result<Option<Origin>> {
        let Some(given) = &self.init_from else { return Ok(None) };
        let own = if resume { newest(output)? } else { None };
        let is_resumed = own.is_some();
        let folder = own.map_or_else(|| resolve(given), Ok)?;
        let Pipeline { networks, scheduler, .. } = match is_resumed {
            true => Pipeline::load(&folder)?,
            false => noted(Pipeline::open(&folder)?),
        };
        let Some(component) = networks.into_values().next() else {
            bail!("{}: there is no network to start from", folder.display());
        };
        if !is_resumed {
            let which = match averages(&folder)?.as_slice() {
                [] => String::new(),
                [decay, ..] => format!(", averaged with decay {decay}"),
            };
            eprintln!("starting from the weights in {}{which}", folder.display());
        }
        let (reinit_mismatched, lora) = (self.reinit_mismatched, self.lora());
        Ok(Some(Origin { folder, component, scheduler, is_resumed, reinit_mismatched, lora }))
    }

    fn lora(&self) -> Option<LoraOptions> {
        let targets = match self.lora_target.as_slice() {
            [] => LoraOptions::TARGETS.map(str::to_owned).to_vec(),
            targets => targets.to_vec(),
        };
        self.lora_rank.map(|rank| LoraOptions { rank, alpha: self.lora_alpha, targets })
    }
}

impl Origin {
    /// The configuration of its network, or of the one of which it is the encoder.
    pub(super) fn config(&self) -> anyhow::Result<UNetConfig> {
        let network = self.component.network.as_ref();
        let json: serde_json::Value = serde_json::from_str(&network.to_json()?)?;
        match network.class_name() {
            UNetConfig::CLASS => Ok(UNetConfig::from_value(json)?),
            ClassifierConfig::CLASS => Ok(ClassifierConfig::from_value(json)?.encoder),
            other => bail!(
                "--init-from {}: the network is of the class {other}; {} and {} are trained here",
                self.folder.display(),
                UNetConfig::CLASS,
                ClassifierConfig::CLASS
            ),
        }
    }

    /// The diffusion process that it was trained for.
    pub(super) fn scheduler(&self) -> &SchedulerConfig {
        &self.scheduler
    }

    /// Says what of the process is taken from it; `now` is the process of the run.
    fn report_scheduler(&self, now: &SchedulerConfig) -> anyhow::Result<()> {
        if self.is_resumed {
            return Ok(());
        }
        let [then, of_run] = [&self.scheduler, now].map(serde_json::to_value);
        let (then, of_run) = (then?, of_run?);
        let keys = ["num_train_timesteps", "beta_schedule", "prediction_type", "variance_type"];
        let values: Vec<String> = keys.iter().map(|key| format!("{key} {}", of_run[*key])).collect();
        let changed: Vec<&String> = of_run
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, value)| then.get(*key) != Some(*value))
            .map(|(key, _)| key)
            .collect();
        let but = match changed.as_slice() {
            [] => "of that model".to_owned(),
            changed => {
                let changed: Vec<&str> = changed.iter().map(|key| key.as_str()).collect();
                format!("of that model, but for {}", changed.join(", "))
            }
        };
        eprintln!("noise schedule {but}: {}", values.join(", "));
        Ok(())
    }

    /// The weights that the run begins with; `None` for one that goes on. What is not taken is printed, or refused.
    fn weights(&self, network: &dyn Network, seed: u64) -> anyhow::Result<Option<Tensors>> {
        if self.is_resumed {
            return Ok(None);
        }
        let given = &self.component.weights;
        let transfer = network.transfer(given, seed).with_context(|| self.folder.display().to_string())?;
        let left_out = &transfer.left_out;
        if transfer.taken == 0 || !(left_out.is_empty() || self.reinit_mismatched) {
            bail!(
                "--init-from {}: of the {} tensors there {} fit the model of this run, and these do not:\n{}{}",
                self.folder.display(),
                given.len(),
                transfer.taken,
                listed(left_out, if transfer.taken == 0 { 8 } else { 40 }),
                if transfer.taken == 0 {
                    "\nit is another model: leave --model out to take its network"
                } else {
                    "\n--reinit-mismatched draws the model's own anew and leaves the others out; or give a --model, a dataset \
                     or --unconditional that go with the weights"
                }
            );
        }
        if !left_out.is_empty() {
            eprintln!(
                "{} of the {} tensors there are taken; drawn anew, or left out:\n{}",
                transfer.taken,
                given.len(),
                listed(left_out, usize::MAX)
            );
        }
        Ok(Some(transfer.weights))
    }
}

/// A line for each, up to so many.
fn listed(left_out: &[LeftOut], most: usize) -> String {
    let shown = left_out.iter().take(most).map(|one| format!("  {one}"));
    let more = left_out.len().saturating_sub(most);
    let rest = (more > 0).then(|| format!("  and {more} more"));
    shown.chain(rest).collect::<Vec<_>>().join("\n")
}
