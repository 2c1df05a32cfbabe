//! Resampling by two with the filter 1 3 3 1.

use super::cpu::par_rows;
use super::{
    Case, Fill, GradientCall, Grid, Op, Operands, Pass, Requirements, Types, Variant, Word, expect,
    expect_nhwc,
};
use crate::graph::{Graph, GraphError, TensorType, ValueId};

/// What the filter reads beyond the edges of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edges {
    /// Zeros: diffusers' `downsample_2d` and `upsample_2d`.
    Zero,
    /// The pixels within, mirrored at the outermost one: diffusers' `KDownsample2D` and `KUpsample2D`.
    Mirror,
    /// Nothing: the transposed of the other direction with [`Edges::Mirror`], whose gradient it is.
    Folded,
}

impl Edges {
    /// The edges of the other direction that is the transposed of this one.
    fn transposed(self) -> Self {
        match self {
            Self::Zero => Self::Zero,
            Self::Mirror => Self::Folded,
            Self::Folded => Self::Mirror,
        }
    }
}

/// Images `[N, 2H, 2W, C]` filtered and halved to `[N, H, W, C]` (Karras et al. 2019).
///
/// # Errors
/// [`GraphError::Shape`] for images of an odd height or width.
pub fn fir_downsample(graph: &mut Graph, x: ValueId, edges: Edges) -> Result<ValueId, GraphError> {
    graph.apply_one(Fir { is_down: true, scale: 1.0 / 64.0, edges }, &[x])
}

/// Images `[N, H, W, C]` doubled and filtered to `[N, 2H, 2W, C]`.
///
/// # Errors
/// [`GraphError::Shape`] if `x` is not an image batch, or has a single row or column and mirrored edges.
pub fn fir_upsample(graph: &mut Graph, x: ValueId, edges: Edges) -> Result<ValueId, GraphError> {
    graph.apply_one(Fir { is_down: false, scale: 1.0 / 16.0, edges }, &[x])
}

/// Weights of a coarse pixel's four fine pixels, the second and third of which lie in it.
const WEIGHTS: [f32; 4] = [1.0, 3.0, 3.0, 1.0];

#[derive(Debug)]
struct Fir {
    /// Whether it halves images, and does not double them.
    is_down: bool,
    scale: f32,
    edges: Edges,
}

/// A row of a filter's matrix: where it is not zero, and its numbers there.
type Row = Vec<(usize, f32)>;

/// The filter along an axis as a matrix whose rows are the pixels that it makes: of `size` coarse pixels for [`Down`],
/// of twice as many fine ones for [`Up`].
///
/// From the definition: the four fine pixels of coarse pixel i begin at 2 i - 1. What lies beyond an edge is left out,
/// or mirrored.
fn rows(size: usize, is_down: bool, edges: Edges) -> Vec<Row> {
    let (made, read) = if is_down { (size, 2 * size) } else { (2 * size, size) };
    if edges == Edges::Folded {
        // The transposed of the other direction.
        let mut folded = vec![Row::new(); made];
        for (column, row) in rows(size, !is_down, Edges::Mirror).into_iter().enumerate() {
            row.into_iter().for_each(|(at, weight)| folded[at].push((column, weight)));
        }
        return folded;
    }
    let mut all = Vec::with_capacity(made);
    for i in 0..made as isize {
        let mut row = Row::new();
        // One pixel beyond either edge, at most.
        for at in -1..=read as isize {
            let (fine, coarse) = if is_down { (at, i) } else { (i, at) };
            let Some(&weight) = usize::try_from(fine + 1 - 2 * coarse).ok().and_then(|tap| WEIGHTS.get(tap))
            else {
                continue;
            };
            let last = read as isize - 1;
            let inside = match at {
                at if (0..=last).contains(&at) => at,
                _ if edges == Edges::Zero => continue,
                -1 => 1,
                _ => last - 1,
            };
            match row.iter_mut().find(|(there, _)| *there == inside as usize) {
                Some((_, sum)) => *sum += weight,
                None => row.push((inside as usize, weight)),
            }
        }
        all.push(row);
    }
    all
}

/// Each pixel of y as the weighted sum of the pixels of x that two matrices name, along height and along width.
fn filter(operands: Operands<'_>, scale: f32, [of_height, of_width]: [&[Row]; 2]) {
    let ([x], [y]) = operands.split();
    let [_, h, w, c] = super::dims(y.ty);
    let [_, x_h, x_w, _] = super::dims(x.ty);
    par_rows(y.data, w * c, |first, lines| {
        for (y, line) in lines.chunks_exact_mut(w * c).zip(first..) {
            let image = line / h * x_h;
            for (y, of_pixel) in y.chunks_exact_mut(c).zip(of_width) {
                y.fill(0.0);
                for &(row, of_row) in &of_height[line % h] {
                    for &(column, of_column) in of_pixel {
                        let weight = scale * of_row * of_column;
                        let x = &x.data[((image + row) * x_w + column) * c..];
                        y.iter_mut().zip(x).for_each(|(y, x)| *y += weight * x);
                    }
                }
            }
        }
    });
}

/// As [`filter`], in f64.
fn reference(operands: Operands<'_>, scale: f32, [of_height, of_width]: [&[Row]; 2]) {
    let ([x], [y]) = operands.split();
    let [_, h, w, c] = super::dims(y.ty);
    let [_, x_h, x_w, _] = super::dims(x.ty);
    for (i, y) in y.data.iter_mut().enumerate() {
        let (n, row, column, channel) = (i / (h * w * c), i / (w * c) % h, i / c % w, i % c);
        let mut sum = 0.0;
        for &(a, of_row) in &of_height[row] {
            for &(b, of_column) in &of_width[column] {
                let x = f64::from(x.data[((n * x_h + a) * x_w + b) * c + channel]);
                sum += f64::from(of_row) * f64::from(of_column) * x;
            }
        }
        *y = (f64::from(scale) * sum) as f32;
    }
}

impl Fir {
    /// The filter's matrices along height and along width, for an image of these types.
    fn matrices(&self, operands: &Operands<'_>) -> [Vec<Row>; 2] {
        let coarse = if self.is_down { operands.outputs[0].ty } else { operands.inputs[0].ty };
        let [_, h, w, _] = super::dims(coarse);
        [h, w].map(|size| rows(size, self.is_down, self.edges))
    }
}

impl Op for Fir {
    fn name(&self) -> &'static str {
        if self.is_down { "fir.down" } else { "fir.up" }
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["x"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [n, h, w, c] = expect_nhwc("x", inputs[0])?;
        if self.is_down {
            expect(h % 2 == 0 && w % 2 == 0, || "height and width of x must be even".to_owned())?;
            return Ok(vec![inputs[0].with_shape([n, h / 2, w / 2, c])]);
        }
        let is_wide = self.edges != Edges::Mirror || (h > 1 && w > 1);
        expect(is_wide, || {
            "height and width of x must be at least 2, to be mirrored at the edges".to_owned()
        })?;
        Ok(vec![inputs[0].with_shape([n, 2 * h, 2 * w, c])])
    }
    fn gradient(
        &self,
        graph: &mut Graph,
        call: &GradientCall<'_>,
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        let d_y = call.d_output(graph, self)?;
        let transposed = Self { is_down: !self.is_down, scale: self.scale, edges: self.edges.transposed() };
        Ok(vec![Some(graph.apply_one(transposed, &[d_y])?)])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let (names, coarse) = match self.is_down {
            true => (["down_vec4", "down"], &types.outputs[0]),
            false => (["up_vec4", "up"], &types.inputs[0]),
        };
        let [_, h, w, c] = super::dims(coarse);
        let length = types.outputs[0].len();
        let variant = |entry, wide: usize| {
            let params: Vec<(&'static str, Word)> = vec![
                ("length", (length / wide).into()),
                ("height", h.into()),
                ("width", w.into()),
                ("channels", (c / wide).into()),
                ("scale", self.scale.into()),
            ];
            let pass = Pass::new(entry, Grid::Invocations(length / wide), params);
            Variant {
                name: entry,
                requires: Requirements::default(),
                scratch: Vec::new(),
                passes: vec![Pass { overrides: vec![("EDGES", f64::from(self.edges as u8))], ..pass }],
            }
        };
        // Four channels for one element, where they are a multiple of four.
        let vec4 = c.is_multiple_of(4).then(|| variant(names[0], 4));
        vec4.into_iter().chain([variant(names[1], 1)]).collect()
    }
    fn reference(&self, operands: Operands<'_>) {
        let matrices = self.matrices(&operands);
        reference(operands, self.scale, matrices.each_ref().map(Vec::as_slice));
    }
    fn compute(&self, operands: Operands<'_>) {
        let matrices = self.matrices(&operands);
        filter(operands, self.scale, matrices.each_ref().map(Vec::as_slice));
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for edges in [Edges::Zero, Edges::Mirror, Edges::Folded] {
        let named = |name: &str| format!("{name}, {edges:?}").to_lowercase();
        let down = || Fir { is_down: true, scale: 1.0 / 64.0, edges };
        let up = || Fir { is_down: false, scale: 1.0 / 16.0, edges };
        cases.extend([
            Case::new(named("ragged"), down(), vec![Fill::normal([2, 10, 6, 7])]),
            Case::new(named("ragged, in fours"), down(), vec![Fill::normal([2, 6, 10, 12])]),
            Case::new(named("two pixels"), down(), vec![Fill::normal([3, 4, 4, 5])]),
            Case::new(
                named("another scale"),
                Fir { is_down: true, scale: 1.0 / 16.0, edges },
                vec![Fill::normal([2, 4, 6, 3])],
            ),
            Case::new(named("ragged"), up(), vec![Fill::normal([2, 5, 3, 7])]),
            Case::new(named("ragged, in fours"), up(), vec![Fill::normal([2, 3, 5, 12])]),
            Case::new(named("two pixels"), up(), vec![Fill::normal([3, 2, 2, 5])]),
            Case::new(
                named("another scale"),
                Fir { is_down: false, scale: 1.0 / 64.0, edges },
                vec![Fill::normal([2, 2, 3, 3])],
            ),
        ]);
    }
    let (down, up) = (
        || Fir { is_down: true, scale: 1.0 / 64.0, edges: Edges::Zero },
        || Fir { is_down: false, scale: 1.0 / 16.0, edges: Edges::Zero },
    );
    cases.extend([
        Case::new("one pixel", down(), vec![Fill::normal([3, 2, 2, 5])]),
        Case::new("one pixel", up(), vec![Fill::normal([3, 1, 1, 5])]),
        Case::new("image", down(), vec![Fill::normal([4, 32, 16, 64])]),
        Case::new("image", up(), vec![Fill::normal([4, 16, 8, 64])]),
    ]);
    cases
}
