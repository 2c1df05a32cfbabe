//! The command line: one file per subcommand, each of which parses, calls one library function, and prints.

mod devices;
mod image_to_image;
mod images;
mod inpaint;
mod interpolate;
mod noise;
mod predict;
mod progress;
mod sample;
mod sampling;
mod train;
mod train_classifier;
mod training;
mod tuning;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ddpm_gpu::device::{Device, Selection};
use ddpm_gpu::model::Precision;

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
    Train(train::Args),
    TrainClassifier(train_classifier::Args),
    Sample(sample::Args),
    Predict(predict::Args),
    ImageToImage(image_to_image::Args),
    Inpaint(inpaint::Args),
    Interpolate(interpolate::Args),
    Noise(noise::Args),
}

/// Where to compute.
#[derive(clap::Args)]
struct DeviceArgs {
    /// auto: the first hardware GPU, else the CPU executor; cpu; gpu: any wgpu adapter, software ones included; or a part
    /// of an adapter's or driver's name, such as llvmpipe or RTX
    #[arg(long, default_value = "auto", value_name = "auto|cpu|gpu|NAME")]
    device: Selection,
    /// How long, in seconds, to time a GPU's kernels the first time they meet an adapter, a model and a batch size, and
    /// keep the fastest; 0: only use earlier choices; off: the default kernels
    #[arg(long, default_value = "20", value_name = "off|SECONDS")]
    tuning: tuning::Budget,
}

impl DeviceArgs {
    /// Opens the device, and says which one it is where the user left the choice open.
    async fn open(&self) -> anyhow::Result<Device> {
        let device = Device::open(&self.device).await?;
        match (&self.device, &device) {
            (Selection::Auto, Device::Cpu) => eprintln!("device: CPU executor (no hardware GPU was found)"),
            _ => eprintln!("device: {}", device.name()),
        }
        tuning::set(&device, self.tuning);
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

/// Runs the program.
pub(crate) fn main() -> ExitCode {
    let logger = env_logger::Env::default().default_filter_or("error");
    env_logger::Builder::from_env(logger).format_timestamp(None).init();
    let cli = Cli::parse();
    let result = pollster::block_on(async {
        match cli.command {
            Command::Devices(args) => devices::run(args).await,
            Command::Train(args) => train::run(args).await,
            Command::TrainClassifier(args) => train_classifier::run(args).await,
            Command::Sample(args) => sample::run(args).await,
            Command::Predict(args) => predict::run(args).await,
            Command::ImageToImage(args) => image_to_image::run(args).await,
            Command::Inpaint(args) => inpaint::run(args).await,
            Command::Interpolate(args) => interpolate::run(args).await,
            Command::Noise(args) => noise::run(&args),
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", describe(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and what caused it; the library's errors quote most causes themselves.
fn describe(error: &anyhow::Error) -> String {
    error.chain().skip(1).fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
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
