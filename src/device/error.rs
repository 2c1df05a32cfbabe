//! What can go wrong on a device.

use super::Backend;
use crate::memory::TooLarge;

/// What can go wrong on a device, with what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// No adapter is what was asked for.
    #[error("no adapter {what}; there is: {found}. The CPU executor always works")]
    NoSuchAdapter {
        /// What was asked for.
        what: String,
        /// The adapters present, with their numbers.
        found: String,
    },
    /// A name is that of several adapters.
    #[error("{name} matches several adapters: {matches}; give the number of one, or more of its name")]
    AmbiguousAdapter {
        /// What was asked for.
        name: String,
        /// The adapters that it matches, with their numbers.
        matches: String,
        /// Number of the first of them.
        number: usize,
    },
    /// The CPU executor was asked for through a backend.
    #[error("the backend {backend} is for adapters, and the CPU executor is none; ask for one of them")]
    CpuHasNoBackend {
        /// What was asked for.
        backend: Backend,
    },
    /// The adapter does not give the limits that the engine asks for.
    #[error("{adapter} refused to open: {message}; try another adapter, or the CPU executor")]
    Open {
        /// Name of the adapter.
        adapter: String,
        /// The driver's words.
        message: String,
    },
    /// A kernel does not compile.
    #[error("kernels/{op_file}.wgsl: {message}")]
    Shader {
        /// Stem of the file.
        op_file: &'static str,
        /// What is wrong.
        message: String,
    },
    /// A kernel has no form in another language.
    #[error("{kernel} has no translation to {target}: {message}")]
    Translation {
        /// Op and entry point.
        kernel: String,
        /// The language.
        target: &'static str,
        /// naga's words.
        message: String,
    },
    /// The driver rejected a kernel.
    #[error(
        "{adapter} does not compile {kernel} ({path}, {shapes}): {message}; please report it, and use the CPU executor meanwhile"
    )]
    Pipeline {
        /// Name of the adapter.
        adapter: String,
        /// Op and entry point.
        kernel: String,
        /// Module path of the first call.
        path: String,
        /// Shapes of the call.
        shapes: String,
        /// The driver's words.
        message: String,
    },
    /// A tensor is larger than the adapter binds.
    #[error(
        "{kernel} ({path}) binds {name} of {bytes} bytes ({shapes}), {adapter} allows {limit}; \
         try fewer images at a time, or smaller ones"
    )]
    BindingTooLarge {
        /// Op and entry point.
        kernel: String,
        /// Module path.
        path: String,
        /// Name of the operand.
        name: String,
        /// Its size.
        bytes: u64,
        /// Shapes of the call.
        shapes: String,
        /// Name of the adapter.
        adapter: String,
        /// The adapter's limit.
        limit: u64,
    },
    /// A kernel binds more buffers than the adapter allows.
    #[error(
        "{kernel} binds {count} storage buffers, {adapter} allows {limit}; try another adapter, or the CPU executor"
    )]
    TooManyBindings {
        /// Op and entry point.
        kernel: String,
        /// Buffers bound.
        count: usize,
        /// Name of the adapter.
        adapter: String,
        /// The adapter's limit.
        limit: u32,
    },
    /// No variant of a kernel can run on the adapter.
    #[error("{adapter} can run no variant of {kernel} ({path}); try another adapter, or the CPU executor")]
    NoVariant {
        /// Name of the adapter.
        adapter: String,
        /// Op and entry point.
        kernel: String,
        /// Module path.
        path: String,
    },
    /// A call has 16-bit operands.
    #[error(
        "{adapter} has no shader-f16, which activations of 16 bits need; use activations of 32 bits, or another device"
    )]
    NoF16 {
        /// Name of the adapter.
        adapter: String,
    },
    /// Cooperative matrices were asked for.
    #[error(
        "{adapter} cannot run the kernels for cooperative matrices: {lacks}; do without them, or use another \
         device"
    )]
    NoCooperativeMatrix {
        /// Name of the adapter.
        adapter: String,
        /// What is missing, and what is there.
        lacks: String,
    },
    /// Memory ran out.
    #[error(
        "{adapter} is out of memory: the plan takes {} MiB ({largest}); try fewer images at a time, or the CPU executor",
        total / (1 << 20)
    )]
    OutOfMemory {
        /// Name of the adapter.
        adapter: String,
        /// Bytes of the whole plan.
        total: usize,
        /// The call with the largest operands.
        largest: String,
    },
    /// The host has less memory than the buffers of a plan take.
    #[error("{0}; try fewer images at once, or smaller ones")]
    HostMemory(#[from] TooLarge),
    /// The device is gone.
    #[error("{adapter} was lost{during}: {message}")]
    Lost {
        /// Name of the adapter.
        adapter: String,
        /// What was running.
        during: String,
        /// The driver's words.
        message: String,
    },
    /// The driver reports an error during a run.
    #[error("{adapter} failed{during}: {message}")]
    Failed {
        /// Name of the adapter.
        adapter: String,
        /// What was running.
        during: String,
        /// The driver's words.
        message: String,
    },
    /// The device's clock gives no times.
    #[error(
        "the timestamps of {adapter} are of no use: {kernel} {problem}; please report it with the \
         adapter's name, driver and features"
    )]
    Timestamps {
        /// Name of the adapter.
        adapter: String,
        /// Op and entry point.
        kernel: String,
        /// What the timestamps say.
        problem: String,
    },
    /// A value was written with another number of elements than it has.
    #[error("{name} has {expected} elements, {given} were given")]
    Length {
        /// Name of the value.
        name: String,
        /// Elements given.
        given: usize,
        /// Elements expected.
        expected: usize,
    },
    /// A value was read that the plan does not keep.
    #[error("{name} was not kept by the plan, so it cannot be read")]
    NotKept {
        /// Name of the value.
        name: String,
    },
}
