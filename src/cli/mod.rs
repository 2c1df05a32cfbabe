//! The command line: one file per subcommand, each of which parses, calls one library function, and prints.

// First, since what is printed anywhere here is printed by its macros.
#[macro_use]
mod terminal;

mod bounds;
mod checkpoint;
mod condition_image;
mod config;
mod dashboard;
mod data;
mod dataset;
mod devices;
mod evaluate;
mod export;
mod hints;
mod image_to_image;
mod images;
mod import;
mod inpaint;
mod interpolate;
mod kernels;
mod model;
mod noise;
mod origin;
mod plot;
mod predict;
mod process;
mod profile;
mod progress;
mod sample;
mod sampling;
mod table;
mod train;
mod train_classifier;
mod training;
mod tuning;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ddpm_gpu::device::{Backend, Device, DeviceRequest, Selection};
use ddpm_gpu::memory;
use ddpm_gpu::network::Precision;

/// Train and sample denoising diffusion models on any GPU, with hand-written WGSL kernels.
///
/// Exit status: 0 done, 1 failed, 2 wrong usage.
#[derive(Parser)]
#[command(name = "ddpm-gpu", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Devices(devices::Args),
    Data(data::Args),
    Train(train::Args),
    TrainClassifier(train_classifier::Args),
    Plot(plot::Args),
    Sample(sample::Args),
    ImageToImage(image_to_image::Args),
    Inpaint(inpaint::Args),
    Interpolate(interpolate::Args),
    Noise(noise::Args),
    Predict(predict::Args),
    Evaluate(evaluate::Args),
    Export(export::Args),
    Import(import::Args),
    Kernels(kernels::Args),
    Profile(profile::Args),
}

/// Where to compute.
#[derive(clap::Args)]
struct DeviceArgs {
    #[command(flatten)]
    adapter: AdapterArgs,
    /// How long, in seconds, to time a GPU's kernels the first time they meet an adapter, a model and a batch size, and
    /// keep the fastest; 0: only use earlier choices; off: the default kernels
    #[arg(long, default_value = "20", value_name = "off|SECONDS")]
    tuning: tuning::Budget,
}

impl DeviceArgs {
    /// Opens the device for a plan.
    async fn open(&self) -> anyhow::Result<Device> {
        let device = self.adapter.open().await?;
        tuning::set(&device, self.tuning);
        Ok(device)
    }
}

/// Through what an adapter is reached.
#[derive(clap::Args)]
struct BackendArgs {
    /// Only adapters over this interface of the operating system, where a GPU has several
    #[arg(long, value_name = "vulkan|metal|dx12", value_parser = parse_backend)]
    backend: Option<Backend>,
}

fn parse_backend(name: &str) -> Result<Backend, String> {
    one_of("backends", &Backend::ALL, name)
}

/// Where to compute, for commands that choose kernels by themselves.
#[derive(clap::Args)]
struct AdapterArgs {
    /// auto: the first hardware GPU, else the CPU executor; cpu; gpu: any wgpu adapter, software ones included; the
    /// number that `devices` gives an adapter; or its name, or a part of its or its driver's name that no other has,
    /// such as llvmpipe or RTX
    #[arg(long, default_value = "auto", value_name = "auto|cpu|gpu|NUMBER|NAME")]
    device: Selection,
    #[command(flatten)]
    backend: BackendArgs,
    /// Wait for each dispatch before the next is submitted: slow, but if the GPU is lost or fails, the error names the
    /// kernel and the module that ran
    #[arg(long)]
    submit_each_dispatch: bool,
    /// Experimental: let convolutions and linear layers use the GPU's matrix units, through wgpu's cooperative matrices
    /// of 8 x 8 f32. Compiled for Vulkan and Metal, but never run on hardware by us: compare what it computes with
    /// --device cpu. An error if the adapter does not list these
    #[arg(long)]
    cooperative_matrix: bool,
}

impl AdapterArgs {
    /// Opens the device, and says which one it is where the user left the choice open.
    async fn open(&self) -> anyhow::Result<Device> {
        let request = DeviceRequest {
            selection: self.device.clone(),
            backend: self.backend.backend,
            cooperative_matrix: self.cooperative_matrix,
        };
        let device = Device::open_with(&request).await?;
        if self.submit_each_dispatch {
            device.submit_each_dispatch();
        }
        match (&self.device, &device) {
            (Selection::Auto, Device::Cpu) => eprintln!("device: CPU executor (no hardware GPU was found)"),
            _ => eprintln!("device: {}", device.name()),
        }
        Ok(device)
    }
}

/// How activations are stored.
#[derive(clap::Args)]
struct PrecisionArgs {
    /// How activations are stored: f32; or f16, which takes half the memory on adapters with shader-f16. Arithmetic and
    /// weights are f32 in either case; training in f16 scales the loss
    #[arg(long, default_value_t = Precision::F32, value_name = "f32|f16")]
    precision: Precision,
}

impl PrecisionArgs {
    /// Says what f16 does not do on the CPU. It is no error: the numbers are those of f16, to compare a GPU's with.
    fn warn(&self, device: &Device) {
        if let (Precision::F16, Device::Cpu) = (self.precision, device) {
            eprintln!(
                "warning: the CPU executor rounds activations to f16 but keeps them in 32 bits: no memory or time is saved"
            );
        }
    }
}

impl Command {
    /// Whether it has files to write when its first results are printed.
    fn writes_files(&self) -> bool {
        matches!(self, Self::Train(_) | Self::TrainClassifier(_) | Self::Evaluate(_) | Self::Data(_))
    }
}

/// Bytes of memory that are free, where the operating system says so.
fn free_memory() -> Option<usize> {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    let free = system.available_memory();
    if free == 0 {
        return None;
    }
    // In a container counts what its programs hold themselves: what the system keeps of files, it gives back.
    let of_container = |limits: sysinfo::CGroupLimits| limits.total_memory.saturating_sub(limits.rss);
    usize::try_from(free.min(system.cgroup_limits().map_or(free, of_container))).ok()
}

/// Lets the library's warnings be seen.
fn show_warnings() {
    let logger = env_logger::Env::default().default_filter_or("error,ddpm_gpu=warn");
    let format = |buffer: &mut env_logger::fmt::Formatter, record: &log::Record<'_>| {
        let text = format!("[{:5} {}] {}", record.level(), record.target(), record.args());
        std::io::Write::write_all(buffer, format!("{}\n", terminal::escaped(&text)).as_bytes())
    };
    env_logger::Builder::from_env(logger).format(format).init();
}

/// Runs the program.
pub(crate) fn main() -> ExitCode {
    show_warnings();
    memory::set_free(free_memory);
    let config::Parsed { cli, settings, flags } =
        config::parse(std::env::args_os().collect()).unwrap_or_else(|error| error.exit());
    if cli.command.writes_files() {
        terminal::outlive_reader();
    }
    let outcome = pollster::block_on(async {
        match cli.command {
            Command::Devices(args) => devices::run(args).await,
            Command::Data(args) => data::run(&args),
            Command::Train(args) => train::run(args, settings).await,
            Command::TrainClassifier(args) => train_classifier::run(args, settings).await,
            Command::Plot(args) => plot::run(&args),
            Command::Sample(args) => sample::run(args).await,
            Command::ImageToImage(args) => image_to_image::run(args).await,
            Command::Inpaint(args) => inpaint::run(args).await,
            Command::Interpolate(args) => interpolate::run(args).await,
            Command::Noise(args) => noise::run(&args),
            Command::Predict(args) => predict::run(args).await,
            Command::Evaluate(args) => evaluate::run(args).await,
            Command::Export(args) => export::run(&args),
            Command::Import(args) => import::run(&args),
            Command::Kernels(args) => kernels::run(args).await,
            Command::Profile(args) => profile::run(args).await,
        }
    });
    terminal::end(outcome, &flags)
}

/// The value that a flag names; `what` names the kind in the message.
fn one_of<T: Copy>(what: &str, known: &[(&'static str, T)], name: &str) -> Result<T, String> {
    known.iter().find(|(known, _)| *known == name).map(|&(_, value)| value).ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|&(name, _)| name).collect();
        format!("known {what}: {}", names.join(", "))
    })
}

/// The folder that an environment variable names, else `ddpm-gpu/NAME` in the user's cache folder.
fn cache_folder(variable: &str, name: &str) -> Option<PathBuf> {
    use etcetera::BaseStrategy;

    let named = std::env::var_os(variable).filter(|folder| !folder.is_empty()).map(PathBuf::from);
    // It fails where there is no home folder: then nothing is kept for the next run.
    named.or_else(|| Some(etcetera::choose_base_strategy().ok()?.cache_dir().join("ddpm-gpu").join(name)))
}

/// Comma-separated numbers of a flag that may have fractions.
fn parse_finite_list(flag: &str, text: &str) -> anyhow::Result<Vec<f32>> {
    let values: Vec<f32> = parse_list(flag, text)?;
    match values.iter().find(|value| !value.is_finite()) {
        Some(value) => anyhow::bail!("{flag}: {value} is not finite; give numbers separated by commas"),
        None => Ok(values),
    }
}

/// Comma-separated numbers of a flag.
fn parse_list<T: std::str::FromStr>(flag: &str, text: &str) -> anyhow::Result<Vec<T>> {
    text.split(',')
        .map(|part| {
            part.trim().parse().map_err(|_| {
                anyhow::anyhow!("{flag}: '{part}' is no number; give numbers separated by commas")
            })
        })
        .collect()
}
