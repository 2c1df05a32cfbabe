//! A report as one HTML page, complete in itself.

use std::collections::BTreeMap;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::Report;
use crate::workbench::{Measurement, Verdict};

const STYLE: &str = "
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
table { border-collapse: collapse; } td, th { padding: .15em .8em .15em 0; text-align: left; vertical-align: top; }
td.figure, th.figure { text-align: right; font-variant-numeric: tabular-nums; }
.failed { color: #b00020; font-weight: 600; } .passed { color: #1b6e3c; } .note { color: #666; }
details { margin: .5em 0; } svg { display: block; }
";

/// The page: verdict first, then adapter, checks, speed and choices.
pub fn page(report: &Report) -> String {
    let failed: Vec<&Verdict> = report.verdicts.iter().filter(|verdict| verdict.failure.is_some()).collect();
    let title = format!("ddpm-gpu on {}", report.device);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (title) }
                @if failed.is_empty() {
                    p.passed { "All " (report.verdicts.len()) " checks passed." }
                } @else {
                    p.failed { (failed.len()) " of " (report.verdicts.len()) " checks failed." }
                }
                p.note { "ddpm-gpu " (report.version) " on " (report.platform) }
                @if !failed.is_empty() { (failures(&failed)) }
                (adapter(report))
                (steps(report))
                (roofline(report))
                (errors(&report.verdicts))
                (choices(report))
                (left_out(report))
            }
        }
    }
    .into_string()
}

fn failures(failed: &[&Verdict]) -> Markup {
    html! {
        h2 { "Failures" }
        table {
            tr { th { "kernel" } th { "case" } th { "operands" } th { "what is wrong" } }
            @for verdict in failed {
                tr {
                    td { (verdict.kernel) " " (verdict.variant) " (" (verdict.precision) ")" }
                    td { (verdict.case) }
                    td { (verdict.shapes) }
                    td.failed { (verdict.failure.as_deref().unwrap_or_default()) }
                }
            }
        }
    }
}

fn adapter(report: &Report) -> Markup {
    html! {
        h2 { "Adapter" }
        @match &report.adapter {
            None => p { "The CPU executor: no adapter." },
            Some(adapter) => table {
                tr { td { "name" } td { (adapter.name) } }
                tr { td { "driver" } td { (adapter.driver) } }
                tr { td { "kind" } td { (adapter.kind) " over " (adapter.backend) } }
                tr { td { "subgroup size" } td { (adapter.subgroup_size[0]) " to " (adapter.subgroup_size[1]) } }
                @for (feature, present) in &adapter.features {
                    tr { td { (feature) } td { @if *present { "yes" } @else { "no" } } }
                }
                @for (limit, value) in &adapter.limits {
                    tr { td { (limit) } td { (value) } }
                }
            },
        }
    }
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.2} ms", 1e3 * seconds)
}

fn steps(report: &Report) -> Markup {
    let mut kernels: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
    for dispatch in &report.step.dispatches {
        let row = kernels.entry(&dispatch.kernel).or_default();
        *row = (row.0 + 1, row.1 + dispatch.seconds);
    }
    let mut kernels: Vec<(&str, (usize, f64))> = kernels.into_iter().collect();
    kernels.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    let whole = report.step.kernel_seconds();
    html! {
        h2 { "A training step of U-Net S, 16 images" }
        table {
            tr { td { "whole step" } td.figure { (milliseconds(report.step.step_seconds)) } }
            tr { td { "kernels" } td.figure { (milliseconds(whole)) } }
            @if let Some(empty) = report.step.empty_dispatch_seconds {
                tr { td { "a dispatch that does nothing" } td.figure { (format!("{:.1} us", 1e6 * empty)) } }
            }
            tr { td { "host" } td.figure { (milliseconds(report.step.host_seconds)) } }
            tr { td { "the CPU executor, whole step" } td.figure { (milliseconds(report.cpu_step_seconds)) } }
        }
        details {
            summary { "by kernel" }
            table {
                tr { th { "kernel" } th.figure { "calls" } th.figure { "time" } th { "share" } }
                @for (kernel, (calls, seconds)) in kernels {
                    tr {
                        td { (kernel) } td.figure { (calls) } td.figure { (milliseconds(seconds)) }
                        td { (bar(seconds / whole, "#4878a8")) }
                    }
                }
            }
        }
    }
}

/// A bar of a share of 1; longer ones end in an arrow.
fn bar(share: f64, colour: &str) -> Markup {
    const WIDTH: f64 = 160.0;
    let length = if share.is_finite() { WIDTH * share.clamp(0.0, 1.0) } else { 0.0 };
    let label = format!("{:.0} %{}", 100.0 * share, if share > 1.0 { " >" } else { "" });
    html! {
        svg width=(WIDTH + 60.0) height="16" role="img" aria-label=(label) {
            rect width=(WIDTH) height="12" y="2" fill="#eee" {}
            rect width=(length) height="12" y="2" fill=(colour) {}
            text x=(WIDTH + 6.0) y="12" font-size="12" { (label) }
        }
    }
}

fn roofline(report: &Report) -> Markup {
    let giga = |value: f64| format!("{:.1}", 1e-9 * value);
    let row = |measurement: &Measurement| {
        let colour = if measurement.bound_by == "memory" { "#4878a8" } else { "#b8742a" };
        html! {
            tr {
                td { (measurement.kernel) " " (measurement.variant) }
                td.figure {
                    @if measurement.failure.is_some() { span.failed { "wrong" } } @else { (milliseconds(measurement.seconds)) }
                }
                td.figure { (giga(measurement.bytes_per_second)) }
                td.figure { (giga(measurement.flops_per_second)) }
                td { (bar(measurement.share_of_roofline, colour)) }
                td { (measurement.bound_by) }
            }
        }
    };
    html! {
        h2 { "Shares of the roofline" }
        p {
            "Ceilings: " (giga(report.ceilings.bytes_per_second)) " GB/s by a copy, "
            (giga(report.ceilings.flops_per_second)) " GFLOP/s by multiply-adds in registers. Each kernel at its largest call in \
            a training step of U-Net S, by the variant that the tuner chose. A share above 100 % means that operands stay in caches."
        }
        table {
            tr {
                th { "kernel" } th.figure { "time" } th.figure { "GB/s" } th.figure { "GFLOP/s" } th { "share" } th { "bound by" }
            }
            @for measurement in &report.measurements { (row(measurement)) }
        }
    }
}

fn errors(verdicts: &[Verdict]) -> Markup {
    let mut groups: BTreeMap<(&str, &str, &str), Vec<&Verdict>> = BTreeMap::new();
    for verdict in verdicts {
        groups.entry((verdict.kernel, verdict.variant, verdict.precision)).or_default().push(verdict);
    }
    let rows = groups.into_iter().map(|((kernel, variant, precision), group)| {
        let worst = group.iter().filter_map(|verdict| verdict.worst_error).fold(0.0, f64::max);
        let failed = group.iter().any(|verdict| verdict.failure.is_some());
        (kernel, variant, precision, group.len(), worst, group[0].tolerance, failed)
    });
    html! {
        h2 { "Errors against references" }
        table {
            tr {
                th { "kernel" } th { "variant" } th { "precision" } th.figure { "cases" } th.figure { "worst error" }
                th.figure { "tolerance" } th { "share of the tolerance" }
            }
            @for (kernel, variant, precision, count, worst, tolerance, failed) in rows {
                tr {
                    td { (kernel) } td { (variant) } td { (precision) } td.figure { (count) }
                    td.figure { (format!("{worst:.1e}")) } td.figure { (format!("{tolerance:.1e}")) }
                    td {
                        @if failed { span.failed { "failed" } }
                        @else if tolerance == 0.0 { "exact" }
                        @else { (bar(worst / tolerance, "#1b6e3c")) }
                    }
                }
            }
        }
    }
}

fn choices(report: &Report) -> Markup {
    html! {
        h2 { "What the tuner chose" }
        @if report.choices.is_empty() { p { "Nothing was left to choose." } }
        @else {
            details {
                summary { (report.choices.len()) " kinds of calls of U-Net S" }
                table {
                    tr { th { "call" } th { "chosen" } th { "default" } th.figure { "gain" } }
                    @for choice in &report.choices {
                        tr {
                            td { (choice.call) } td { (choice.chosen) } td { (choice.default) }
                            td.figure { @if let Some(gain) = choice.gain() { (format!("{gain:.2}")) } }
                        }
                    }
                }
            }
        }
    }
}

fn left_out(report: &Report) -> Markup {
    html! {
        h2 { "Variants that this adapter cannot run" }
        table {
            @for listing in report.kernels.iter().filter(|listing| listing.lacks.is_some()) {
                tr {
                    td { (listing.kernel) " " (listing.variant) }
                    td { (listing.requires.join(", ")) }
                    td { (listing.lacks.as_deref().unwrap_or_default()) }
                }
            }
        }
    }
}
