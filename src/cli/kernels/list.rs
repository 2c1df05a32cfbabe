//! `ddpm-gpu kernels list`

use ddpm_gpu::workbench::list;

use super::FilterArgs;
use crate::cli::AdapterArgs;
use crate::cli::table::table;

/// List every kernel and variant: source, what it requires, and whether this adapter can run it
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    filter: FilterArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: AdapterArgs,
}

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let device = args.device.open().await?;
    let listings = list(&device, &args.filter.get())?;
    if listings.is_empty() {
        return Err(args.filter.complaint());
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&listings)?);
        return Ok(());
    }
    let is_cpu = matches!(device, ddpm_gpu::device::Device::Cpu);
    let rows = listings.iter().map(|listing| {
        let requires = match listing.requires.is_empty() {
            true => "-".to_owned(),
            false => listing.requires.join(", "),
        };
        let runs = match &listing.lacks {
            _ if is_cpu => "by its CPU kernel".to_owned(),
            None => "yes".to_owned(),
            Some(reason) => format!("no: {reason}"),
        };
        vec![listing.kernel.to_owned(), listing.variant.to_owned(), listing.source.clone(), requires, runs]
    });
    println!("{}", table(&["kernel", "variant", "source", "requires", "runs here"], &[], rows.collect()));
    println!(
        "{} variants; the first of a kernel that a call allows and the adapter runs is the default",
        listings.len()
    );
    Ok(())
}
