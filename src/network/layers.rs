//! Layers with parameters of their own, and how these are initialised.

use crate::graph::{BufferRole, Graph, GraphError, Init, Layout, TensorType, ValueId};
use crate::ops;
use crate::ops::conv2d::Padding;

/// Initial weights, as `DEFAULT_INIT` of Ho et al.'s code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightInit {
    /// Uniform with variance 1 / fan_avg.
    FanAverage,
    /// The same with variance 1e-10 / fan_avg, so that a residual branch starts as nothing.
    NearZero,
}

impl WeightInit {
    fn init(self, fan_in: usize, fan_out: usize) -> Init {
        let scale = match self {
            Self::FanAverage => 1.0,
            Self::NearZero => 1e-10,
        };
        let fan_average = (fan_in + fan_out) as f32 / 2.0;
        Init::Uniform { bound: (3.0f32 * scale / fan_average).sqrt() }
    }
}

/// The form of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct Conv {
    /// Channels of the result.
    pub out_channels: usize,
    /// Height and width of the kernel.
    pub kernel: usize,
    /// Pixels from one position of the kernel to the next.
    pub stride: usize,
    /// What lies beyond the edges.
    pub padding: Padding,
    /// Whether a number is added to each channel.
    pub has_bias: bool,
    /// Initial weights.
    pub init: WeightInit,
}

/// So many zeros, where an op asks for numbers that a network does not have.
pub fn zeros(graph: &mut Graph, length: usize) -> ValueId {
    // Nothing writes this state: it stays zero.
    graph.state("zeros", TensorType::f32([length]), BufferRole::Inputs)
}

impl Conv {
    /// 3x3, stride 1.
    pub fn three(out_channels: usize) -> Self {
        Self {
            out_channels,
            kernel: 3,
            stride: 1,
            padding: Padding::Same,
            has_bias: true,
            init: WeightInit::FanAverage,
        }
    }

    /// 1x1.
    pub fn one(out_channels: usize) -> Self {
        Self { kernel: 1, ..Self::three(out_channels) }
    }

    /// A convolution called `name` of x `[N, H, W, I]`.
    ///
    /// # Errors
    /// [`GraphError`] for an x of another shape.
    pub fn build(self, graph: &mut Graph, name: &str, x: ValueId) -> Result<ValueId, GraphError> {
        graph.scoped(name, |graph| {
            let inputs = graph.ty(x).channels();
            let taps = self.kernel * self.kernel;
            let init = self.init.init(inputs * taps, self.out_channels * taps);
            let y = self.append(graph, x, init)?;
            let down = Self { has_bias: false, ..self };
            let down = |graph: &mut Graph, rank| {
                let down = Self { out_channels: rank, ..down };
                graph.scoped(ADAPTER_A, |graph| down.append(graph, x, adapter_init(inputs * taps)))
            };
            let up = Self { has_bias: false, ..Self::one(self.out_channels) };
            adapted(graph, y, down, |graph, h| {
                graph.scoped(ADAPTER_B, |graph| up.append(graph, h, Init::Zeros))
            })
        })
    }

    /// The convolution at the current module path, with weights that begin as `init`.
    fn append(self, graph: &mut Graph, x: ValueId, init: Init) -> Result<ValueId, GraphError> {
        let shape = [self.out_channels, self.kernel, self.kernel, graph.ty(x).channels()];
        let weight = graph.parameter_in_file("weight", shape, init, Layout::Convolution, None);
        let bias = match self.has_bias {
            true => graph.parameter("bias", [self.out_channels], Init::Zeros),
            false => zeros(graph, self.out_channels),
        };
        ops::conv2d(graph, x, weight, bias, self.stride, self.padding)
    }
}

/// The names of an adapter's two matrices after that of its layer, as peft has them; each is a layer with a weight.
pub const ADAPTER_A: &str = "lora_A";
/// As [`ADAPTER_A`], for the other one.
pub const ADAPTER_B: &str = "lora_B";

/// How A is drawn, as peft does by default: PyTorch's own way for a layer of so many inputs. B begins as zero, so that
/// an adapter that is not trained changes nothing.
fn adapter_init(fan_in: usize) -> Init {
    Init::Uniform { bound: 1.0 / (fan_in as f32).sqrt() }
}

/// What a layer at the current module path gives, with its adapter where it has one: y + alpha / rank B(A(x)). `down`
/// appends A, of the layer's own input, for a rank; `up` appends B.
fn adapted(
    graph: &mut Graph,
    y: ValueId,
    down: impl FnOnce(&mut Graph, usize) -> Result<ValueId, GraphError>,
    up: impl FnOnce(&mut Graph, ValueId) -> Result<ValueId, GraphError>,
) -> Result<ValueId, GraphError> {
    let Some(adapter) = graph.adapter() else { return Ok(y) };
    let h = down(graph, adapter.rank)?;
    let h = if adapter.scale() == 1.0 { h } else { ops::affine(graph, h, adapter.scale(), 0.0)? };
    let delta = up(graph, h)?;
    ops::add(graph, y, delta)
}

/// `y`, a fully connected layer of x at the current module path, with its adapter where it has one.
fn adapted_linear(graph: &mut Graph, y: ValueId, x: ValueId) -> Result<ValueId, GraphError> {
    let [inputs, outputs] = [x, y].map(|value| graph.ty(value).channels());
    let unbiased = |graph: &mut Graph, name: &str, x: ValueId, outputs: usize, init: Init| {
        graph.scoped(name, |graph| {
            let weight = graph.parameter("weight", [outputs, graph.ty(x).channels()], init);
            ops::linear(graph, x, weight, None)
        })
    };
    let down = |graph: &mut Graph, rank| unbiased(graph, ADAPTER_A, x, rank, adapter_init(inputs));
    adapted(graph, y, down, |graph, h| unbiased(graph, ADAPTER_B, h, outputs, Init::Zeros))
}

/// A fully connected layer called `name` over the last axis of `x`.
///
/// # Errors
/// [`GraphError`] for an x of another shape.
pub fn linear(
    graph: &mut Graph,
    name: &str,
    x: ValueId,
    outputs: usize,
    init: WeightInit,
) -> Result<ValueId, GraphError> {
    graph.scoped(name, |graph| {
        let inputs = graph.ty(x).channels();
        let weight = graph.parameter("weight", [outputs, inputs], init.init(inputs, outputs));
        let bias = graph.parameter("bias", [outputs], Init::Zeros);
        let y = ops::linear(graph, x, weight, bias)?;
        adapted_linear(graph, y, x)
    })
}

/// As [`linear`], for a layer of attention: older files have it under `former_name`, as a 1x1 convolution.
///
/// # Errors
/// As [`linear`].
pub fn projection(
    graph: &mut Graph,
    [name, former_name]: [&str; 2],
    x: ValueId,
    outputs: usize,
    init: WeightInit,
) -> Result<ValueId, GraphError> {
    let block = graph.path();
    let former = |leaf: &str| Some(format!("{block}.{former_name}.{leaf}"));
    graph.scoped(name, |graph| {
        let inputs = graph.ty(x).channels();
        let (shape, init) = ([outputs, inputs], init.init(inputs, outputs));
        let weight = graph.parameter_in_file("weight", shape, init, Layout::Projection, former("weight"));
        let bias = graph.parameter_in_file("bias", [outputs], Init::Zeros, Layout::Same, former("bias"));
        let y = ops::linear(graph, x, weight, bias)?;
        adapted_linear(graph, y, x)
    })
}

/// A group norm called `name`, followed by SiLU if `silu`.
///
/// # Errors
/// [`GraphError`] for channels that the groups do not divide.
pub fn group_norm(
    graph: &mut Graph,
    name: &str,
    x: ValueId,
    groups: usize,
    eps: f32,
    silu: bool,
) -> Result<ValueId, GraphError> {
    graph.scoped(name, |graph| {
        let channels = graph.ty(x).channels();
        let weight = graph.parameter("weight", [channels], Init::Ones);
        let bias = graph.parameter("bias", [channels], Init::Zeros);
        ops::group_norm(graph, x, weight, bias, groups, eps, silu)
    })
}

/// `(a + b) / divisor`, for tensors of one shape.
///
/// # Errors
/// [`GraphError`] for tensors of different shapes.
pub fn divided_sum(graph: &mut Graph, a: ValueId, b: ValueId, divisor: f32) -> Result<ValueId, GraphError> {
    let sum = ops::add(graph, a, b)?;
    if divisor == 1.0 { Ok(sum) } else { ops::affine(graph, sum, 1.0 / divisor, 0.0) }
}
