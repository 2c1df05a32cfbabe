//! Improved precision and recall (Kynkaanniemi et al. 2019, "Improved precision and recall metric for assessing generative
//! models").

use rayon::prelude::*;

use super::features::Features;

/// Which neighbour's distance is the radius of the ball around a feature vector: the paper's k.
pub(super) const NEIGHBOUR: usize = 3;

/// Precision, the share of generated images among the real ones; and recall, the share of real ones among the generated.
///
/// An image is among others if it lies in the ball around one of them that reaches to its third neighbour.
pub(super) fn precision_and_recall(real: &Features, generated: &Features) -> [f64; 2] {
    [share_within(generated, real), share_within(real, generated)]
}

/// The share of `features` that lies in the ball around one of `others`.
fn share_within(features: &Features, others: &Features) -> f64 {
    let balls: Vec<(&[f64], f64)> = others.iter().zip(radii(others)).collect();
    let is_within = |row: &[f64]| balls.iter().any(|(centre, radius)| distance(row, centre) <= *radius);
    let within = features.rows.par_chunks_exact(features.dimension).filter(|row| is_within(row)).count();
    within as f64 / features.len() as f64
}

/// The square of the distance of each row to its third neighbour.
fn radii(features: &Features) -> Vec<f64> {
    let radius = |(index, row): (usize, &[f64])| {
        let others = features.iter().enumerate().filter(|&(other, _)| other != index);
        let mut distances: Vec<f64> = others.map(|(_, other)| distance(row, other)).collect();
        let last = NEIGHBOUR.min(distances.len()).saturating_sub(1);
        distances.sort_by(f64::total_cmp);
        distances.get(last).copied().unwrap_or(0.0)
    };
    features.rows.par_chunks_exact(features.dimension).enumerate().map(radius).collect()
}

/// The square of the distance.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::features::golden;

    fn line(values: impl IntoIterator<Item = f64>) -> Features {
        Features { dimension: 1, rows: values.into_iter().collect() }
    }

    /// Generated numbers that cover one of two clusters are all real, and miss half of what is real.
    #[test]
    fn one_of_two_clusters_has_all_precision_and_half_the_recall() {
        let clusters = line((0..40).map(|i| f64::from(i % 20) + if i < 20 { 0.0 } else { 1000.0 }));
        let first = line((0..20).map(|i| f64::from(i) + 0.25));
        assert_eq!(precision_and_recall(&clusters, &first), [1.0, 0.5]);
        let neither = line((0..20).map(|i| f64::from(i) + 500.0));
        assert_eq!(precision_and_recall(&clusters, &neither), [0.0, 0.0]);
    }

    #[test]
    fn precision_and_recall_are_those_of_numpy() {
        for case in ["many", "few"] {
            let [real, generated] = ["real", "generated"].map(|of| golden::features(&format!("{case}.{of}")));
            let expected = golden::numbers(&format!("{case}.precision_and_recall"));
            assert_eq!(precision_and_recall(&real, &generated).to_vec(), expected, "{case}");
        }
    }
}
