//! How a call runs on a GPU: kernels, parameters and grids.

/// One way to do a call on a GPU.
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    /// Name of the variant, by the suffix of its entry points: `forward`, `forward_tiled`.
    pub name: &'static str,
    /// What it needs of an adapter.
    pub requires: Requirements,
    /// Temporary tensors: binding name and number of elements.
    pub scratch: Vec<(&'static str, usize)>,
    /// The dispatches, in order.
    pub passes: Vec<Pass>,
}

/// What a variant needs of an adapter beyond WebGPU's defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requirements {
    /// The subgroup size that the kernel is written for; the adapter's smallest and largest must both equal it.
    pub subgroup_size: Option<u32>,
    /// Whether the kernel computes in 16-bit floats.
    pub f16: bool,
    /// Whether the kernel multiplies wgpu's cooperative matrices of 8 x 8 f32, which a device has only where the user
    /// asked for them.
    pub cooperative_matrix: bool,
}

/// One dispatch.
#[derive(Clone, Debug, PartialEq)]
pub struct Pass {
    /// Entry point in the op's WGSL file.
    pub entry: &'static str,
    /// How many invocations or workgroups run.
    pub grid: Grid,
    /// Fields of the WGSL struct `Params`, by name.
    pub params: Vec<(&'static str, Word)>,
    /// Values of WGSL `override`s, by name.
    pub overrides: Vec<(&'static str, f64)>,
}

/// The extent of a dispatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grid {
    /// At least this many invocations in a row, counted by `flat_index` of `shared/index.wgsl`.
    Invocations(usize),
    /// Exactly this many workgroups, counted by `flat_workgroup` of `shared/index.wgsl`. Where there are more than one,
    /// folding may make surplus ones, which must return.
    Workgroups(usize),
}

/// A field of `Params`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Word {
    /// An integer.
    U32(u32),
    /// A float.
    F32(f32),
}

impl From<usize> for Word {
    fn from(value: usize) -> Self {
        // Sizes of tensors that fit a binding fit 32 bits; the executor refuses the others by name.
        Self::U32(u32::try_from(value).unwrap_or(u32::MAX))
    }
}

impl From<u32> for Word {
    fn from(value: u32) -> Self {
        Self::U32(value)
    }
}

impl From<bool> for Word {
    fn from(value: bool) -> Self {
        Self::U32(u32::from(value))
    }
}

impl From<f32> for Word {
    fn from(value: f32) -> Self {
        Self::F32(value)
    }
}

impl Pass {
    /// A dispatch without overrides.
    pub fn new(entry: &'static str, grid: Grid, params: Vec<(&'static str, Word)>) -> Self {
        Self { entry, grid, params, overrides: Vec::new() }
    }
}

impl Variant {
    /// Two variants of what is done to each of `length` elements alone: the one that takes four elements at a time, where they
    /// are a multiple of four, and the other.
    pub fn in_fours([vec4, plain]: [&'static str; 2], length: usize) -> Vec<Self> {
        let single =
            |entry, count| Self::single(entry, Grid::Invocations(count), vec![("length", length.into())]);
        let vec4 = length.is_multiple_of(4).then(|| single(vec4, length / 4));
        vec4.into_iter().chain([single(plain, length)]).collect()
    }

    /// A variant of one dispatch that runs on every adapter.
    pub fn single(entry: &'static str, grid: Grid, params: Vec<(&'static str, Word)>) -> Self {
        Self {
            name: entry,
            requires: Requirements::default(),
            scratch: Vec::new(),
            passes: vec![Pass::new(entry, grid, params)],
        }
    }
}
