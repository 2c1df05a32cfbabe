//! Variants of the matrix products of `conv2d` and `linear`; their algorithms are in `kernels/shared/product_*.wgsl` and
//! `weight_*.wgsl`.

use std::iter;

use super::{Grid, Pass, Requirements, Variant, Word};

/// Sizes of the product `C[row, column] = sum over taps t and depth k of A[tap t of row, k] B[column, t, k]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) taps: usize,
    pub(super) depth: usize,
}

/// Fields of the op's WGSL struct `Params`.
type Params = Vec<(&'static str, Word)>;

/// An algorithm that makes tiles of an output.
struct Tiling {
    variant: &'static str,
    entry: &'static str,
    /// Rows and columns of a tile.
    tile: [usize; 2],
    /// Whether a tile is made by an invocation or by a workgroup.
    grid: fn(usize) -> Grid,
    overrides: &'static [(&'static str, f64)],
    requires: Requirements,
}

const ANYWHERE: Requirements = Requirements { subgroup_size: None, f16: false, cooperative_matrix: false };
const EIGHT_LANES: Requirements = Requirements { subgroup_size: Some(8), ..ANYWHERE };
const MATRIX_UNITS: Requirements = Requirements { cooperative_matrix: true, ..ANYWHERE };

/// Tiles by matrix units. Only who asks for them has them, so they are preferred to everything else.
const fn cooperative(variant: &'static str) -> Tiling {
    Tiling {
        variant,
        entry: variant,
        tile: [32, 32],
        grid: Grid::Workgroups,
        overrides: &[],
        requires: MATRIX_UNITS,
    }
}

/// The algorithms of a pass, the preferred first. A GPU gets tiles in workgroup memory: the largest that still make
/// enough workgroups.
macro_rules! tilings {
    ($pass:literal, register tile $rows:literal x $columns:literal) => {
        [
            Tiling {
                variant: concat!($pass, "_shuffle"),
                entry: concat!($pass, "_shuffle"),
                tile: [32, 32],
                grid: Grid::Workgroups,
                overrides: &[],
                requires: EIGHT_LANES,
            },
            Tiling {
                variant: concat!($pass, "_workgroup_128"),
                entry: concat!($pass, "_workgroup_8x8"),
                tile: [128, 128],
                grid: Grid::Workgroups,
                overrides: &[("TILE", 128.0), ("STEP", 8.0)],
                requires: ANYWHERE,
            },
            Tiling {
                variant: concat!($pass, "_workgroup_64"),
                entry: concat!($pass, "_workgroup_8x8"),
                tile: [64, 64],
                grid: Grid::Workgroups,
                overrides: &[("TILE", 64.0), ("STEP", 16.0)],
                requires: ANYWHERE,
            },
            Tiling {
                variant: concat!($pass, "_workgroup_32"),
                entry: concat!($pass, "_workgroup_4x4"),
                tile: [32, 32],
                grid: Grid::Workgroups,
                overrides: &[("TILE", 32.0), ("STEP", 16.0)],
                requires: ANYWHERE,
            },
            Tiling {
                variant: concat!($pass, "_tiled"),
                entry: concat!($pass, "_tiled"),
                tile: [$rows, $columns],
                grid: Grid::Invocations,
                overrides: &[],
                requires: ANYWHERE,
            },
        ]
    };
}

const FORWARD_COOPERATIVE: Tiling = cooperative("forward_cooperative");
const UNBIASED_COOPERATIVE: Tiling = cooperative("forward_unbiased_cooperative");
const BACKWARD_INPUT_COOPERATIVE: Tiling = cooperative("backward_input_cooperative");
const FORWARD: [Tiling; 5] = tilings!("forward", register tile 4 x 8);
const UNBIASED: [Tiling; 5] = tilings!("forward_unbiased", register tile 4 x 8);
const BACKWARD_INPUT: [Tiling; 5] = tilings!("backward_input", register tile 4 x 8);
const BACKWARD_WEIGHT: [Tiling; 5] = tilings!("backward_weight", register tile 8 x 8);

/// Where the tables above have tiles in workgroup memory.
const WORKGROUP_TILES: std::ops::Range<usize> = 1..4;

/// Workgroups that a GPU needs to be busy; with fewer, smaller tiles are better.
const ENOUGH_WORKGROUPS: usize = 128;

/// Rows that one range of the weight gradient sums over, where its partial sums fit [`PARTIAL_BYTES`], else a multiple
/// of them: long enough to make the reduction cheap, short enough to spread the work.
const ROWS_PER_SPLIT: usize = 512;

/// Bytes of the partial sums of one weight gradient: half of what WebGPU binds on every device. A gradient that is
/// itself larger has a single range.
const PARTIAL_BYTES: usize = 64 << 20;

/// The most rows of a range. It is half the number of iterations after which Mesa's software driver leaves a loop. Up
/// to 3600 channels of a 3 x 3 kernel, operands of so many rows exceed WebGPU's binding limit before their partial
/// sums do.
const MAX_ROWS_PER_SPLIT: usize = 32_768;

impl Tiling {
    /// Tiles that cover `copies` outputs of the given size.
    fn tiles(&self, [rows, columns]: [usize; 2], copies: usize) -> usize {
        rows.div_ceil(self.tile[0]) * columns.div_ceil(self.tile[1]) * copies
    }

    fn pass(&self, size: [usize; 2], copies: usize, params: Params) -> Pass {
        Pass {
            overrides: self.overrides.to_vec(),
            ..Pass::new(self.entry, (self.grid)(self.tiles(size, copies)), params)
        }
    }
}

/// Tilings for `copies` outputs of the given size. Workgroup tiles that would leave a GPU idle, or reach far over the ends
/// of the output, go behind smaller ones.
fn by_preference(tilings: &[Tiling; 5], size: [usize; 2], copies: usize) -> Vec<&Tiling> {
    let mut tilings: Vec<&Tiling> = tilings.iter().collect();
    let too_large = |tiling: &Tiling| {
        let overhangs = tiling.tile.iter().zip(size).any(|(&tile, size)| tile >= 2 * size);
        tiling.tile[0] > 32 && (overhangs || tiling.tiles(size, copies) < ENOUGH_WORKGROUPS)
    };
    tilings[WORKGROUP_TILES].sort_by_key(|tiling| too_large(tiling));
    tilings
}

impl Product {
    /// Whether tiles can read four columns, and four steps of the depth, at a time.
    fn is_tileable(&self) -> bool {
        self.columns.is_multiple_of(4) && self.depth.is_multiple_of(4)
    }

    fn weights(&self) -> usize {
        self.columns * self.taps * self.depth
    }

    /// Rows of a range that the weight gradient is summed in.
    fn rows_per_split(&self) -> usize {
        let most_splits = (PARTIAL_BYTES / 4 / self.weights().max(1)).max(1);
        let longer = self.rows.div_ceil(ROWS_PER_SPLIT).div_ceil(most_splits);
        (ROWS_PER_SPLIT * longer).clamp(ROWS_PER_SPLIT, MAX_ROWS_PER_SPLIT)
    }

    /// Ranges of rows that the weight gradient is summed in.
    fn splits(&self) -> usize {
        self.rows.div_ceil(self.rows_per_split())
    }

    /// The fields of `Params` that say how the weight gradient is split.
    pub(super) fn split_params(&self) -> [(&'static str, Word); 2] {
        [("rows_per_split", self.rows_per_split().into()), ("splits", self.splits().into())]
    }

    /// Variants of `y = x weight + bias` by this product.
    pub(super) fn forward(&self, params: &Params) -> Vec<Variant> {
        self.products(&FORWARD_COOPERATIVE, &FORWARD, "forward", params)
    }

    /// Variants of `y = x weight` by this product.
    pub(super) fn forward_unbiased(&self, params: &Params) -> Vec<Variant> {
        self.products(&UNBIASED_COOPERATIVE, &UNBIASED, "forward_unbiased", params)
    }

    fn products(
        &self,
        cooperative: &Tiling,
        tilings: &[Tiling; 5],
        plain: &'static str,
        params: &Params,
    ) -> Vec<Variant> {
        let size = [self.rows, self.columns];
        let mut variants = Vec::new();
        if self.is_tileable() {
            let tilings = iter::once(cooperative).chain(by_preference(tilings, size, 1));
            variants.extend(tilings.map(|tiling| Variant {
                name: tiling.variant,
                requires: tiling.requires,
                scratch: Vec::new(),
                passes: vec![tiling.pass(size, 1, params.clone())],
            }));
        }
        variants.push(Variant::single(plain, Grid::Invocations(self.rows * self.columns), params.clone()));
        variants
    }

    /// Variants of the gradient of x. This is its product: rows of x, columns of x, and a depth of y's channels.
    pub(super) fn backward_input(&self, params: &Params) -> Vec<Variant> {
        let size = [self.rows, self.columns];
        let turn = Pass::new("transpose_weight", Grid::Invocations(self.weights() / 16), params.clone());
        let mut variants = Vec::new();
        if self.is_tileable() {
            let tilings =
                iter::once(&BACKWARD_INPUT_COOPERATIVE).chain(by_preference(&BACKWARD_INPUT, size, 1));
            variants.extend(tilings.map(|tiling| Variant {
                name: tiling.variant,
                requires: tiling.requires,
                scratch: vec![("transposed_weight", self.weights())],
                passes: vec![turn.clone(), tiling.pass(size, 1, params.clone())],
            }));
        }
        let grid = Grid::Invocations(self.rows * self.columns);
        variants.push(Variant::single("backward_input", grid, params.clone()));
        variants
    }

    /// Variants of the gradients of weight and bias, for the forward product.
    pub(super) fn backward_weight(&self, params: &Params) -> Vec<Variant> {
        let (weights, splits) = (self.weights(), self.splits());
        let variant = |name, requires, partial: Pass, reduce, elements_each| Variant {
            name,
            requires,
            scratch: vec![("partial", splits * weights), ("partial_bias", splits * self.columns)],
            passes: vec![
                partial,
                Pass::new(
                    reduce,
                    Grid::Invocations((weights + self.columns) / elements_each),
                    params.clone(),
                ),
            ],
        };
        let (size, copies) = ([self.columns, self.depth], self.taps * splits);
        let mut variants = Vec::new();
        if self.is_tileable() {
            variants.extend(by_preference(&BACKWARD_WEIGHT, size, copies).into_iter().map(|tiling| {
                let partial = tiling.pass(size, copies, params.clone());
                variant(tiling.variant, tiling.requires, partial, "backward_weight_reduce_vec4", 4)
            }));
        }
        let plain = Pass::new("backward_weight", Grid::Invocations(splits * weights), params.clone());
        variants.push(variant(
            "backward_weight",
            Requirements::default(),
            plain,
            "backward_weight_reduce",
            1,
        ));
        variants
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::webgpu::MAX_BINDING_BYTES;

    fn product(rows: usize, columns: usize, kernel: usize, depth: usize) -> Product {
        Product { rows, columns, taps: kernel * kernel, depth }
    }

    /// Bytes of the largest scratch tensor of any variant of any pass.
    fn largest_scratch(product: &Product) -> usize {
        let passes = [Product::forward, Product::backward_input, Product::backward_weight];
        let variants = passes.iter().flat_map(|pass| pass(product, &Vec::new()));
        4 * variants.flat_map(|variant| variant.scratch).map(|(_, elements)| elements).max().unwrap_or(0)
    }

    /// 128 images of 32 x 32, from 256 channels to 128: ranges of 512 rows would take 302 MB.
    #[test]
    fn partial_sums_of_a_large_batch_stay_within_their_bound() {
        let large = product(128 * 32 * 32, 128, 3, 256);
        assert_eq!(512 * 256 * large.weights() * 4 / 512, 301_989_888);
        assert!(largest_scratch(&large) <= PARTIAL_BYTES, "{}", largest_scratch(&large));
        // The bound is used: with one range fewer there would be less to do at once.
        assert!(largest_scratch(&large) > PARTIAL_BYTES / 2, "{}", largest_scratch(&large));
    }

    /// Every call whose operands fit a binding has scratch that fits one, covers all rows, and has no range that a
    /// driver would leave early.
    #[test]
    fn scratch_fits_a_binding_wherever_the_operands_do() {
        let mut checked = 0;
        for rows in (0..28).map(|power| 1usize << power).flat_map(|rows| [rows, rows + 1, rows + rows / 3]) {
            for columns in [1, 3, 4, 64, 128, 320, 512, 1024, 1536, 4096, 8192] {
                for depth in [1, 3, 4, 64, 192, 384, 512, 1024, 1536, 4096, 8192] {
                    for kernel in [1, 3] {
                        let call = product(rows, columns, kernel, depth);
                        let fits = |elements: usize| 4 * elements <= MAX_BINDING_BYTES;
                        if !fits(rows * columns) || !fits(rows * depth) || !fits(call.weights()) {
                            continue;
                        }
                        checked += 1;
                        let (each, splits) = (call.rows_per_split(), call.splits());
                        assert!(largest_scratch(&call) <= MAX_BINDING_BYTES, "{call:?}: {splits} ranges");
                        assert!(
                            each < 65_535 && each * splits >= rows && each * (splits - 1) < rows,
                            "{call:?}"
                        );
                    }
                }
            }
        }
        assert!(checked > 2000, "{checked}");
    }

    /// A sum is in the order of ranges of 512 rows wherever these fit, so that its bits stay the same.
    #[test]
    fn smaller_calls_are_split_as_ever() {
        for (rows, columns, kernel, depth) in
            [(1, 4, 3, 4), (700, 64, 3, 64), (16 * 32 * 32, 128, 3, 384), (64 * 16 * 16, 256, 1, 512)]
        {
            let call = product(rows, columns, kernel, depth);
            assert_eq!((call.rows_per_split(), call.splits()), (512, rows.div_ceil(512)), "{call:?}");
        }
    }
}
