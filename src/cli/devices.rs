//! `ddpm-gpu devices`

use ddpm_gpu::device::{AdapterReport, adapters};

/// List adapters: driver, limits, features, and which one --device auto picks
#[derive(clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(_args: Args) -> anyhow::Result<()> {
    let adapters = adapters().await;
    let chosen = adapters.iter().position(|adapter| adapter.is_hardware);
    for (index, adapter) in adapters.iter().enumerate() {
        print(adapter, chosen == Some(index));
    }
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    println!("CPU executor");
    println!("  threads        {threads}");
    println!("  choose it by   --device cpu");
    if adapters.is_empty() {
        println!("\nNo wgpu adapter was found: no Vulkan, Metal or DX12 driver is installed.");
    }
    match chosen {
        Some(index) => {
            println!("\n--device auto picks {}: it is the first hardware GPU.", adapters[index].name)
        }
        None => println!("\n--device auto picks the CPU executor: there is no hardware GPU."),
    }
    Ok(())
}

fn print(adapter: &AdapterReport, is_chosen: bool) {
    let mark = if is_chosen { " (picked by auto)" } else { "" };
    println!("{}{mark}", adapter.name);
    println!("  driver         {}", adapter.driver);
    let kind = if adapter.is_hardware { "hardware" } else { "software: runs on the CPU" };
    println!("  kind           {} over {}, {kind}", adapter.kind, adapter.backend);
    let [smallest, largest] = adapter.subgroup_size;
    println!("  subgroup size  {smallest} to {largest}");
    let features: Vec<String> = adapter
        .features
        .iter()
        .map(|(name, present)| format!("{name} {}", if *present { "yes" } else { "no" }))
        .collect();
    println!("  features       {}", features.join(", "));
    for (index, (name, value)) in adapter.limits.iter().enumerate() {
        println!("  {:14} {value} {name}", if index == 0 { "limits" } else { "" });
    }
    println!();
}
