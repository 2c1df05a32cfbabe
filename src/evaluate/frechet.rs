//! The Frechet distance between two sets of features (Heusel et al. 2017, "GANs trained by a two time-scale update rule").

use nalgebra::{DMatrix, DVector, SymmetricEigen};

use super::features::Features;

/// The normal distribution that fits features best.
#[derive(Clone, Debug)]
pub(super) struct Gaussian {
    /// `[D]`
    mean: DVector<f64>,
    /// `[D, D]`, unbiased.
    covariance: DMatrix<f64>,
}

impl Gaussian {
    pub(super) fn fit(features: &Features) -> Self {
        let mut centred = DMatrix::from_row_slice(features.len(), features.dimension, &features.rows);
        let mean = centred.row_mean().transpose();
        for (mut column, mean) in centred.column_iter_mut().zip(mean.iter()) {
            column.add_scalar_mut(-mean);
        }
        let covariance = centred.tr_mul(&centred) / (features.len().max(2) - 1) as f64;
        Self { mean, covariance }
    }

    /// `|mu_1 - mu_2|^2 + Tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))`: 0 for equal distributions, and never less.
    pub(super) fn frechet_distance(&self, other: &Self) -> f64 {
        // S_1 S_2 has the eigenvalues of the symmetric S_1^(1/2) S_2 S_1^(1/2).
        let SymmetricEigen { eigenvectors, eigenvalues } = self.covariance.clone().symmetric_eigen();
        let roots = eigenvalues.map(root);
        let root_of_covariance = &eigenvectors * DMatrix::from_diagonal(&roots) * eigenvectors.transpose();
        let product = &root_of_covariance * &other.covariance * &root_of_covariance;
        let trace_of_root = product.symmetric_eigenvalues().map(root).sum();
        let distance =
            (&self.mean - &other.mean).norm_squared() + self.covariance.trace() + other.covariance.trace()
                - 2.0 * trace_of_root;
        // Rounding may leave it slightly below zero; NaN stays, to be refused.
        if distance > 0.0 || distance.is_nan() { distance } else { 0.0 }
    }
}

/// The root of an eigenvalue that is never negative but for rounding.
fn root(eigenvalue: f64) -> f64 {
    eigenvalue.max(0.0).sqrt()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::evaluate::features::golden;

    fn diagonal(mean: [f64; 3], variances: [f64; 3]) -> Gaussian {
        let covariance = DMatrix::from_diagonal(&DVector::from_row_slice(&variances));
        Gaussian { mean: DVector::from_row_slice(&mean), covariance }
    }

    /// Of independent features the distance is the sum over them of the squares between means and between deviations.
    #[test]
    fn independent_features_have_a_closed_form() {
        let a = diagonal([1.0, -2.0, 0.5], [4.0, 9.0, 0.25]);
        let b = diagonal([0.0, 1.0, 0.5], [1.0, 16.0, 0.0]);
        assert!((a.frechet_distance(&b) - (1.0 + 9.0 + 1.0 + 1.0 + 0.25)).abs() < 1e-12);
        assert!(a.frechet_distance(&a).abs() < 1e-12);
        assert!((a.frechet_distance(&b) - b.frechet_distance(&a)).abs() < 1e-12);
    }

    /// Of distributions that are one, rounding leaves a little on either side of 0.
    #[test]
    fn the_distance_of_a_set_to_itself_is_not_below_0() {
        for case in ["many", "few"] {
            for of in ["real", "generated"] {
                let same = Gaussian::fit(&golden::features(&format!("{case}.{of}")));
                let found = same.frechet_distance(&same);
                assert!(found < 1e-9 && !format!("{found:.3}").starts_with('-'), "{case}.{of}: {found}");
            }
        }
        let same = diagonal([1.0; 3], [0.1, 0.2, 0.3]);
        assert!(same.frechet_distance(&same).is_sign_positive());
    }

    /// `tools/oracle/frechet.py`; the second case has fewer images than features.
    #[test]
    fn correlated_features_are_as_far_apart_as_scipy_says() {
        for case in ["many", "few"] {
            let [real, generated] = ["real", "generated"].map(|of| golden::features(&format!("{case}.{of}")));
            let expected = golden::numbers(&format!("{case}.frechet_distance"))[0];
            let found = Gaussian::fit(&real).frechet_distance(&Gaussian::fit(&generated));
            assert!((found - expected).abs() < 1e-6 * expected, "{case}: {found}, scipy has {expected}");
        }
    }
}
