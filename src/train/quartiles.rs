//! The loss by timestep: large noise is easy and little noise is hard, and one number hides which of them improves.

/// Mean of `losses` `[N]` of the images whose timestep is in each quarter of `0..num_train_timesteps`, the least noisy
/// first; `None` where there is no such image, or the mean is no finite number.
pub(super) fn mean_by_quartile(
    timesteps: &[usize],
    losses: &[f64],
    num_train_timesteps: usize,
) -> [Option<f32>; 4] {
    let mut sums = [(0.0, 0usize); 4];
    for (&t, loss) in timesteps.iter().zip(losses) {
        let (sum, count) = &mut sums[(4 * t / num_train_timesteps).min(3)];
        *sum += loss;
        *count += 1;
    }
    let mean = |(sum, count): (f64, usize)| (count > 0).then(|| (sum / count as f64) as f32);
    sums.map(|quartile| mean(quartile).filter(|mean| mean.is_finite()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quarters_begin_where_they_should_and_may_be_empty() {
        let timesteps = [0, 249, 250, 499, 750, 999];
        let losses = [1.0, 2.0, 10.0, 30.0, 100.0, 300.0];
        assert_eq!(mean_by_quartile(&timesteps, &losses, 1000), [Some(1.5), Some(20.0), None, Some(200.0)]);
        // a process whose timesteps do not come in fours
        assert_eq!(
            mean_by_quartile(&[0, 1, 2, 3, 4], &[1.0, 2.0, 3.0, 4.0, 5.0], 5),
            [1.5, 3.0, 4.0, 5.0].map(Some)
        );
        assert_eq!(mean_by_quartile(&[0, 999], &[f64::NAN, 1.0], 1000), [None, None, None, Some(1.0)]);
    }
}
