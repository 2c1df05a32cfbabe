//! `ddpm-gpu import`

use std::path::PathBuf;

use ddpm_gpu::checkpoint::{ImportSettings, NoiseSchedule, import};
use ddpm_gpu::network::Precision;

/// Make a model of a checkpoint of improved-diffusion or guided-diffusion
///
/// The new folder is a diffusers pipeline, which all other commands take. What the file's tensors tell is read of them;
/// what they do not tell has the default that those scripts have, and is printed. The flags are those that the model
/// was trained with, by their names, with `-` or `_`; a flag that the file contradicts is refused.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The checkpoint: a .pt file, such as ema_0.9999_500000.pt, or the same tensors in a .safetensors file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The folder to write; it must not be there yet
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Where the tensors lie in a file that has several sets of them, such as ema or state.model
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// How weights are stored: f32; or f16, which takes half the space and rounds them
    #[arg(long, default_value_t = Precision::F32, value_name = "f32|f16")]
    precision: Precision,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    process: ProcessArgs,
    #[command(flatten)]
    unused: UnusedArgs,
}

/// What the network is.
#[derive(clap::Args)]
#[command(next_help_heading = "The network")]
struct ModelArgs {
    /// Width and height of the images. By default by the levels: 32, 64, 128 or 256
    #[arg(long, visible_alias = "large-size", aliases = ["image_size", "large_size"], value_name = "N")]
    image_size: Option<usize>,
    /// Width and height of the images that a super-resolution model enlarges
    #[arg(long, alias = "small_size", value_name = "N")]
    small_size: Option<usize>,
    /// Channels of the first level; the file tells them
    #[arg(long, aliases = ["num_channels", "classifier-width", "classifier_width"], value_name = "N")]
    num_channels: Option<usize>,
    /// Residual blocks of a level; the file tells them, but for a classifier with --resblock-updown
    #[arg(long, visible_alias = "classifier-depth", aliases = ["num_res_blocks", "classifier_depth"], value_name = "N")]
    num_res_blocks: Option<usize>,
    /// Channels of the levels, as multiples of the first; the file tells them
    #[arg(long, alias = "channel_mult", value_name = "N,...", value_parser = parse_numbers)]
    channel_mult: Option<Numbers>,
    /// Sizes of images at which there is attention; the file tells them
    #[arg(
        long,
        aliases = ["attention_resolutions", "classifier-attention-resolutions", "classifier_attention_resolutions"],
        value_name = "N,...",
        value_parser = parse_numbers
    )]
    attention_resolutions: Option<Numbers>,
    /// Attention heads, at every level. By default 4
    #[arg(long, alias = "num_heads", value_name = "N")]
    num_heads: Option<usize>,
    /// Channels of an attention head, in place of --num-heads. By default 64 in a classifier
    #[arg(long, alias = "num_head_channels", value_name = "N", value_parser = parse_or_unset, allow_negative_numbers = true)]
    num_head_channels: Option<Unset>,
    /// Attention heads on the way up; only as many as --num-heads can be had
    #[arg(long, alias = "num_heads_upsample", value_name = "N", value_parser = parse_or_unset, allow_negative_numbers = true)]
    num_heads_upsample: Option<Unset>,
    /// Whether all queries come first, then all keys, then all values, rather than those of each head. By default False
    #[arg(long, alias = "use_new_attention_order", value_name = "True|False", value_parser = parse_truth)]
    use_new_attention_order: Option<bool>,
    /// Whether residual blocks scale and shift by the time embedding; the file tells it
    #[arg(
        long,
        aliases = ["use_scale_shift_norm", "classifier-use-scale-shift-norm", "classifier_use_scale_shift_norm"],
        value_name = "True|False",
        value_parser = parse_truth
    )]
    use_scale_shift_norm: Option<bool>,
    /// Whether residual blocks resample; the file tells it
    #[arg(
        long,
        aliases = ["resblock_updown", "classifier-resblock-updown", "classifier_resblock_updown"],
        value_name = "True|False",
        value_parser = parse_truth
    )]
    resblock_updown: Option<bool>,
    /// Share of activations to drop when the model is trained further. By default 0
    #[arg(long, value_name = "X")]
    dropout: Option<f32>,
    /// Whether the model is told the class; the file tells it
    #[arg(long, alias = "class_cond", value_name = "True|False", value_parser = parse_truth)]
    class_cond: Option<bool>,
}

/// What process the network was trained for.
#[derive(clap::Args)]
#[command(next_help_heading = "The process")]
struct ProcessArgs {
    /// Whether the model predicts the variance; the file tells it
    #[arg(long, alias = "learn_sigma", value_name = "True|False", value_parser = parse_truth)]
    learn_sigma: Option<bool>,
    /// Whether a variance that is not learned is that of the posterior rather than beta. By default False
    #[arg(long, alias = "sigma_small", value_name = "True|False", value_parser = parse_truth)]
    sigma_small: Option<bool>,
    /// Whether the image is predicted rather than the noise. By default False
    #[arg(long, alias = "predict_xstart", value_name = "True|False", value_parser = parse_truth)]
    predict_xstart: Option<bool>,
    /// T, the number of steps. By default 1000
    #[arg(long, alias = "diffusion_steps", value_name = "T")]
    diffusion_steps: Option<usize>,
    /// How beta grows. By default linear
    #[arg(long, alias = "noise_schedule", value_name = "linear|cosine")]
    noise_schedule: Option<NoiseSchedule>,
    /// Whether the network is given timesteps scaled to 0..1000, where T is another number. By default True, as in
    /// improved-diffusion; guided-diffusion, whose models have T = 1000, has False
    #[arg(long, alias = "rescale_timesteps", value_name = "True|False", value_parser = parse_truth)]
    rescale_timesteps: Option<bool>,
}

/// Flags of theirs that say nothing of a finished model: taken so that whole lines of flags can be pasted.
#[derive(clap::Args)]
struct UnusedArgs {
    #[arg(long, alias = "use_checkpoint", hide = true)]
    use_checkpoint: Option<String>,
    #[arg(long, aliases = ["use_fp16", "classifier-use-fp16", "classifier_use_fp16"], hide = true)]
    use_fp16: Option<String>,
    #[arg(long, alias = "use_kl", hide = true)]
    use_kl: Option<String>,
    #[arg(long, alias = "rescale_learned_sigmas", hide = true)]
    rescale_learned_sigmas: Option<String>,
    #[arg(long, alias = "timestep_respacing", hide = true)]
    timestep_respacing: Option<String>,
}

/// Numbers with commas between them.
#[derive(Clone, Debug)]
struct Numbers(Vec<usize>);

fn parse_numbers(text: &str) -> Result<Numbers, String> {
    let numbers = text.split(',').map(|number| number.trim().parse());
    numbers
        .collect::<Result<_, _>>()
        .map(Numbers)
        .map_err(|_| "expected whole numbers, such as 16,8".to_owned())
}

/// A number, or nothing for -1, as theirs.
#[derive(Clone, Copy, Debug)]
struct Unset(Option<usize>);

fn parse_or_unset(text: &str) -> Result<Unset, String> {
    match text {
        "-1" => Ok(Unset(None)),
        _ => text
            .parse()
            .map(|number| Unset(Some(number)))
            .map_err(|_| "expected a whole number, or -1 for none".to_owned()),
    }
}

/// True or False, as Python's scripts take them.
fn parse_truth(text: &str) -> Result<bool, String> {
    match text.to_lowercase().as_str() {
        "true" | "yes" | "t" | "y" | "1" => Ok(true),
        "false" | "no" | "f" | "n" | "0" => Ok(false),
        _ => Err("expected True or False".to_owned()),
    }
}

impl Args {
    fn settings(&self) -> ImportSettings {
        let Self { model, process, .. } = self;
        ImportSettings {
            image_size: model.image_size,
            small_size: model.small_size,
            num_channels: model.num_channels,
            num_res_blocks: model.num_res_blocks,
            channel_mult: model.channel_mult.clone().map(|numbers| numbers.0),
            attention_resolutions: model.attention_resolutions.clone().map(|numbers| numbers.0),
            num_heads: model.num_heads,
            num_head_channels: model.num_head_channels.and_then(|number| number.0),
            num_heads_upsample: model.num_heads_upsample.and_then(|number| number.0),
            use_new_attention_order: model.use_new_attention_order,
            use_scale_shift_norm: model.use_scale_shift_norm,
            resblock_updown: model.resblock_updown,
            dropout: model.dropout,
            class_cond: model.class_cond,
            learn_sigma: process.learn_sigma,
            sigma_small: process.sigma_small,
            predict_xstart: process.predict_xstart,
            diffusion_steps: process.diffusion_steps,
            noise_schedule: process.noise_schedule,
            rescale_timesteps: process.rescale_timesteps,
        }
    }
}

impl UnusedArgs {
    /// The names of those that are given.
    fn given(&self) -> Vec<&'static str> {
        let all = [
            ("use_checkpoint", &self.use_checkpoint),
            ("use_fp16", &self.use_fp16),
            ("use_kl", &self.use_kl),
            ("rescale_learned_sigmas", &self.rescale_learned_sigmas),
            ("timestep_respacing", &self.timestep_respacing),
        ];
        all.iter().filter(|(_, value)| value.is_some()).map(|(name, _)| *name).collect()
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let (pipeline, notes) = import(&args.file, args.key.as_deref(), &args.settings())?;
    for note in notes {
        eprintln!("note: {note}");
    }
    let unused = args.unused.given();
    if !unused.is_empty() {
        eprintln!(
            "note: these say how it was trained or is sampled, not what it is, and are not used: {}",
            unused.join(", ")
        );
    }
    pipeline.export(&args.output, args.precision)?;
    eprintln!("wrote {}", args.output.display());
    Ok(())
}
