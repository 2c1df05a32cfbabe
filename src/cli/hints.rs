//! Which flags help against an error of the library, which speaks of settings and knows no flags: the only table of
//! them.

use clap::builder::Command;
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches};
use ddpm_gpu::checkpoint::CheckpointError;
use ddpm_gpu::data::DataError;
use ddpm_gpu::device::DeviceError;
use ddpm_gpu::diffusion::TimestepsError;
use ddpm_gpu::evaluate::EvaluateError;
use ddpm_gpu::graph::GraphError;
use ddpm_gpu::pipeline::{PipelineError, Role};
use ddpm_gpu::sample::SampleError;
use ddpm_gpu::sampler::SamplerError;
use ddpm_gpu::setting::SettingError;
use ddpm_gpu::train::{Advice, TrainError};
use ddpm_gpu::workbench::WorkbenchError;

/// The flags that have other names than the fields that they set. All others have the last name of the field's path,
/// with dashes for underscores, as clap makes them.
const OTHER_NAMES: [(&str, &str); 14] = [
    ("betas[0]", "adam-beta1"),
    ("betas[1]", "adam-beta2"),
    ("clip", "clip-sample"),
    ("config", "model"),
    ("ema_warmup.inv_gamma", "ema-inv-gamma"),
    ("ema_warmup.power", "ema-power"),
    ("learned_schedule", "beta-schedule"),
    ("loss_type.delta", "huber-delta"),
    ("loss_weighting.min_snr.gamma", "min-snr-gamma"),
    ("loss_weighting.p2.gamma", "p2-gamma"),
    ("loss_weighting.p2.k", "p2-k"),
    ("spacing", "timestep-spacing"),
    ("super_resolution.augmentation", "noise-augmentation"),
    ("timestep_sampling", "timestep-sampler"),
];

/// The flag that sets a field.
fn flag_of(field: &str) -> String {
    let other = OTHER_NAMES.iter().find(|(name, _)| *name == field);
    let own = || field.rsplit('.').next().unwrap_or(field).replace('_', "-");
    other.map_or_else(own, |(_, flag)| (*flag).to_owned())
}

/// A way out.
#[derive(Clone, Debug, PartialEq)]
enum Hint {
    /// A flag between words. It is given where the command that runs has the flag.
    Flag { before: &'static str, flag: &'static str, after: String },
    /// A flag without a value, before words. It is given where the command has it and the user has not set it.
    Switch { flag: &'static str, after: &'static str },
    /// The flags of some fields.
    Fields(Vec<&'static str>),
    /// Another command.
    Other(&'static str),
}

fn flag(before: &'static str, flag: &'static str, after: impl Into<String>) -> Hint {
    Hint::Flag { before, flag, after: after.into() }
}

/// What all need that take up too much memory.
fn smaller_batch() -> Hint {
    flag("a smaller ", "batch-size", "")
}

fn cpu() -> Hint {
    flag("", "device", " cpu")
}

fn smaller_steps() -> Vec<Hint> {
    vec![
        flag("a lower ", "learning-rate", ""),
        flag("a larger ", "warmup-steps", ""),
        flag("a smaller ", "weight-decay", ""),
        flag("a smaller ", "max-grad-norm", ""),
    ]
}

fn of_device(error: &DeviceError) -> Vec<Hint> {
    match error {
        DeviceError::NoSuchAdapter { .. } => {
            vec![
                Hint::Other("`ddpm-gpu devices` lists the adapters"),
                flag("", "device", " cpu always works"),
            ]
        }
        DeviceError::AmbiguousAdapter { number, .. } => {
            vec![flag("a number, such as ", "device", format!(" {number}"))]
        }
        DeviceError::CpuHasNoBackend { .. } => {
            vec![flag("leave out ", "backend", ""), flag("or another ", "device", "")]
        }
        DeviceError::Open { .. } | DeviceError::TooManyBindings { .. } | DeviceError::NoVariant { .. } => {
            vec![flag("another ", "device", ""), cpu()]
        }
        DeviceError::Pipeline { .. } => vec![cpu()],
        DeviceError::BindingTooLarge { .. } | DeviceError::HostMemory(_) => vec![smaller_batch()],
        DeviceError::NoF16 { .. } => vec![flag("", "precision", " f32"), flag("another ", "device", "")],
        DeviceError::NoCooperativeMatrix { .. } => {
            vec![flag("leave out ", "cooperative-matrix", ""), flag("another ", "device", "")]
        }
        DeviceError::OutOfMemory { .. } => vec![smaller_batch(), cpu()],
        DeviceError::Lost { .. } | DeviceError::Failed { .. } => {
            vec![Hint::Switch { flag: "submit-each-dispatch", after: " names the kernel that ran" }]
        }
        DeviceError::Timestamps { .. } => vec![Hint::Other("`ddpm-gpu devices` prints what a report needs")],
        _ => Vec::new(),
    }
}

fn of_data(error: &DataError) -> Vec<Hint> {
    match error {
        DataError::BadImage { .. } => {
            vec![Hint::Switch { flag: "skip-bad-images", after: " leaves such files out" }]
        }
        DataError::Missing { .. } => vec![flag("", "data-path", " names a folder that holds them")],
        DataError::BatchSize { .. } => vec![flag("another ", "batch-size", "")],
        _ => Vec::new(),
    }
}

fn of_checkpoint(error: &CheckpointError) -> Vec<Hint> {
    match error {
        CheckpointError::AlreadyThere { .. } => {
            vec![flag("", "resume", " goes on with it"), flag("another ", "output", "")]
        }
        CheckpointError::InUse { .. } => vec![flag("another ", "output", "")],
        CheckpointError::Setting { source, .. } => of_setting(source),
        CheckpointError::Variants { .. } => vec![flag("the flag is ", "variant", "")],
        CheckpointError::NoVariant { .. } => vec![flag("the flag is ", "variant", "; it may be left out")],
        CheckpointError::NoAverage { .. } => vec![flag("the flag is ", "ema-decay", "; it may be left out")],
        _ => Vec::new(),
    }
}

fn of_pipeline(error: &PipelineError) -> Vec<Hint> {
    match error {
        PipelineError::CannotDo { role: Role::Denoises, .. } => {
            vec![flag("", "classifier", " takes it, beside a model")]
        }
        PipelineError::CannotDo { role: Role::Classifies, .. } => {
            vec![Hint::Other("`ddpm-gpu train-classifier` trains a classifier")]
        }
        PipelineError::Model(_) => Vec::new(),
    }
}

fn of_sampler(error: &SamplerError) -> Vec<Hint> {
    match error {
        SamplerError::Timesteps(error) => of_timesteps(error),
        SamplerError::ZeroSnr { .. } => vec![flag("", "timestep-spacing", " leading")],
        SamplerError::Order { .. } => vec![Hint::Fields(vec!["solver_order"])],
        SamplerError::SpacingOfList(_) => vec![Hint::Fields(vec!["spacing"])],
        SamplerError::NotPositive { field, .. } | SamplerError::Unused { field, .. } => {
            vec![Hint::Fields(vec![field])]
        }
        _ => Vec::new(),
    }
}

fn of_timesteps(error: &TimestepsError) -> Vec<Hint> {
    match error {
        TimestepsError::LastStep { .. } => vec![flag("", "timestep-spacing", " trailing")],
        _ => Vec::new(),
    }
}

fn of_setting(error: &SettingError) -> Vec<Hint> {
    vec![Hint::Fields(error.names.to_vec())]
}

fn of_sample(error: &SampleError) -> Vec<Hint> {
    match error {
        SampleError::Setting(error) => of_setting(error),
        SampleError::Sampler(error) => of_sampler(error),
        SampleError::Pipeline(error) => of_pipeline(error),
        SampleError::Device(error) => of_device(error),
        SampleError::Memory(_) => vec![flag("fewer images: ", "num-images", ""), smaller_batch()],
        _ => Vec::new(),
    }
}

fn of_evaluate(error: &EvaluateError) -> Vec<Hint> {
    match error {
        EvaluateError::Setting(error) => of_setting(error),
        EvaluateError::Sample(error) => of_sample(error),
        EvaluateError::Pipeline(error) => of_pipeline(error),
        EvaluateError::Data(error) => of_data(error),
        EvaluateError::Device(error) => of_device(error),
        _ => Vec::new(),
    }
}

fn of_train(error: &TrainError) -> Vec<Hint> {
    match error {
        TrainError::Setting(error) => of_setting(error),
        TrainError::Shape { .. } => vec![flag("another ", "model", ""), flag("another ", "dataset", "")],
        TrainError::NotFinite { advice: Advice::SmallerSteps, .. } | TrainError::Exploded { .. } => {
            smaller_steps()
        }
        TrainError::LossScale { .. } => {
            let mut hints = vec![flag("", "precision", " f32")];
            hints.extend(smaller_steps());
            hints
        }
        TrainError::DoesNotFit { largest: 0, .. } => {
            vec![Hint::Switch { flag: "checkpointing", after: " computes the inside of blocks twice" }]
        }
        TrainError::DoesNotFit { largest, .. } => {
            let most = format!(" of at most {largest}");
            vec![flag("a ", "batch-size", most.clone()), flag("a ", "micro-batch-size", most)]
        }
        TrainError::Graph(GraphError::NothingTrained { .. }) => {
            vec![flag("fewer patterns of ", "freeze", "")]
        }
        TrainError::Memory(_) => vec![smaller_batch()],
        TrainError::Halted { error, checkpoint } => {
            let mut hints = of_train(error);
            hints.extend(checkpoint.as_ref().map(|_| flag("", "resume", " goes on from the checkpoint")));
            hints
        }
        TrainError::Data(error) => of_data(error),
        TrainError::Device(error) => of_device(error),
        TrainError::Checkpoint(error) => of_checkpoint(error),
        TrainError::Sample(error) => of_sample(error),
        TrainError::Evaluate(error) => of_evaluate(error),
        TrainError::Pipeline(error) => of_pipeline(error),
        _ => Vec::new(),
    }
}

fn of_workbench(error: &WorkbenchError) -> Vec<Hint> {
    match error {
        WorkbenchError::Device(error) => of_device(error),
        WorkbenchError::Train(error) => of_train(error),
        WorkbenchError::Sample(error) => of_sample(error),
        _ => Vec::new(),
    }
}

/// What helps against an error, whichever of the library's types it has.
fn of_any(error: &(dyn std::error::Error + 'static)) -> Vec<Hint> {
    if let Some(error) = error.downcast_ref() {
        of_train(error)
    } else if let Some(error) = error.downcast_ref() {
        of_sample(error)
    } else if let Some(error) = error.downcast_ref() {
        of_evaluate(error)
    } else if let Some(error) = error.downcast_ref() {
        of_checkpoint(error)
    } else if let Some(error) = error.downcast_ref() {
        of_data(error)
    } else if let Some(error) = error.downcast_ref() {
        of_device(error)
    } else if let Some(error) = error.downcast_ref() {
        of_sampler(error)
    } else if let Some(error) = error.downcast_ref() {
        of_timesteps(error)
    } else if let Some(error) = error.downcast_ref() {
        of_setting(error)
    } else if let Some(error) = error.downcast_ref() {
        of_pipeline(error)
    } else if let Some(error) = error.downcast_ref() {
        of_workbench(error)
    } else {
        Vec::new()
    }
}

/// The flags of the program, and of the command that runs.
#[derive(Debug)]
pub(super) struct Flags {
    program: Command,
    /// The flags of the command that runs, and whether the user has set each.
    running: Vec<(String, bool)>,
}

impl Flags {
    pub(super) fn new(program: Command, matches: &ArgMatches) -> Self {
        let (mut command, mut matches) = (&program, matches);
        while let Some((name, inner)) = matches.subcommand()
            && let Some(found) = command.find_subcommand(name)
        {
            (command, matches) = (found, inner);
        }
        let is_set = |arg: &clap::Arg| {
            matches!(arg.get_action(), ArgAction::SetTrue)
                && matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine)
        };
        let flags = command.get_arguments().filter_map(|arg| Some((arg.get_long()?.to_owned(), is_set(arg))));
        let running = flags.collect();
        Self { running, program }
    }

    fn is_there(&self, flag: &str) -> bool {
        self.running.iter().any(|(name, _)| name == flag)
    }

    /// The hints against an error, a line of them; `None` where no flag helps.
    pub(super) fn hints(&self, error: &anyhow::Error) -> Option<String> {
        let hints = error.chain().map(of_any).find(|hints| !hints.is_empty())?;
        let texts: Vec<String> = hints.iter().filter_map(|hint| self.text(hint)).collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }

    fn text(&self, hint: &Hint) -> Option<String> {
        match hint {
            Hint::Flag { before, flag, after } => {
                self.is_there(flag).then(|| format!("{before}--{flag}{after}"))
            }
            Hint::Switch { flag, after } => {
                let is_off = self.running.iter().any(|(name, is_set)| name == flag && !is_set);
                is_off.then(|| format!("--{flag}{after}"))
            }
            Hint::Fields(fields) => self.flags_of(fields),
            Hint::Other(text) => Some((*text).to_owned()),
        }
    }

    /// The flags that set some fields: those of the command that runs, else those of other commands.
    fn flags_of(&self, fields: &[&str]) -> Option<String> {
        let flags: Vec<String> = fields.iter().map(|field| flag_of(field)).collect();
        let named = |flags: &[&String]| {
            let names: Vec<String> = flags.iter().map(|flag| format!("--{flag}")).collect();
            let verb = if names.len() == 1 { "flag is" } else { "flags are" };
            format!("{verb} {}", names.join(" and "))
        };
        let own: Vec<&String> = flags.iter().filter(|flag| self.is_there(flag)).collect();
        if !own.is_empty() {
            return Some(format!("the {}", named(&own)));
        }
        let has = |command: &Command, flag: &String| {
            command.get_arguments().any(|arg| arg.get_long() == Some(flag.as_str()))
        };
        self.program.get_subcommands().find_map(|command| {
            let there: Vec<&String> = flags.iter().filter(|flag| has(command, flag)).collect();
            (!there.is_empty()).then(|| format!("of `ddpm-gpu {}` the {}", command.get_name(), named(&there)))
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
