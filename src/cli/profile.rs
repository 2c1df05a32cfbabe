//! `ddpm-gpu profile`

use std::sync::Arc;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use ddpm_gpu::diffusion::SchedulerConfig;
use ddpm_gpu::network::Network;
use ddpm_gpu::output::write_text;
use ddpm_gpu::train::{Denoise, TrainOptions, Trainer};
use ddpm_gpu::workbench::{
    Dispatch, Profile, SamplingSteps, Steps, TrainingSteps, profile, random_batch, trace,
};

use super::bounds::{MOST, count_in};
use super::progress::Progress;
use super::table::{giga, mib, table, time};
use super::{DeviceArgs, PrecisionArgs, model};

/// Show where the time and the memory of a step go, by module and by kernel
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Train(TrainArgs),
    Sample(SampleArgs),
}

/// Profile training steps on images of noise
#[derive(clap::Args)]
struct TrainArgs {
    /// Keep only what enters residual and attention blocks, and compute the rest again in the backward pass
    #[arg(long)]
    checkpointing: bool,
    #[command(flatten)]
    common: CommonArgs,
}

/// Profile denoising steps of ddim, from images of noise
#[derive(clap::Args)]
struct SampleArgs {
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(clap::Args)]
struct CommonArgs {
    /// A preset or a config.json
    #[arg(long, default_value = "unet-s", value_name = "PRESET|FILE")]
    model: String,
    /// Images in a step
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = count_in(1..=MOST))]
    batch_size: usize,
    /// Steps to run as usual, and as many again that are timed kernel by kernel; medians count
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = count_in(1..=10_000))]
    steps: usize,
    /// Tables to print
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "module,kernel",
        value_name = "module|op|kernel|call,..."
    )]
    group_by: Vec<Group>,
    /// Segments of the module path that the table of modules keeps; 0: all
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = count_in(0..=MOST))]
    depth: usize,
    /// Order of the rows
    #[arg(long, value_enum, default_value = "time", value_name = "time|calls|name|order")]
    sort: Sort,
    /// Rows of each table; 0: all
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = count_in(0..=MOST))]
    top: usize,
    /// Also write the step as a trace for ui.perfetto.dev or chrome://tracing
    #[arg(long, value_name = "FILE.json")]
    trace: Option<PathBuf>,
    /// Print JSON: every dispatch
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    precision: PrecisionArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// What a row stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Group {
    /// A module of the network, such as down_blocks.0.resnets.0
    Module,
    /// An op, whichever variant runs it
    Op,
    /// An entry point in WGSL
    Kernel,
    /// A module and the kernel that it calls
    Call,
}

/// Which row comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Sort {
    /// That which takes longest
    Time,
    /// That with most dispatches
    Calls,
    /// By the alphabet
    Name,
    /// That which runs first
    Order,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Train(args) => train(args).await,
        Command::Sample(args) => sample(args).await,
    }
}

async fn train(args: TrainArgs) -> anyhow::Result<()> {
    let common = &args.common;
    let network: Arc<dyn Network> = Arc::new(model::load(&common.model)?);
    let task = Denoise::new(network.clone(), SchedulerConfig::default())?;
    let options = TrainOptions {
        batch_size: common.batch_size,
        checkpointing: args.checkpointing,
        precision: common.precision.precision,
        ..TrainOptions::default()
    };
    common.check()?;
    let device = common.device.open().await?;
    common.precision.warn(&device);
    // The device's memory is checked before the host makes images.
    let trainer = Trainer::new(&device, task, options, None).await?;
    let batch = random_batch(network.as_ref(), common.batch_size)?;
    common.profile(&mut TrainingSteps { trainer, batch }, "training", &device.name()).await
}

async fn sample(SampleArgs { common }: SampleArgs) -> anyhow::Result<()> {
    let network: Arc<dyn Network> = Arc::new(model::load(&common.model)?);
    common.check()?;
    let device = common.device.open().await?;
    common.precision.warn(&device);
    let mut steps =
        SamplingSteps::new(&device, &network, common.batch_size, common.precision.precision).await?;
    common.profile(&mut steps, "denoising", &device.name()).await
}

impl CommonArgs {
    /// Finds wrong paths before anything runs.
    fn check(&self) -> anyhow::Result<()> {
        if let Some(path) = &self.trace {
            ddpm_gpu::output::check_writable(path)?;
        }
        Ok(())
    }

    /// Takes the steps and shows what was found.
    async fn profile(&self, steps: &mut dyn Steps, kind: &str, device: &str) -> anyhow::Result<()> {
        let mut progress = Progress::new(0, self.steps as u64);
        let profile = profile(steps, self.steps, &mut |step| progress.set(step as u64, "")).await?;
        progress.finish();
        self.show(&profile, &format!("{kind} step of {}", self.model), device)
    }

    fn show(&self, profile: &Profile, what: &str, device: &str) -> anyhow::Result<()> {
        if let Some(path) = &self.trace {
            write_text(path, &serde_json::to_string(&trace(profile, device))?)?;
            eprintln!("wrote {}", path.display());
        }
        if self.json {
            println!("{}", serde_json::to_string_pretty(profile)?);
            return Ok(());
        }
        println!("{what}, {} images, on {device}: {}", self.batch_size, time(profile.step_seconds));
        print_time(profile);
        print_memory(profile);
        for &group in &self.group_by {
            self.print_group(profile, group);
        }
        Ok(())
    }

    fn print_group(&self, profile: &Profile, group: Group) {
        let mut rows: BTreeMap<String, Row> = BTreeMap::new();
        for (index, dispatch) in profile.dispatches.iter().enumerate() {
            let row =
                rows.entry(self.name(dispatch, group)).or_insert(Row { first: index, ..Row::default() });
            row.calls += 1;
            row.seconds += dispatch.seconds;
            row.bytes += dispatch.bytes;
            row.flops += dispatch.flops;
        }
        let mut rows: Vec<(String, Row)> = rows.into_iter().collect();
        match self.sort {
            Sort::Time => rows.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds)),
            Sort::Calls => rows.sort_by_key(|(_, row)| std::cmp::Reverse(row.calls)),
            Sort::Name => {}
            Sort::Order => rows.sort_by_key(|(_, row)| row.first),
        }
        let count = rows.len();
        let shown = if self.top == 0 { count } else { self.top.min(count) };
        let total = profile.kernel_seconds();
        let cells = |(name, row): (String, Row)| {
            vec![
                name,
                row.calls.to_string(),
                time(row.seconds),
                format!("{:.1} %", 100.0 * row.seconds / total),
                giga(row.flops as f64 / row.seconds),
                giga(row.bytes as f64 / row.seconds),
            ]
        };
        let name = format!("{group:?}").to_lowercase();
        let header = [name.as_str(), "calls", "time", "share", "GFLOP/s", "GB/s"];
        println!("\n{}", table(&header, &[1, 2, 3, 4, 5], rows.into_iter().take(shown).map(cells).collect()));
        if shown < count {
            println!("{} more; --top 0 shows all", count - shown);
        }
    }

    fn name(&self, dispatch: &Dispatch, group: Group) -> String {
        let path = match dispatch.path.as_str() {
            "" => "(none)",
            path => path,
        };
        match group {
            Group::Op => dispatch.op.to_owned(),
            Group::Kernel => dispatch.kernel.clone(),
            Group::Call => format!("{path} / {}", dispatch.kernel),
            Group::Module if self.depth == 0 => path.to_owned(),
            Group::Module => path.split('.').take(self.depth).collect::<Vec<_>>().join("."),
        }
    }
}

#[derive(Default)]
struct Row {
    first: usize,
    calls: usize,
    seconds: f64,
    bytes: usize,
    flops: usize,
}

/// The parts of a step's time; what is left over is named.
fn print_time(profile: &Profile) {
    let kernels = profile.kernel_seconds();
    let whole = profile.step_seconds;
    let share = |seconds: f64| format!("{} ({:.1} %)", time(seconds), 100.0 * seconds / whole);
    let clock = if profile.by_device_clock { "the device's timestamps" } else { "the host's clock" };
    println!("  kernels     {}, {} dispatches by {clock}", share(kernels), profile.dispatches.len());
    if let Some(empty) = profile.empty_dispatch_seconds {
        println!("              of each dispatch {}, which one that does nothing takes, too", time(empty));
    }
    let again = profile.dispatches.iter().filter(|dispatch| dispatch.is_recomputed);
    let (count, seconds) = again.fold((0, 0.0), |(count, sum), dispatch| (count + 1, sum + dispatch.seconds));
    if count > 0 {
        println!("              {} of it in {count} that compute forward values again", share(seconds));
    }
    println!("  host        {}, until the device has its work", share(profile.host_seconds));
    let rest = whole - kernels - profile.host_seconds;
    if rest >= 0.0 {
        println!("  in between  {}: launches, barriers, waiting for the end", share(rest));
    } else {
        println!(
            "  kernels that are timed one by one take {} longer than in a step, where they overlap each other or the host",
            time(-rest)
        );
    }
}

fn print_memory(profile: &Profile) {
    let roles = profile.memory.iter().map(|&(role, bytes)| format!("{role} {}", mib(bytes)));
    println!("  memory      {}", roles.collect::<Vec<_>>().join(", "));
    if let Some(peak) = profile.dispatches.iter().max_by_key(|dispatch| dispatch.alive_bytes) {
        println!(
            "  most alive  {} of activations, at {} / {}",
            mib(peak.alive_bytes),
            peak.path,
            peak.kernel
        );
    }
    println!("              {}", sparkline(profile));
}

/// The bytes that are alive over the dispatches of a step, as bars.
fn sparkline(profile: &Profile) -> String {
    const WIDTH: usize = 64;
    let alive: Vec<usize> = profile.dispatches.iter().map(|dispatch| dispatch.alive_bytes).collect();
    let most = alive.iter().copied().max().unwrap_or(0).max(1);
    let bars = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let columns = alive.chunks(alive.len().div_ceil(WIDTH).max(1));
    columns
        .map(|column| {
            let highest = column.iter().copied().max().unwrap_or(0);
            bars[(highest * (bars.len() - 1)).div_ceil(most).min(bars.len() - 1)]
        })
        .collect()
}
