//! wgpu devices: opening one, compiling kernels, collecting errors.

mod executor;
mod pace;
mod plan;
mod prepare;
mod queue;
mod timestamps;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use executor::GpuExecutor;
pub(super) use plan::GpuPlan;
pub(super) use prepare::check_size;

use super::shader::{Binding, Extensions, Shader, Usage};
use super::tuner::{AdapterIdentity, Tuner};
use super::{AdapterReport, DeviceError, Tuning, cooperative};
use crate::graph::DType;
use crate::ops::{Op, OpFile, Pass, Requirements, Types, Variant};

/// An open wgpu device and the kernels compiled for it.
pub struct GpuDevice {
    name: String,
    subgroup_size: [u32; 2],
    limits: wgpu::Limits,
    features: wgpu::Features,
    device: wgpu::Device,
    queue: wgpu::Queue,
    trouble: Arc<Mutex<Trouble>>,
    shaders: Mutex<HashMap<(&'static str, DType), Arc<CompiledShader>>>,
    kernels: Mutex<HashMap<KernelKey, Arc<Kernel>>>,
    identity: AdapterIdentity,
    report: AdapterReport,
    tuner: Mutex<Option<Arc<Tuner>>>,
    submits_each_dispatch: AtomicBool,
}

/// What callbacks of the driver have reported since the device was opened.
#[derive(Default)]
struct Trouble {
    lost: Option<String>,
    failed: Option<String>,
}

struct CompiledShader {
    shader: Shader,
    module: wgpu::ShaderModule,
}

/// Op and element type of activations, entry point, and the overrides by name and bits.
type KernelKey = (&'static str, DType, &'static str, Vec<(&'static str, u64)>);

/// A compiled entry point.
struct Kernel {
    /// Op and entry point.
    name: String,
    pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
    bindings: Vec<Binding>,
}

/// The mutex guards plain data that no panic can leave half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl GpuDevice {
    /// Opens `adapter` with WebGPU's default limits, and larger buffers where it has them.
    pub(super) async fn open(
        adapter: &wgpu::Adapter,
        report: AdapterReport,
        cooperative_matrix: bool,
    ) -> Result<Self, DeviceError> {
        let info = adapter.get_info();
        let mut wanted =
            wgpu::Features::SUBGROUP | wgpu::Features::SHADER_F16 | wgpu::Features::TIMESTAMP_QUERY;
        let mut experimental_features = wgpu::ExperimentalFeatures::disabled();
        if cooperative_matrix {
            let matrices = adapter.cooperative_matrix_properties();
            if let Some(lacks) = cooperative::lacks(adapter.features(), &info, &matrices) {
                return Err(DeviceError::NoCooperativeMatrix { adapter: info.name, lacks });
            }
            wanted |= wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
            experimental_features = allow_experimental_features();
        }
        let available = adapter.limits();
        let required_limits = wgpu::Limits {
            max_storage_buffer_binding_size: available.max_storage_buffer_binding_size,
            max_buffer_size: available.max_buffer_size,
            ..wgpu::Limits::default()
        };
        let required_features = adapter.features() & wanted;
        let opened = adapter
            .request_device(&wgpu::DeviceDescriptor {
                label: Some("ddpm-gpu"),
                required_features,
                required_limits: required_limits.clone(),
                experimental_features,
                memory_hints: wgpu::MemoryHints::MemoryUsage,
                ..Default::default()
            })
            .await;
        let (device, queue) = opened
            .map_err(|error| DeviceError::Open { adapter: info.name.clone(), message: error.to_string() })?;
        let trouble = Arc::new(Mutex::new(Trouble::default()));
        let on_error = trouble.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            lock(&on_error).failed.get_or_insert(error.to_string());
        }));
        let on_lost = trouble.clone();
        device.set_device_lost_callback(move |reason, message| {
            let message = match reason {
                // Without a message, by whoever holds the device.
                wgpu::DeviceLostReason::Destroyed => "it was closed".to_owned(),
                _ => message,
            };
            lock(&on_lost).lost.get_or_insert(message);
        });
        let identity = AdapterIdentity {
            name: info.name.clone(),
            driver: info.driver,
            // DX12 has no driver_info, but a compiler that makes other code of the same kernels.
            driver_info: report.shader_compiler.map_or(info.driver_info, str::to_owned),
            backend: info.backend.to_string(),
        };
        Ok(Self {
            name: info.name,
            subgroup_size: [info.subgroup_min_size, info.subgroup_max_size],
            limits: required_limits,
            features: required_features,
            device,
            queue,
            trouble,
            shaders: Mutex::default(),
            kernels: Mutex::default(),
            identity,
            report,
            tuner: Mutex::default(),
            submits_each_dispatch: AtomicBool::new(false),
        })
    }

    /// Name of the adapter.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of the largest buffer, and of the largest part of one that a kernel sees.
    pub fn largest_buffer_and_binding(&self) -> [u64; 2] {
        [self.limits.max_buffer_size, self.limits.max_storage_buffer_binding_size]
    }

    /// What the adapter says of itself.
    pub fn report(&self) -> &AdapterReport {
        &self.report
    }

    /// Whether the device meets what a variant needs.
    pub fn supports(&self, requires: Requirements) -> bool {
        self.lacks(requires).is_none()
    }

    /// What the device lacks of what a variant needs, in words.
    pub fn lacks(&self, requires: Requirements) -> Option<String> {
        if let Some(size) = requires.subgroup_size {
            if !self.features.contains(wgpu::Features::SUBGROUP) {
                return Some("it has no subgroups".to_owned());
            }
            let [smallest, largest] = self.subgroup_size;
            if [smallest, largest] != [size, size] {
                return Some(format!("its subgroups have {smallest} to {largest} lanes"));
            }
        }
        if requires.cooperative_matrix && !self.extensions().cooperative_matrix {
            return Some("cooperative matrices are not there, or not asked for".to_owned());
        }
        (requires.f16 && !self.supports_f16()).then(|| "it has no shader-f16".to_owned())
    }

    fn extensions(&self) -> Extensions {
        Extensions {
            subgroups: self.features.contains(wgpu::Features::SUBGROUP),
            cooperative_matrix: self.features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
        }
    }

    /// Whether kernels can load and store 16-bit floats.
    pub fn supports_f16(&self) -> bool {
        self.features.contains(wgpu::Features::SHADER_F16)
    }

    /// Whether dispatches are timed by the device's own clock; those that are waited for one by one are by the host's.
    pub fn has_timestamps(&self) -> bool {
        self.features.contains(wgpu::Features::TIMESTAMP_QUERY) && !self.submits_each_dispatch()
    }

    /// The variants of a call that the device can run, the default first.
    pub(super) fn variants(&self, op: &dyn Op, types: Types<'_>) -> Vec<Variant> {
        let mut variants = op.variants(types);
        variants.retain(|variant| self.supports(variant.requires));
        variants
    }

    /// The variant that a call takes: the tuner's choice, or else the default; `None` where the device can run none.
    pub(super) fn choose(&self, op: &dyn Op, types: Types<'_>) -> Option<Variant> {
        let variants = self.variants(op, types);
        match self.tuner() {
            Some(tuner) => tuner.choose(op, types, variants),
            None => variants.into_iter().next(),
        }
    }

    /// The variant of this name, where the call has it and the device can run it.
    pub(super) fn variant(&self, op: &dyn Op, types: Types<'_>, name: &str) -> Option<Variant> {
        self.variants(op, types).into_iter().find(|variant| variant.name == name)
    }

    /// Whether runs submit each dispatch by itself and wait for it.
    fn submits_each_dispatch(&self) -> bool {
        self.submits_each_dispatch.load(Ordering::Relaxed)
    }

    pub(super) fn submit_each_dispatch(&self) {
        self.submits_each_dispatch.store(true, Ordering::Relaxed);
    }

    /// Seconds of a dispatch that does nothing, by the clock that times all others: the device's, else `clock`, which
    /// gives seconds.
    ///
    /// # Errors
    /// [`DeviceError::Timestamps`], [`DeviceError::Lost`] or [`DeviceError::Failed`].
    pub async fn time_of_empty_dispatch(&self, clock: &dyn Fn() -> f64) -> Result<f64, DeviceError> {
        match self.has_timestamps() {
            true => timestamps::empty(self).await,
            false => timestamps::empty_by_clock(self, clock),
        }
    }

    pub(super) fn set_tuning(&self, tuning: Tuning) {
        let tuner = Tuner::new(tuning, self.identity.clone());
        *lock(&self.tuner) = Some(Arc::new(tuner));
    }

    pub(super) fn tuner(&self) -> Option<Arc<Tuner>> {
        lock(&self.tuner).clone()
    }

    /// The WGSL of a call's op with its imports, in the form that the call needs.
    pub(super) fn wgsl(&self, op: &dyn Op, types: Types<'_>) -> Result<String, DeviceError> {
        Ok(self.shader(op.file(), types.activation())?.shader.text.clone())
    }

    /// The module of an op in one of its forms, compiled at first use.
    fn shader(&self, op_file: &OpFile, activation: DType) -> Result<Arc<CompiledShader>, DeviceError> {
        if let Some(shader) = lock(&self.shaders).get(&(op_file.name, activation)) {
            return Ok(shader.clone());
        }
        let shader = Shader::load(op_file, activation, self.extensions())?;
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(op_file.name),
            source: wgpu::ShaderSource::Wgsl(shader.text.as_str().into()),
        });
        let compiled = Arc::new(CompiledShader { shader, module });
        lock(&self.shaders).insert((op_file.name, activation), compiled.clone());
        Ok(compiled)
    }

    /// The pipeline of one pass, compiled at first use. `path` and `shapes` describe the call for errors.
    async fn kernel(
        &self,
        shader: &CompiledShader,
        pass: &Pass,
        path: &str,
        shapes: &str,
    ) -> Result<Arc<Kernel>, DeviceError> {
        let op_file = shader.shader.op_file;
        let overrides = pass.overrides.iter().map(|(name, value)| (*name, value.to_bits())).collect();
        let key: KernelKey = (op_file, shader.shader.activation, pass.entry, overrides);
        if let Some(kernel) = lock(&self.kernels).get(&key) {
            return Ok(kernel.clone());
        }
        let name = format!("{op_file}.{}", pass.entry);
        let bindings = shader.shader.bindings(pass.entry)?;
        let storage = bindings.iter().filter(|binding| binding.usage != Usage::Params).count();
        if storage > self.limits.max_storage_buffers_per_shader_stage as usize {
            return Err(DeviceError::TooManyBindings {
                kernel: name,
                count: storage,
                adapter: self.name.clone(),
                limit: self.limits.max_storage_buffers_per_shader_stage,
            });
        }
        let entries: Vec<wgpu::BindGroupLayoutEntry> = bindings.iter().map(layout_entry).collect();
        let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let layout = self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(&name),
            entries: &entries,
        });
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(&name),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&name),
            layout: Some(&pipeline_layout),
            module: &shader.module,
            entry_point: Some(pass.entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &pass.overrides,
                // Kernels write workgroup memory before they read it (gpu/instrumented.rs shows it). Where wgpu zeroes
                // it, one invocation may do so for all, and an AMD driver forgets the barrier (wgpu issue 4591).
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        let (validation, internal) = (validation.pop(), internal.pop());
        if let Some(error) = validation.await.or(internal.await) {
            return Err(self.lost(" while it compiled a kernel").unwrap_or_else(|| DeviceError::Pipeline {
                adapter: self.name.clone(),
                kernel: name,
                path: path.to_owned(),
                shapes: shapes.to_owned(),
                message: error.to_string(),
            }));
        }
        let kernel = Arc::new(Kernel { name, pipeline, layout, bindings });
        lock(&self.kernels).insert(key, kernel.clone());
        Ok(kernel)
    }
}

/// The leave that wgpu wants for features it calls experimental.
#[allow(unsafe_code)]
fn allow_experimental_features() -> wgpu::ExperimentalFeatures {
    // SAFETY: wgpu asks its user to accept that an experimental feature may have undefined behaviour. This is reached only
    // where the user asked for cooperative matrices, and no other experimental feature is ever requested.
    unsafe { wgpu::ExperimentalFeatures::enabled() }
}

fn layout_entry(binding: &Binding) -> wgpu::BindGroupLayoutEntry {
    let ty = match binding.usage {
        Usage::Params => wgpu::BufferBindingType::Uniform,
        Usage::Read => wgpu::BufferBindingType::Storage { read_only: true },
        Usage::Write => wgpu::BufferBindingType::Storage { read_only: false },
    };
    wgpu::BindGroupLayoutEntry {
        binding: binding.index,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod instrumented;
