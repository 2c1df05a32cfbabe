//! `train --dry-run`

use ddpm_gpu::train::{Denoise, DryRun, LargestBatch, Run, TrainOptions, Trainer, largest_batch, time_steps};

use crate::cli::table::{duration, mib, time};

/// Steps that are timed.
const TIMED: usize = 3;

pub(super) async fn run(run: &Run, task: Denoise) -> anyhow::Result<()> {
    let Run { device, options, .. } = run;
    let DryRun { trained, fixed, plan } = Trainer::dry_run(device, &task, options)?;
    let memory = plan.memory();
    let of_these = if fixed > 0 { format!(", of which {trained} are trained") } else { String::new() };
    println!("parameters: {}{of_these}", trained + fixed);
    println!("memory on {}:", device.name());
    for (role, &bytes) in &memory.bytes {
        println!("  {role:12} {:>14}", mib(bytes));
    }
    println!("  {:12} {:>14}", "total", mib(memory.total()));
    let other = TrainOptions { checkpointing: !options.checkpointing, ..options.clone() };
    let other_plan = Trainer::dry_run(device, &task, &other)?.plan;
    let with = if other.checkpointing { "with" } else { "without" };
    println!("{with} --checkpointing the total is {}", mib(other_plan.memory().total()));

    let free = device.free_memory();
    let LargestBatch { batch_size, limit } = largest_batch(run, &task, free)?;
    match limit {
        Some(limit) => println!("largest batch: {batch_size} images at once; one more exceeds {limit}"),
        None => println!("largest batch: at least {batch_size} images at once"),
    }
    if free.is_none() {
        println!("  (as far as the limits of buffers go: how much memory there is, is not known)");
    }
    let at_once = options.micro_batch_size.unwrap_or(options.batch_size);
    if limit.is_some() && batch_size < at_once {
        println!(
            "{at_once} images at once do not fit, so no step was timed; try a smaller --micro-batch-size"
        );
        return Ok(());
    }
    let seconds = time_steps(run, task, TIMED).await?;
    println!(
        "a step takes {} (mean of {TIMED}), {} steps take {}; sample grids and checkpoints come on top",
        time(seconds),
        options.steps,
        duration(seconds * options.steps as f64)
    );
    Ok(())
}
