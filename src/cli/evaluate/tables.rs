//! What `evaluate --classifier` prints of the images that it has measured.

use std::fmt::Write;

use comfy_table::Table;
use ddpm_gpu::evaluate::{Quality, Trial, TrialOutcome};

use crate::cli::table::markdown;

const METRICS: [&str; 4] = ["accuracy", "Frechet distance", "precision", "recall"];

/// What stands where there is no figure.
const NOTHING: &str = "-";

fn metrics(quality: &Quality) -> [String; 4] {
    let Quality { accuracy, frechet_distance, precision, recall } = *quality;
    let accuracy = accuracy.map_or(NOTHING.to_owned(), percent);
    [accuracy, format!("{frechet_distance:.3}"), percent(precision), percent(recall)]
}

pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// The metrics in a line.
pub(super) fn line(quality: &Quality) -> String {
    METRICS
        .iter()
        .zip(metrics(quality))
        .map(|(name, value)| format!("{name} {value}"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The way of a trial, in words.
pub(super) fn describe(trial: &Trial) -> String {
    let mut text = trial.sampler.to_owned();
    if let Some(steps) = &trial.steps {
        text += &format!(", {steps} steps");
    }
    if trial.guidance_scale != 1.0 {
        text += &format!(", guidance scale {}", trial.guidance_scale);
    }
    if let Some(scale) = trial.classifier_scale {
        text += &format!(", classifier scale {scale}");
    }
    text
}

/// The metrics of one set of images.
pub(super) fn one(quality: &Quality) -> Table {
    markdown(METRICS.map(str::to_owned).to_vec(), vec![metrics(quality).to_vec()])
}

/// All trials: of one number of steps, a row for each with all metrics; of several, a row for each sampler and guidance, a
/// column for each number of steps, and two tables with two metrics each. Then what was refused, and why.
pub(super) fn all(trials: &[Trial]) -> String {
    let mut ways: Vec<Vec<String>> = Vec::new();
    let mut steps: Vec<String> = Vec::new();
    let way = |trial: &Trial| {
        let classifier = trial.classifier_scale.map_or(NOTHING.to_owned(), |scale| scale.to_string());
        vec![trial.sampler.to_owned(), trial.guidance_scale.to_string(), classifier]
    };
    let steps_of = |trial: &Trial| trial.steps.clone().unwrap_or("own".to_owned());
    for trial in trials {
        if !ways.contains(&way(trial)) {
            ways.push(way(trial));
        }
        if !steps.contains(&steps_of(trial)) {
            steps.push(steps_of(trial));
        }
    }
    // A scale that never changes is no column.
    let varies: Vec<usize> =
        (0..3).filter(|&key| key == 0 || ways.iter().any(|way| way[key] != ways[0][key])).collect();
    let keys: Vec<String> =
        varies.iter().map(|&key| ["sampler", "guidance", "classifier"][key].to_owned()).collect();
    let cells = |of_way: &[String], of_steps: &str| {
        let trial = trials.iter().find(|trial| way(trial) == of_way && steps_of(trial) == of_steps);
        match trial.map(|trial| &trial.outcome) {
            Some(TrialOutcome::Measured(quality)) => Some(metrics(quality)),
            Some(TrialOutcome::Refused { .. }) | None => None,
        }
    };
    let mut text = String::new();
    let mut add = |title: String, header: Vec<String>, row: &dyn Fn(&[String]) -> Vec<String>| {
        let key = |way: &[String]| varies.iter().map(|&key| way[key].clone()).collect::<Vec<_>>();
        let rows = ways.iter().map(|way| [key(way), row(way)].concat()).collect();
        let _ = writeln!(text, "{title}\n\n{}\n", markdown([keys.clone(), header].concat(), rows));
    };
    if let [only] = &steps[..] {
        add(format!("{only} steps"), METRICS.map(str::to_owned).to_vec(), &|way| {
            cells(way, only).unwrap_or(METRICS.map(|_| NOTHING.to_owned())).to_vec()
        });
    } else {
        for pair in [[0, 1], [2, 3]] {
            let title = format!("{} and {}, by steps", METRICS[pair[0]], METRICS[pair[1]]);
            add(title, steps.clone(), &|way| {
                let cell = |steps: &String| {
                    cells(way, steps).map_or(NOTHING.to_owned(), |cells| {
                        pair.map(|metric| cells[metric].clone()).join(", ")
                    })
                };
                steps.iter().map(cell).collect()
            });
        }
    }
    for trial in trials {
        if let TrialOutcome::Refused { refused } = &trial.outcome {
            let _ = writeln!(text, "{}: {refused}", describe(trial));
        }
    }
    text
}
