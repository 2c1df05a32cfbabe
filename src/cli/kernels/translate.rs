//! `ddpm-gpu kernels translate`

use std::path::PathBuf;

use anyhow::{Context, bail};
use ddpm_gpu::device::{Target, Translation, translate};
use ddpm_gpu::ops::{self, Case, Pass, Types};
use ddpm_gpu::workbench::in_f16;

use crate::cli::terminal;

/// Print what naga makes of a variant for Vulkan, Metal, DX12 or OpenGL, with its overrides resolved
#[derive(clap::Args)]
pub(super) struct Args {
    /// A kernel and, where it has several, a variant: conv2d.forward, or conv2d.forward_shuffle
    #[arg(value_name = "KERNEL")]
    kernel: String,
    /// The language
    #[arg(long, value_name = "spirv|msl|hlsl|glsl|wgsl")]
    to: Target,
    /// The form with 16-bit activations
    #[arg(long)]
    f16: bool,
    /// Write to this file rather than to the terminal; SPIR-V goes to files or pipes only
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let (case, pass) = find(&args.kernel, args.f16)?;
    let (inputs, outputs) = (case.input_types(), case.output_types().unwrap_or_default());
    let types = Types { inputs: &inputs, outputs: &outputs };
    let bytes = match translate(case.op.as_ref(), types, &pass, args.to)? {
        Translation::Text(text) => text.into_bytes(),
        Translation::Spirv(words) => words.into_iter().flat_map(u32::to_le_bytes).collect(),
    };
    match &args.output {
        Some(path) => {
            std::fs::write(path, bytes).with_context(|| format!("{}: cannot be written", path.display()))?;
            eprintln!("wrote {}", path.display());
        }
        None if args.to == Target::Spirv && std::io::IsTerminal::is_terminal(&std::io::stdout()) => {
            bail!("SPIR-V is no text: give --output FILE, or pipe it into spirv-dis")
        }
        None => terminal::bytes(&bytes),
    }
    Ok(())
}

/// The first case and pass that go by a name: of a kernel, of a variant, or of an entry point.
fn find(name: &str, f16: bool) -> anyhow::Result<(Case, Pass)> {
    let mut names = Vec::new();
    for case in ops::ALL.iter().flat_map(|op_file| (op_file.cases)()) {
        let case = match f16 {
            true => match in_f16(&case)? {
                Some(half) => half,
                None => continue,
            },
            false => case,
        };
        let op_file = case.op.file().name;
        for variant in case.variants() {
            for pass in variant.passes {
                let variant_name = format!("{op_file}.{}", variant.name);
                let entry_name = format!("{op_file}.{}", pass.entry);
                if [case.op.name(), &variant_name, &entry_name].contains(&name) {
                    return Ok((case, pass));
                }
                names.extend([case.op.name().to_owned(), variant_name, entry_name]);
            }
        }
    }
    let near: Vec<&str> = {
        let op_file = name.split('.').next().unwrap_or(name);
        names.sort();
        names.dedup();
        names.iter().map(String::as_str).filter(|known| known.starts_with(op_file)).collect()
    };
    match near.is_empty() {
        true => bail!("there is no kernel {name}; `ddpm-gpu kernels list` shows all of them"),
        false => bail!("there is no kernel {name}; there are {}", near.join(", ")),
    }
}
