//! The axes of a tensor in another order.

use super::cpu::par_rows;
use super::{Case, Fill, GradientCall, Grid, Op, Operands, Types, Variant, Word, expect};
use crate::graph::{DType, Graph, GraphError, TensorType, ValueId};

/// Axis `i` of the result is axis `axes[i]` of `x`: `[0, 2, 1]` makes `[B, N, M]` of `[B, M, N]`.
///
/// At most five axes may remain where those that stay neighbours count as one.
///
/// # Errors
/// [`GraphError::Shape`] if `axes` does not name each axis of `x` once, or leaves more than five.
pub fn transpose(graph: &mut Graph, x: ValueId, axes: impl Into<Vec<usize>>) -> Result<ValueId, GraphError> {
    graph.apply_one(Forward { axes: axes.into() }, &[x])
}

#[derive(Debug)]
struct Forward {
    axes: Vec<usize>,
}

/// Axes that the kernel can tell apart.
const RANK: usize = 5;

/// Rows and columns of a tile of the kernel.
const TILE: usize = 16;

/// An axis of the result: its size, and how far apart the source has neighbours along it.
#[derive(Clone, Copy)]
struct Axis {
    size: usize,
    stride: usize,
}

impl Forward {
    fn shape(&self, x: &TensorType) -> Vec<usize> {
        self.axes.iter().map(|&axis| x.shape[axis]).collect()
    }

    /// The axes of the result, without those of size 1, and with those that stay neighbours as one.
    fn walk(&self, x: &TensorType) -> Vec<Axis> {
        let stride = |axis: usize| x.shape[axis + 1..].iter().product::<usize>();
        let mut walk: Vec<Axis> = Vec::new();
        for &axis in &self.axes {
            let next = Axis { size: x.shape[axis], stride: stride(axis) };
            match walk.last_mut() {
                _ if next.size == 1 => {}
                Some(last) if last.stride == next.size * next.stride => {
                    *last = Axis { size: last.size * next.size, stride: next.stride };
                }
                _ => walk.push(next),
            }
        }
        walk
    }
}

/// Rows and columns of the matrices of y, for a walk from `[B, M, N]` to `[B, N, M]`, where B may be missing.
fn transposed(walk: &[Axis]) -> Option<[usize; 2]> {
    let (rows, columns) = match walk {
        [rows, columns] => (rows, columns),
        [batch, rows, columns] if batch.stride == rows.size * columns.size => (rows, columns),
        _ => return None,
    };
    (rows.stride == 1 && columns.stride == rows.size).then_some([rows.size, columns.size])
}

/// Fields of `Params` for a walk whose elements are `width` wide.
fn params(walk: &[Axis], width: usize) -> Vec<(&'static str, Word)> {
    let mut axes = [Axis { size: 1, stride: 0 }; RANK];
    axes[RANK - walk.len()..].copy_from_slice(walk);
    axes[RANK - 1].size /= width;
    let strides = ["stride0", "stride1", "stride2", "stride3", "stride4"];
    let sizes = ["size1", "size2", "size3", "size4"];
    let mut params: Vec<(&'static str, Word)> =
        vec![("length", axes.iter().map(|axis| axis.size).product::<usize>().into())];
    params.extend(sizes.into_iter().zip(&axes[1..]).map(|(name, axis)| (name, axis.size.into())));
    // The last stride is that of neighbours; the others count in units of `width`.
    params.extend(strides.into_iter().zip(axes).map(|(name, axis)| {
        let stride = if axis.stride == 1 { 1 } else { axis.stride / width };
        (name, stride.into())
    }));
    params
}

impl Op for Forward {
    fn name(&self) -> &'static str {
        "transpose.forward"
    }
    fn inputs(&self) -> &'static [&'static str] {
        &["x"]
    }
    fn outputs(&self) -> &'static [&'static str] {
        &["y"]
    }
    fn output_types(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let mut sorted = self.axes.clone();
        sorted.sort_unstable();
        let rank = inputs[0].shape.len();
        expect(sorted == (0..rank).collect::<Vec<_>>(), || {
            format!("the axes {:?} must name each of the {rank} axes of x once", self.axes)
        })?;
        expect(inputs[0].dtype != DType::U32, || "x must be floats".to_owned())?;
        let axes = self.walk(inputs[0]).len();
        expect(axes <= RANK, || {
            format!("the order {:?} leaves {axes} axes, at most {RANK} can be", self.axes)
        })?;
        Ok(vec![inputs[0].with_shape(self.shape(inputs[0]))])
    }
    fn is_cheap(&self) -> bool {
        true
    }
    fn gradient(
        &self,
        graph: &mut Graph,
        call: &GradientCall<'_>,
    ) -> Result<Vec<Option<ValueId>>, GraphError> {
        let d_y = call.d_output(graph, self)?;
        let mut inverse = vec![0; self.axes.len()];
        for (position, &axis) in self.axes.iter().enumerate() {
            inverse[axis] = position;
        }
        Ok(vec![Some(transpose(graph, d_y, inverse)?)])
    }
    fn variants(&self, types: Types<'_>) -> Vec<Variant> {
        let walk = self.walk(&types.inputs[0]);
        let length = types.outputs[0].len();
        let mut variants = Vec::new();
        if walk.last().is_some_and(|last| last.stride == 1 && last.size.is_multiple_of(4)) {
            let grid = Grid::Invocations(length / 4);
            variants.push(Variant::single("forward_vec4", grid, params(&walk, 4)));
        }
        if let Some([rows, columns]) = transposed(&walk) {
            let tiles = rows.div_ceil(TILE) * columns.div_ceil(TILE);
            let grid = Grid::Workgroups(length / (rows * columns) * tiles);
            variants.push(Variant::single("forward_tiled", grid, params(&walk, 1)));
        }
        variants.push(Variant::single("forward", Grid::Invocations(length), params(&walk, 1)));
        variants
    }
    fn tolerance(&self) -> f32 {
        0.0
    }
    fn reference(&self, operands: Operands<'_>) {
        let ([x], [y]) = operands.split();
        // Counts through y, and finds the element of x that has these indices.
        let mut index = vec![0; self.axes.len()];
        for value in y.data.iter_mut() {
            let mut at = 0;
            for (axis, &size) in x.ty.shape.iter().enumerate() {
                let position = self.axes.iter().position(|&named| named == axis).unwrap_or_default();
                at = at * size + index[position];
            }
            *value = x.data[at];
            for (digit, size) in index.iter_mut().zip(&y.ty.shape).rev() {
                *digit += 1;
                if *digit < *size {
                    break;
                }
                *digit = 0;
            }
        }
    }
    fn compute(&self, operands: Operands<'_>) {
        let ([x], [y]) = operands.split();
        let walk = self.walk(x.ty);
        let Some((last, outer)) = walk.split_last() else {
            y.data.copy_from_slice(x.data);
            return;
        };
        par_rows(y.data, last.size, |first, rows| {
            for (y, row) in rows.chunks_exact_mut(last.size).zip(first..) {
                let (mut at, mut rest) = (0, row);
                for axis in outer.iter().rev() {
                    at += rest % axis.size * axis.stride;
                    rest /= axis.size;
                }
                match last.stride {
                    1 => y.copy_from_slice(&x.data[at..][..last.size]),
                    stride => {
                        y.iter_mut().zip(x.data[at..].iter().step_by(stride)).for_each(|(y, x)| *y = *x)
                    }
                }
            }
        });
    }
}

/// Calls to check and time.
pub fn cases() -> Vec<Case> {
    let call = |name, shape: &[usize], axes: &[usize]| {
        Case::new(name, Forward { axes: axes.to_vec() }, vec![Fill::normal(shape)])
    };
    vec![
        call("a matrix", &[5, 7], &[1, 0]),
        call("a batch of matrices", &[3, 21, 34], &[0, 2, 1]),
        call("all axes, ragged", &[2, 3, 5, 4, 7], &[4, 2, 0, 3, 1]),
        call("five axes, the last stays", &[2, 3, 4, 2, 8], &[3, 1, 2, 0, 4]),
        call("nothing moves", &[3, 4, 5], &[0, 1, 2]),
        call("axes of size 1", &[1, 3, 1, 6], &[3, 2, 1, 0]),
        call("one element", &[1, 1], &[1, 0]),
        call("a cycle", &[3, 4, 5], &[2, 0, 1]),
        call("outer axes, not in fours", &[3, 5, 6], &[1, 0, 2]),
        call("heads before tokens", &[2, 64, 4, 40], &[0, 2, 1, 3]),
        call("NHWC to NCHW", &[2, 16, 8, 64], &[0, 3, 1, 2]),
        call("NCHW to NHWC", &[2, 64, 16, 8], &[0, 2, 3, 1]),
    ]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_orders_of_all_axes_are_taken() {
        let mut graph = Graph::new();
        let x = graph.input("x", TensorType::f32([2, 3, 4]));
        let y = transpose(&mut graph, x, [2, 0, 1]).unwrap();
        assert_eq!(graph.ty(y).shape, [4, 2, 3]);
        for axes in [vec![0, 1], vec![0, 1, 1], vec![0, 1, 3]] {
            assert!(transpose(&mut graph, x, axes).is_err());
        }
        // Six axes that fall apart are too many; in pairs of neighbours they are three.
        let x = graph.input("x", TensorType::f32([2, 3, 2, 3, 2, 3]));
        assert!(transpose(&mut graph, x, [5, 4, 3, 2, 1, 0]).is_err());
        let y = transpose(&mut graph, x, [2, 3, 4, 5, 0, 1]).unwrap();
        assert_eq!(graph.ty(y).shape, [2, 3, 2, 3, 2, 3]);
    }
}
