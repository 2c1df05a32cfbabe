//! Images in memory.

/// Images in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Images {
    /// `[N, H, W, C]`
    pub shape: [usize; 4],
    /// Values, mostly in -1..1.
    pub data: Vec<f32>,
}
