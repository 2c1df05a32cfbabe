//! `ddpm-gpu kernels bench`

use std::time::Instant;

use anyhow::bail;
use ddpm_gpu::device::Device;
use ddpm_gpu::ops;
use ddpm_gpu::workbench::{Extent, Measurement, ModelCall, bench, ceilings, model_calls, subjects};

use super::{FilterArgs, ModelArgs};
use crate::cli::AdapterArgs;
use crate::cli::progress::Progress;
use crate::cli::table::{giga, table, time};

/// Time kernels at the shapes of a model, verified first, as shares of what the device can do
///
/// Time is the device's own where the adapter has timestamps, else the host's. The share of the roofline is the time that
/// the call's bytes or operations take at the device's ceilings, which two calibration kernels measure first, over the time
/// that it took. A share above 100 % means that the operands stay in caches.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    model: ModelArgs,
    /// Time each different call of the step, not only the largest one of each kernel
    #[arg(long)]
    all_calls: bool,
    /// Time the cases that `kernels check` checks, rather than calls of a model
    #[arg(long, conflicts_with_all = ["model", "batch_size", "all_calls"])]
    cases: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: AdapterArgs,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let filter = args.filter.get();
    let device = args.device.open().await?;
    let calls: Vec<ModelCall> = if args.cases {
        let cases = ops::ALL.iter().flat_map(|op_file| (op_file.cases)());
        cases.map(|case| ModelCall { case, count: 1 }).collect()
    } else {
        let extent = if args.all_calls { Extent::All } else { Extent::Largest };
        model_calls(&args.model.network()?, args.model.options(), extent, &|_| true).await?
    };
    let mut subjects: Vec<(&ModelCall, &'static str)> = calls
        .iter()
        .flat_map(|call| subjects(&device, &call.case).into_iter().map(move |v| (call, v)))
        .collect();
    subjects.retain(|(call, variant)| filter.accepts(call.case.op.as_ref(), variant));
    if subjects.is_empty() {
        return Err(args.filter.complaint());
    }
    let ceilings = ceilings(&device).await?;
    let started = Instant::now();
    let empty = device.time_of_empty_dispatch(&|| started.elapsed().as_secs_f64()).await?;
    let mut progress = Progress::new(0, subjects.len() as u64);
    let mut measurements = Vec::new();
    for (index, (call, variant)) in subjects.iter().enumerate() {
        measurements.push(bench(&device, call, variant, &ceilings).await?);
        progress.set(index as u64 + 1, &format!("{} {variant}", call.case.op.name()));
    }
    progress.finish();
    if args.json {
        let report = serde_json::json!({
            "device": device.name(), "ceilings": ceilings, "empty_dispatch_seconds": empty,
            "measurements": measurements,
        });
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        let rows = measurements.iter().map(row).collect();
        let header =
            ["kernel", "variant", "calls", "time", "GB/s", "GFLOP/s", "roofline", "bound by", "call"];
        println!("{}", table(&header, &[2, 3, 4, 5, 6], rows));
        println!(
            "ceilings of {}: {} GB/s by a copy, {} GFLOP/s by multiply-adds; times by {}",
            device.name(),
            giga(ceilings.bytes_per_second),
            giga(ceilings.flops_per_second),
            clock(&device),
        );
        if let Some(empty) = empty {
            println!(
                "a dispatch that does nothing takes {} by the same clock; it is part of each time",
                time(empty)
            );
        }
    }
    let wrong = measurements.iter().filter(|measurement| measurement.failure.is_some()).count();
    if wrong > 0 {
        bail!("{wrong} variants are wrong and were not timed; `ddpm-gpu kernels check` says more");
    }
    Ok(())
}

fn clock(device: &Device) -> &'static str {
    match device {
        Device::Gpu(device) if device.has_timestamps() => "the device's timestamps",
        _ => "the host's clock",
    }
}

fn row(measurement: &Measurement) -> Vec<String> {
    vec![
        measurement.kernel.to_owned(),
        measurement.variant.to_owned(),
        measurement.count.to_string(),
        if measurement.failure.is_some() { "WRONG".to_owned() } else { time(measurement.seconds) },
        giga(measurement.bytes_per_second),
        giga(measurement.flops_per_second),
        format!("{:.0} %", 100.0 * measurement.share_of_roofline),
        measurement.bound_by.to_owned(),
        format!("{}: {}", measurement.case, measurement.shapes),
    ]
}
