//! `ddpm-gpu kernels check`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use ddpm_gpu::device::Device;
use ddpm_gpu::output::{check_writable, write_text};
use ddpm_gpu::workbench::{Filter, Suite, Verdict, list, page, report};

use super::FilterArgs;
use crate::cli::AdapterArgs;
use crate::cli::progress::Progress;
use crate::cli::table::table;

/// Check every variant of every kernel against its reference, and every gradient rule by finite differences
///
/// Outputs are filled with NaN and surrounded by sentinels before each call: what was never written, wrong, or written
/// past the end is told apart. Errors are relative to the largest magnitude of an output. Exit status 1 if anything fails.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    filter: FilterArgs,
    /// Print every check as JSON
    #[arg(long)]
    json: bool,
    /// Write a report on the adapter to attach to an issue: report.json, and report.html to be read. It adds the adapter's
    /// limits, the tuner's choices, shares of the roofline, and step times of U-Net S
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    #[command(flatten)]
    device: AdapterArgs,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let filter = args.filter.get();
    let suite = Suite::new(&filter)?;
    if suite.cases.is_empty() {
        return Err(args.filter.complaint());
    }
    if let Some(folder) = &args.report {
        std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
        check_writable(&folder.join("report.json"))?;
    }
    let device = args.device.open().await?;
    let mut progress: Option<Progress> = None;
    let mut verdicts = suite
        .check_kernels(&device, &filter, &mut |done, total| {
            progress.get_or_insert_with(|| Progress::new(0, total as u64)).set(done as u64, "");
        })
        .await;
    if let Some(progress) = &progress {
        progress.finish();
    }
    verdicts.extend(suite.check_gradients(&filter));
    if verdicts.is_empty() {
        bail!("{} can run none of the variants that fit; `ddpm-gpu kernels list` says why", device.name());
    }
    if let Some(folder) = &args.report {
        write_report(folder, &device, verdicts.clone()).await?;
    }
    let failed: Vec<&Verdict> = verdicts.iter().filter(|verdict| verdict.failure.is_some()).collect();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&verdicts)?);
    } else {
        print(&verdicts, &failed);
    }
    if !failed.is_empty() {
        bail!("{} of {} checks failed on {}", failed.len(), verdicts.len(), device.name());
    }
    if !args.json {
        println!("all {} checks passed on {}", verdicts.len(), device.name());
    }
    Ok(())
}

async fn write_report(folder: &Path, device: &Device, verdicts: Vec<Verdict>) -> anyhow::Result<()> {
    let kernels = list(device, &Filter::default())?;
    let report = report(device, kernels, verdicts, &mut |next| eprintln!("report: {next}")).await?;
    write_text(&folder.join("report.json"), &serde_json::to_string_pretty(&report)?)?;
    write_text(&folder.join("report.html"), &page(&report))?;
    eprintln!("wrote {}", folder.join("report.html").display());
    Ok(())
}

/// A row for each variant of each kernel, then the failures in full.
fn print(verdicts: &[Verdict], failed: &[&Verdict]) {
    let mut groups: BTreeMap<(&str, &str, &str), Vec<&Verdict>> = BTreeMap::new();
    for verdict in verdicts {
        groups.entry((verdict.kernel, verdict.variant, verdict.precision)).or_default().push(verdict);
    }
    let rows = groups.into_iter().map(|((kernel, variant, precision), group)| {
        let worst = group.iter().filter_map(|verdict| verdict.worst_error).fold(0.0, f64::max);
        let tolerance = group.iter().map(|verdict| verdict.tolerance).fold(0.0, f64::max);
        let failures = group.iter().filter(|verdict| verdict.failure.is_some()).count();
        vec![
            kernel.to_owned(),
            variant.to_owned(),
            precision.to_owned(),
            group.len().to_string(),
            format!("{worst:.1e}"),
            format!("{tolerance:.1e}"),
            if failures == 0 { "passed".to_owned() } else { format!("{failures} FAILED") },
        ]
    });
    let header = ["kernel", "variant", "precision", "cases", "worst error", "tolerance", ""];
    println!("{}", table(&header, &[3, 4, 5], rows.collect()));
    for verdict in failed {
        let Verdict { kernel, variant, precision, case, shapes, .. } = verdict;
        let failure = verdict.failure.as_deref().unwrap_or_default();
        println!("\nFAILED {kernel} {variant} ({precision}) [{case}]\n  {shapes}\n  {failure}");
    }
}
