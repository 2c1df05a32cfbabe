//! Matrix products whose factors are gathered a block at a time: the inside of convolutions and linear layers.
//!
//! A product is summed in register tiles (see [`super::tile`]), its terms taken [`DEPTH`] at a time. Each element is summed
//! in the order of its terms, whichever task makes it.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::tile::{DEPTH, multiply_tile};
use super::{vector_functions, with_scratch};

/// Rows of a task: enough to pay for packing the right factor.
const ROWS: usize = 480;

/// Column ranges of tasks are multiples of this: the widest panel of any instruction set.
const PANEL: usize = 32;

/// Rows of tasks are multiples of this: whole tiles of every instruction set.
const TILES: usize = 48;

/// Rows of the left factor, or columns of the right one, that are copied at a time: a panel, or as many tiles as the second
/// cache holds beside the panels, so that a panel stays in the first one for all of them.
const SMALL: usize = 240;

/// Tasks that a product is cut into where it is large enough, so that threads that are held up can be helped.
const TASKS: usize = 8;

/// A block of a factor to copy, row by row, to rows that start `stride` elements apart.
#[derive(Clone, Debug)]
pub(in crate::ops) struct Block {
    pub(in crate::ops) rows: Range<usize>,
    pub(in crate::ops) columns: Range<usize>,
    pub(in crate::ops) stride: usize,
}

vector_functions! {
    /// Copies a block of a dense row-major matrix with `columns` columns.
    pub(in crate::ops) fn copy_block(matrix: &[f32], columns: usize, block: &Block, out: &mut [f32]) {
        let rows = matrix[block.rows.start * columns..].chunks(columns);
        for (out, row) in out.chunks_mut(block.stride).zip(rows).take(block.rows.len()) {
            copy(&mut out[..block.columns.len()], &row[block.columns.clone()]);
        }
    }

    /// Copies a range of rows of a dense row-major matrix to tiles of `block.stride` columns: `[tiles, DEPTH, stride]`.
    fn copy_tiles(matrix: &[f32], columns: usize, block: &Block, out: &mut [f32]) {
        match block.stride {
            8 => copy_tiles_of::<8>(matrix, columns, block, out),
            _ => copy_tiles_of::<4>(matrix, columns, block, out),
        }
    }

    /// Copies a block of the transpose of a dense row-major matrix with `columns` columns.
    pub(in crate::ops) fn copy_transposed(matrix: &[f32], columns: usize, block: &Block, out: &mut [f32]) {
        for (index, row) in block.columns.clone().enumerate() {
            let row = &matrix[row * columns..][block.rows.clone()];
            for (out, value) in out.chunks_mut(block.stride).zip(row) {
                out[index] = *value;
            }
        }
    }
}

/// [`copy_tiles`] for tiles of `M` columns.
#[inline(always)]
fn copy_tiles_of<const M: usize>(matrix: &[f32], columns: usize, block: &Block, out: &mut [f32]) {
    let (out, _) = out.as_chunks_mut::<M>();
    for (index, row) in matrix.chunks_exact(columns).skip(block.rows.start).take(block.rows.len()).enumerate()
    {
        let (tiles, rest) = row.as_chunks::<M>();
        let outputs = out.iter_mut().skip(index).step_by(DEPTH);
        for (out, tile) in outputs.zip(tiles) {
            *out = *tile;
        }
        if !rest.is_empty() {
            out[tiles.len() * DEPTH + index][..rest.len()].copy_from_slice(rest);
        }
    }
}

/// Copies a short row without a call where it is whole vectors.
#[inline(always)]
pub(in crate::ops) fn copy(out: &mut [f32], row: &[f32]) {
    let (out_vectors, out_rest) = out.as_chunks_mut::<16>();
    let (vectors, rest) = row.as_chunks::<16>();
    for (out, vector) in out_vectors.iter_mut().zip(vectors) {
        *out = *vector;
    }
    // Images have one or three channels: a call would cost more than the copy.
    match (out_rest, rest) {
        ([], []) => {}
        ([out], [value]) => *out = *value,
        ([a, b, c], [x, y, z]) => (*a, *b, *c) = (*x, *y, *z),
        (out, rest) => out.copy_from_slice(rest),
    }
}

/// `c = a b + bias` for a row-major `c`; `left` and `right` copy blocks of `a` and `b`.
///
/// For products with many rows: the block of `a` is copied once for all columns of a task.
pub(in crate::ops) fn product(
    c: &mut [f32],
    columns: usize,
    depth: usize,
    bias: Option<&[f32]>,
    left: impl Fn(&Block, &mut [f32]) + Sync,
    right: impl Fn(&Block, &mut [f32]) + Sync,
) {
    let (rows, columns_per_task) = cut(c.len() / columns, columns);
    tasks(c, columns, rows, columns_per_task).into_par_iter().for_each(|mut task| {
        task.start(bias);
        run::<_, _, false>(task, depth, &left, &right);
    });
}

/// `c = a^T b` for a row-major `c` and `a`; `right` copies blocks of `b`.
///
/// For products with many terms, such as the pixels that a weight gradient sums over.
pub(in crate::ops) fn transposed_product(
    c: &mut [f32],
    columns: usize,
    a: &[f32],
    right: impl Fn(&Block, &mut [f32]) + Sync,
) {
    let rows = c.len() / columns;
    let left = |block: &Block, out: &mut [f32]| copy_tiles(a, rows, block, out);
    let columns_per_task = columns.div_ceil(TASKS).next_multiple_of(PANEL);
    tasks(c, columns, rows, columns_per_task).into_par_iter().for_each(|mut task| {
        task.start(None);
        run::<_, _, true>(task, a.len() / rows, &left, &right);
    });
}

/// Rows and columns of a task. If there are enough blocks of rows, a task takes a block with all columns, which share
/// the gathered rows; else a task takes a range of columns, whose rows share the packed panel.
fn cut(rows: usize, columns: usize) -> (usize, usize) {
    let blocks = rows.div_ceil(ROWS);
    let ranges = TASKS.div_ceil(blocks).min(columns.div_ceil(2 * PANEL));
    let blocks = blocks.max((TASKS / 2).div_ceil(ranges).min(rows.div_ceil(TILES)));
    (rows.div_ceil(blocks).next_multiple_of(TILES), columns.div_ceil(ranges).next_multiple_of(PANEL))
}

/// A block of the product, row by row.
struct Task<'c> {
    first_row: usize,
    first_column: usize,
    rows: Vec<&'c mut [f32]>,
}

impl Task<'_> {
    fn start(&mut self, bias: Option<&[f32]>) {
        for row in &mut self.rows {
            match bias {
                Some(bias) => row.copy_from_slice(&bias[self.first_column..][..row.len()]),
                None => row.fill(0.0),
            }
        }
    }
}

fn tasks(c: &mut [f32], columns: usize, rows_per_task: usize, columns_per_task: usize) -> Vec<Task<'_>> {
    let mut tasks: Vec<Task<'_>> = Vec::new();
    for (index, block) in c.chunks_mut(rows_per_task * columns).enumerate() {
        let begin = tasks.len();
        for first_column in (0..columns).step_by(columns_per_task) {
            let rows = Vec::with_capacity(rows_per_task);
            tasks.push(Task { first_row: index * rows_per_task, first_column, rows });
        }
        for row in block.chunks_exact_mut(columns) {
            for (task, part) in tasks[begin..].iter_mut().zip(row.chunks_mut(columns_per_task)) {
                task.rows.push(part);
            }
        }
    }
    tasks
}

/// Runs one task with the vector instructions of the machine. The left factor is copied by rows, or, if it is
/// `TRANSPOSED`, by terms.
fn run<L, R, const TRANSPOSED: bool>(task: Task<'_>, depth: usize, left: &L, right: &R)
where
    L: Fn(&Block, &mut [f32]),
    R: Fn(&Block, &mut [f32]),
{
    let large = match TRANSPOSED {
        true => task.rows.len().next_multiple_of(8),
        false => task.rows[0].len().next_multiple_of(PANEL),
    };
    // Not inside `with_simd`: a closure is not compiled for its instructions.
    with_scratch((SMALL + large) * DEPTH, |scratch| {
        pulp::Arch::new().dispatch(Run::<_, _, TRANSPOSED> { task, depth, left, right, scratch });
    });
}

struct Run<'f, 'c, L, R, const TRANSPOSED: bool> {
    task: Task<'c>,
    depth: usize,
    left: &'f L,
    right: &'f R,
    /// `SMALL` rows of one factor, and all that a task needs of the other.
    scratch: &'f mut [f32],
}

impl<L, R, const TRANSPOSED: bool> WithSimd for Run<'_, '_, L, R, TRANSPOSED>
where
    L: Fn(&Block, &mut [f32]),
    R: Fn(&Block, &mut [f32]),
{
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Two vectors of sums per row, and registers left for the factors.
        match (S::REGISTER_COUNT >= 32, TRANSPOSED) {
            (true, false) => self.run::<S, 12>(simd),
            (true, true) => self.run::<S, 8>(simd),
            (false, false) => self.run::<S, 6>(simd),
            (false, true) => self.run::<S, 4>(simd),
        }
    }
}

impl<L, R, const TRANSPOSED: bool> Run<'_, '_, L, R, TRANSPOSED>
where
    L: Fn(&Block, &mut [f32]),
    R: Fn(&Block, &mut [f32]),
{
    #[inline(always)]
    fn run<S: Simd, const M: usize>(mut self, simd: S) {
        let width = 2 * S::F32_LANES;
        let columns = self.task.rows[0].len();
        let (small, large) = std::mem::take(&mut self.scratch).split_at_mut(SMALL * DEPTH);
        for first in (0..self.depth).step_by(DEPTH) {
            let terms = first..self.depth.min(first + DEPTH);
            if TRANSPOSED {
                // All of the left factor, then panel by panel of the right one.
                let (tiles, panel) = (&mut *large, &mut *small);
                let rows = self.task.first_row..self.task.first_row + self.task.rows.len();
                (self.left)(&Block { rows: terms.clone(), columns: rows, stride: M }, tiles);
                for column in (0..columns).step_by(width) {
                    let columns = column..columns.min(column + width);
                    self.copy_right(terms.clone(), columns.clone(), width, panel);
                    let (panel, _) = S::as_simd_f32s(&panel[..terms.len() * width]);
                    for (c, tile) in self.task.rows.chunks_mut(M).zip(tiles.chunks_exact(M * DEPTH)) {
                        multiply::<S, M, TRANSPOSED>(simd, tile, panel, c, columns.clone());
                    }
                }
                continue;
            }
            // All of the right factor, then a few tiles of the left one.
            let (panels, tiles) = (&mut *large, &mut *small);
            for (panel, column) in panels.chunks_exact_mut(width * DEPTH).zip((0..columns).step_by(width)) {
                self.copy_right(terms.clone(), column..columns.min(column + width), width, panel);
            }
            let mut row = self.task.first_row;
            for c in self.task.rows.chunks_mut(SMALL) {
                (self.left)(
                    &Block { rows: row..row + c.len(), columns: terms.clone(), stride: DEPTH },
                    tiles,
                );
                row += c.len();
                for (panel, column) in panels.chunks_exact(width * DEPTH).zip((0..columns).step_by(width)) {
                    let (panel, _) = S::as_simd_f32s(&panel[..terms.len() * width]);
                    for (c, tile) in c.chunks_mut(M).zip(tiles.chunks_exact(M * DEPTH)) {
                        multiply::<S, M, TRANSPOSED>(
                            simd,
                            tile,
                            panel,
                            c,
                            column..columns.min(column + width),
                        );
                    }
                }
            }
        }
    }

    /// Copies a panel of the right factor; `columns` are those of the task.
    fn copy_right(&self, terms: Range<usize>, columns: Range<usize>, width: usize, panel: &mut [f32]) {
        let first = self.task.first_column;
        let columns = first + columns.start..first + columns.end;
        (self.right)(&Block { rows: terms, columns, stride: width }, panel);
    }
}

/// Adds a tile of `a`, `M` rows, times a panel of `b`, two vectors wide, to `columns` of at most `M` rows of `c`.
#[inline(always)]
fn multiply<S: Simd, const M: usize, const TRANSPOSED: bool>(
    simd: S,
    a: &[f32],
    b: &[S::f32s],
    c: &mut [&mut [f32]],
    columns: Range<usize>,
) {
    if columns.len() == 2 * S::F32_LANES
        && let Some(c) = c.first_chunk_mut::<M>()
    {
        multiply_tile::<S, M, TRANSPOSED, true>(simd, a, b, c, columns.start);
        return;
    }
    // At the edges the tile is a copy that reaches beyond them.
    let mut tile = [[0.0; PANEL]; M];
    for (tile, row) in tile.iter_mut().zip(c.iter()) {
        tile[..columns.len()].copy_from_slice(&row[columns.clone()]);
    }
    multiply_tile::<S, M, TRANSPOSED, true>(simd, a, b, &mut tile.each_mut().map(|row| &mut row[..]), 0);
    for (tile, row) in tile.iter().zip(c) {
        row[columns.clone()].copy_from_slice(&tile[..columns.len()]);
    }
}
