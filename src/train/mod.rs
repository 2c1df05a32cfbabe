//! Training: a task's step as a graph, the loop that all tasks share, and what is saved.

mod checkpoint_every;
mod classify;
mod denoise;
mod divergence;
mod dry_run;
mod error;
mod graph;
mod graph_state;
mod lora;
mod micro_batches;
mod objective;
mod options;
mod patterns;
mod quartiles;
mod resume;
mod run;
mod sample_grid;
mod task;
mod timestep_sampler;
mod trainer;

pub use checkpoint_every::CheckpointEvery;
pub use classify::Classify;
pub use denoise::Denoise;
pub use dry_run::{LargestBatch, Limit, largest_batch, time_steps};
pub use error::{Advice, TrainError};
pub use graph::{Optimizer, TrainingGraph};
pub use lora::LoraOptions;
pub use objective::{LossType, Objective};
pub use options::{EmaWarmup, LrSchedule, OptimizerKind, TrainOptions};
pub use run::{Event, Outcome, Run, SETTINGS_FILE, train};
pub use task::{Contributions, Part, Task, TaskLoss};
pub use timestep_sampler::{LossSecondMoments, TimestepSampling};
pub use trainer::{DryRun, Trainer};
