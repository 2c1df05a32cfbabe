//! `ddpm-gpu devices`

use anyhow::bail;
use ddpm_gpu::device::{AdapterReport, FXC, adapters};

use super::BackendArgs;

/// List adapters: number, driver, limits, features, and which one --device auto picks
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    backend: BackendArgs,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let adapters = adapters().await;
    let backend = args.backend.backend.map(|backend| backend.to_string());
    let is_listed =
        |adapter: &&AdapterReport| backend.as_ref().is_none_or(|backend| adapter.backend == *backend);
    let listed: Vec<&AdapterReport> = adapters.iter().filter(is_listed).collect();
    let chosen = listed.iter().find(|adapter| adapter.is_hardware);
    for adapter in &listed {
        print(adapter, chosen.is_some_and(|chosen| chosen.number == adapter.number));
    }
    if let Some(backend) = backend {
        if listed.is_empty() {
            bail!("there is no adapter over {backend}; `ddpm-gpu devices` lists all");
        }
        match chosen {
            Some(adapter) => {
                println!("--device auto --backend {backend} picks {}: {}.", adapter.number, adapter.name)
            }
            None => println!(
                "--device auto --backend {backend} is an error: there is no hardware GPU over {backend}."
            ),
        }
        return Ok(());
    }
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    println!("CPU executor");
    println!("  threads        {threads}");
    println!("  choose it by   --device cpu");
    if adapters.is_empty() {
        println!("\nNo wgpu adapter was found: no Vulkan, Metal or DX12 driver is installed.");
    }
    match chosen {
        Some(adapter) => {
            println!(
                "\n--device auto picks {}: {}. It is the first hardware GPU.",
                adapter.number, adapter.name
            );
        }
        None => println!("\n--device auto picks the CPU executor: there is no hardware GPU."),
    }
    Ok(())
}

fn print(adapter: &AdapterReport, is_chosen: bool) {
    let mark = if is_chosen { " (picked by auto)" } else { "" };
    println!("{}: {}{mark}", adapter.number, adapter.name);
    println!("  driver         {}", adapter.driver);
    let kind = if adapter.is_hardware { "hardware" } else { "software: runs on the CPU" };
    println!("  kind           {} over {}, {kind}", adapter.kind, adapter.backend);
    if let Some(compiler) = adapter.shader_compiler {
        println!("  compiler       {compiler}");
        if compiler == FXC {
            println!(
                "                 it knows neither f16 nor subgroups; DXC does: put dxcompiler.dll, version 1.8.2502 or"
            );
            println!("                 later, beside ddpm-gpu.exe, from");
            println!("                 https://github.com/microsoft/DirectXShaderCompiler/releases");
        }
    }
    let [smallest, largest] = adapter.subgroup_size;
    println!("  subgroup size  {smallest} to {largest}");
    let features: Vec<String> = adapter
        .features
        .iter()
        .map(|(name, present)| format!("{name} {}", if *present { "yes" } else { "no" }))
        .collect();
    println!("  features       {}", features.join(", "));
    if !adapter.cooperative_matrices.is_empty() {
        println!("  matrices       {}", adapter.cooperative_matrices.join(", "));
    }
    for (index, (name, value)) in adapter.limits.iter().enumerate() {
        println!("  {:14} {value} {name}", if index == 0 { "limits" } else { "" });
    }
    println!("  choose it by   --device {}", adapter.number);
    println!();
}
