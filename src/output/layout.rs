//! Between the layout of files, NCHW, and that of the engine, NHWC.

/// Reorders `[n, c, h, w]` to `[n, h, w, c]`; `shape` is that of the input.
///
/// # Panics
/// If `data` is shorter than `shape` says.
pub fn nchw_to_nhwc(data: &[f32], shape: [usize; 4]) -> Vec<f32> {
    let [n, c, h, w] = shape;
    transpose(data, n, c, h * w)
}

/// Reorders `[n, h, w, c]` to `[n, c, h, w]`; `shape` is that of the input.
///
/// # Panics
/// If `data` is shorter than `shape` says.
pub fn nhwc_to_nchw(data: &[f32], shape: [usize; 4]) -> Vec<f32> {
    let [n, h, w, c] = shape;
    transpose(data, n, h * w, c)
}

/// `[n, rows, columns]` to `[n, columns, rows]`.
fn transpose(data: &[f32], n: usize, rows: usize, columns: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(n * rows * columns);
    for image in 0..n {
        let image = &data[image * rows * columns..][..rows * columns];
        for column in 0..columns {
            out.extend((0..rows).map(|row| image[row * columns + column]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_every_element() {
        let (n, c, h, w) = (2, 3, 4, 5);
        let nchw: Vec<f32> = (0..n * c * h * w).map(|i| i as f32).collect();
        let nhwc = nchw_to_nhwc(&nchw, [n, c, h, w]);
        let at = |n: usize, c: usize, y: usize, x: usize| nhwc[((n * h + y) * w + x) * 3 + c];
        assert_eq!(at(1, 2, 3, 4), (n * c * h * w - 1) as f32);
        assert_eq!(at(1, 0, 2, 3), (60 + 2 * 5 + 3) as f32);
        assert_eq!(nhwc_to_nchw(&nhwc, [n, h, w, c]), nchw);
        assert!(nchw_to_nhwc(&[], [0, 3, 4, 5]).is_empty());
    }
}
