//! One call of one variant against its naive reference, with outputs filled with NaN and surrounded by sentinels.

use std::fmt;

use super::WorkbenchError;
use crate::device::{CpuExecutor, CpuKernels, Device, Executor, Margin};
use crate::graph::{BufferRole, DType, Graph, Storage, TensorType, ValueId};
use crate::ops::{Case, Fill};

/// Elements of sentinel on each side of an output; WebGPU binds at multiples of 256 bytes, which are 128 of f16.
const GUARD: usize = 128;

/// What surrounds an output: a NaN that no arithmetic makes, so that it is recognised by its bits; also as f16, which has
/// room for the first ten bits of a NaN's payload.
const SENTINEL: u32 = 0x7fc5_e000;

/// The same for an op that updates in place: arithmetic on a NaN gives that NaN again, and would hide that the element was
/// rewritten. The number 12352 is exact as f16, too.
const SENTINEL_IN_PLACE: u32 = 0x4641_0000;

fn sentinel(case: &Case) -> u32 {
    if case.targets.is_empty() { SENTINEL } else { SENTINEL_IN_PLACE }
}

/// What an output holds before a call that must write all of it: another recognisable NaN.
const UNWRITTEN: u32 = 0x7fc0_c000;

/// What storing a value as f16 may change of it: its last place, or all of it below the smallest normal number, which
/// drivers may flush to zero.
fn rounding_of_f16(value: f32) -> f32 {
    (value.abs() / 1024.0).max(6.2e-5)
}

/// The result of one check.
#[derive(Clone, Debug)]
pub struct Check {
    /// Largest error over all outputs, relative to the largest magnitude of its output.
    pub worst_error: f32,
    /// What the op allows.
    pub tolerance: f32,
    /// The first thing that is wrong.
    pub failure: Option<Failure>,
}

/// What is wrong with an output, at its first failing element.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// An element was not written.
    NeverWritten {
        /// Name of the output.
        output: &'static str,
        /// Index of the element in each axis.
        index: Vec<usize>,
    },
    /// A sentinel beside the output was overwritten.
    WrotePastTheEnd {
        /// Name of the output.
        output: &'static str,
        /// Elements after the end, or before the start where negative.
        distance: i64,
    },
    /// An element is off by more than the tolerance.
    Wrong {
        /// Name of the output.
        output: &'static str,
        /// Index of the element in each axis.
        index: Vec<usize>,
        /// Of the reference.
        expected: f32,
        /// Of the kernel.
        got: f32,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverWritten { output, index } => write!(f, "{output}{index:?} was never written"),
            Self::WrotePastTheEnd { output, distance } => {
                write!(f, "{output} was written {distance} elements past its end")
            }
            Self::Wrong { output, index, expected, got } => {
                // Debug writes very small numbers with an exponent.
                write!(f, "{output}{index:?} is {got:?}, expected {expected:?}")
            }
        }
    }
}

/// What stands for the CPU executor's fast kernel where GPUs have the name of a variant.
pub(super) const COMPUTE: &str = "compute";

/// The variants of a case that a device can run, by name; the CPU executor has the one fast kernel.
pub fn subjects(device: &Device, case: &Case) -> Vec<&'static str> {
    match device {
        Device::Cpu => vec![COMPUTE],
        Device::Gpu(device) if case.activation() == DType::F16 && !device.supports_f16() => Vec::new(),
        Device::Gpu(device) => case
            .variants()
            .into_iter()
            .filter(|variant| device.supports(variant.requires))
            .map(|variant| variant.name)
            .collect(),
    }
}

/// A case as a graph of one node whose outputs lie inside guarded state values.
struct Guarded {
    graph: Graph,
    inputs: Vec<ValueId>,
    /// The state value around each output.
    guarded: Vec<ValueId>,
    types: Vec<TensorType>,
}

impl Guarded {
    fn new(case: &Case) -> Result<Self, WorkbenchError> {
        let mut graph = Graph::new();
        let inputs: Vec<ValueId> =
            case.input_types().into_iter().map(|ty| graph.input("input", ty)).collect();
        let outputs = graph.apply_dyn(case.op.clone(), &inputs)?;
        let types: Vec<TensorType> = outputs.iter().map(|&id| graph.ty(id).clone()).collect();
        let mut guarded = Vec::new();
        for (&output, ty) in outputs.iter().zip(&types) {
            let length = GUARD + ty.len().next_multiple_of(GUARD) + GUARD;
            // Integers are compared by their bits, which f32 holds as well.
            let guarded_type = match ty.dtype {
                DType::F16 => TensorType::f16([length]),
                DType::F32 | DType::U32 => TensorType::f32([length]),
            };
            let state = graph.state("guarded", guarded_type, BufferRole::Weights);
            graph.set_storage(output, Storage::Slice { of: state, offset: GUARD });
            guarded.push(state);
        }
        Ok(Self { graph, inputs, guarded, types })
    }

    /// Initial contents of the guarded value of output `index`.
    fn initial(&self, case: &Case, index: usize) -> Vec<u32> {
        let length = self.types[index].len();
        let mut contents = vec![sentinel(case); GUARD + length.next_multiple_of(GUARD) + GUARD];
        let inside = &mut contents[GUARD..GUARD + length];
        match case.targets.get(index) {
            Some(fill) => inside.copy_from_slice(bytemuck::cast_slice(&fill.data(100 + index as u32))),
            None => inside.fill(UNWRITTEN),
        }
        contents
    }
}

/// Checks one variant of one case on a device; `variant` is one of [`subjects`].
///
/// # Errors
/// [`WorkbenchError`] if the case cannot run at all.
pub async fn check(device: &Device, case: &Case, variant: &str) -> Result<Check, WorkbenchError> {
    check_against(CpuKernels::Reference, device, case, variant).await
}

/// As [`check`], against the references or the fast CPU kernels.
pub(super) async fn check_against(
    kernels: CpuKernels,
    device: &Device,
    case: &Case,
    variant: &str,
) -> Result<Check, WorkbenchError> {
    let setup = Guarded::new(case)?;
    let data: Vec<Vec<f32>> = (0..).zip(&case.inputs).map(|(index, fill)| fill.data(index)).collect();

    let mut reference = Executor::Cpu(CpuExecutor::new(&setup.graph, &[], kernels)?);
    let margin = Margin { tail: 4 * GUARD, surplus_workgroups: true };
    let mut executor = device.prepare_variant(&setup.graph, variant, margin).await?;
    executor.poison();
    for executor in [&mut reference, &mut executor] {
        for (&id, data) in setup.inputs.iter().zip(&data) {
            executor.write(id, data)?;
        }
        for (index, &id) in setup.guarded.iter().enumerate() {
            executor.write(id, &setup.initial(case, index))?;
        }
        executor.run()?;
    }

    // NaN may come out of nothing but what is not finite itself.
    let is_odd = |fill: &Fill, index| {
        fill.ty().dtype != DType::U32 && fill.data(index).iter().any(|value| !value.is_finite())
    };
    let may_be_nan =
        (0..).zip(case.inputs.iter().chain(&case.targets)).any(|(index, fill)| is_odd(fill, index));
    let mut result = Check { worst_error: 0.0, tolerance: case.op.tolerance(), failure: None };
    for (index, &id) in setup.guarded.iter().enumerate() {
        let (expected, got) = (reference.read(id).await?, executor.read(id).await?);
        let output = case.op.outputs()[index];
        compare(output, &setup.types[index], &expected, &got, (sentinel(case), may_be_nan), &mut result);
    }
    Ok(result)
}

/// Compares one guarded output with the reference's.
fn compare(
    output: &'static str,
    ty: &TensorType,
    expected: &[f32],
    got: &[f32],
    (sentinel, may_be_nan): (u32, bool),
    result: &mut Check,
) {
    let length = ty.len();
    for (position, value) in got.iter().enumerate() {
        if !(GUARD..GUARD + length).contains(&position) && value.to_bits() != sentinel {
            let distance = if position < GUARD {
                position as i64 - GUARD as i64
            } else {
                (position - GUARD - length) as i64 + 1
            };
            result.failure.get_or_insert(Failure::WrotePastTheEnd { output, distance });
        }
    }
    let (expected, got) = (&expected[GUARD..GUARD + length], &got[GUARD..GUARD + length]);
    let scale = match ty.dtype {
        DType::F32 | DType::F16 => {
            let finite = expected.iter().filter(|value| value.is_finite());
            finite.fold(f32::MIN_POSITIVE, |largest, value| largest.max(value.abs()))
        }
        DType::U32 => 1.0,
    };
    for (position, (&expected, &got)) in expected.iter().zip(got).enumerate() {
        let index = || unravel(position, &ty.shape);
        if got.to_bits() == UNWRITTEN {
            result.failure.get_or_insert_with(|| Failure::NeverWritten { output, index: index() });
            result.worst_error = f32::INFINITY;
            continue;
        }
        let error = match ty.dtype {
            DType::U32 => f32::from(u8::from(expected.to_bits() != got.to_bits())),
            // Infinities, too, are right where they are expected.
            DType::F32 | DType::F16 if got == expected => 0.0,
            DType::F32 | DType::F16 if may_be_nan && got.is_nan() && expected.is_nan() => 0.0,
            DType::F32 => (got - expected).abs() / scale,
            // An op that only moves values rounds none.
            DType::F16 if result.tolerance == 0.0 => (got - expected).abs() / scale,
            DType::F16 => {
                let off = (got - expected).abs() - rounding_of_f16(expected);
                if off <= 0.0 { 0.0 } else { off / scale }
            }
        };
        // Another NaN is never within the tolerance.
        let within = error <= result.tolerance;
        result.worst_error = if error.is_nan() { f32::INFINITY } else { result.worst_error.max(error) };
        if !within {
            result.failure.get_or_insert_with(|| Failure::Wrong { output, index: index(), expected, got });
        }
    }
}

/// The index in each axis of an element of a dense tensor.
fn unravel(mut position: usize, shape: &[usize]) -> Vec<usize> {
    let mut index: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&size| {
            let along = position % size;
            position /= size;
            along
        })
        .collect();
    index.reverse();
    index
}
