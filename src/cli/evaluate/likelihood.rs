//! `evaluate --nll`

use ddpm_gpu::device::Device;
use ddpm_gpu::evaluate::{
    Estimate, EvaluateRequest, OdeOptions, OdeResult, VlbResult, ode_likelihood, variational_bound,
};
use ddpm_gpu::pipeline::Pipeline;
use serde_json::{Map, Value};

use crate::cli::one_of;
use crate::cli::progress::Progress;

/// Which likelihoods to measure.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Nll {
    Both,
    Vlb,
    Ode,
}

pub(super) fn parse_nll(name: &str) -> Result<Nll, String> {
    one_of("ways", &[("both", Nll::Both), ("vlb", Nll::Vlb), ("ode", Nll::Ode)], name)
}

/// Measures, prints, and adds the results to `output`.
pub(super) async fn run(
    nll: Nll,
    options: OdeOptions,
    device: &Device,
    pipeline: &Pipeline,
    request: &EvaluateRequest,
    output: &mut Map<String, Value>,
) -> anyhow::Result<()> {
    println!("{} images of {}", request.num_images, request.dataset.name());
    output.insert("images".to_owned(), request.num_images.into());
    if nll != Nll::Ode {
        let mut progress: Option<Progress> = None;
        let found = variational_bound(device, pipeline, request, &mut |done, total| {
            progress.get_or_insert_with(|| Progress::new(0, total as u64)).set(done as u64, "bound");
        })
        .await?;
        if let Some(progress) = &progress {
            progress.finish();
        }
        print_vlb(&found);
        output.insert("vlb".to_owned(), serde_json::to_value(found)?);
    }
    if nll != Nll::Vlb {
        let mut progress = Progress::new(0, 1000);
        let found = ode_likelihood(device, pipeline, request, options, &mut |share| {
            progress.set((1000.0 * share) as u64, "thousandths of the ODE");
        })
        .await?;
        progress.finish();
        let OdeResult { bits_per_dimension, evaluations } = found;
        println!("probability-flow ODE    {} bits/dim, {evaluations} evaluations", show(bits_per_dimension));
        output.insert("ode".to_owned(), serde_json::to_value(found)?);
    }
    Ok(())
}

fn show(estimate: Estimate) -> String {
    format!("{:.4} +- {:.4}", estimate.mean, estimate.standard_error)
}

/// The bound, with its divergences summed over ten ranges of timesteps.
fn print_vlb(found: &VlbResult) {
    println!("variational bound       {} bits/dim, of which", show(found.total));
    println!("  L_T                   {}", show(found.prior));
    let terms = &found.divergences;
    for range in 0..10 {
        let ends = [range, range + 1].map(|i| i * terms.len() / 10);
        if ends[0] < ends[1] {
            let sum: f64 = terms[ends[0]..ends[1]].iter().map(|term| term.mean).sum();
            println!("  L_(t-1), t {:16} {sum:.4}", format!("{} to {}", ends[0] + 1, ends[1]));
        }
    }
    println!("  L_0                   {}", show(found.decoder));
}
