//! Adapters on which rewritten kernels run.

use std::collections::{BTreeMap, BTreeSet};

use pollster::block_on;

use super::rewritten::{Form, NOTES, Rewritten};
use crate::device::shader::{Extensions, Shader, Usage};
use crate::ops::{Case, Grid, Pass, Variant};

/// An adapter opened with all it has: the notes are a binding more than WebGPU promises.
pub(super) struct Bench {
    pub(super) name: String,
    device: wgpu::Device,
    queue: wgpu::Queue,
    subgroup_size: Option<u32>,
}

/// What a run left.
pub(super) struct Outcome {
    pub(super) outputs: Vec<Vec<f32>>,
    /// Names of the bindings that an index reached past.
    pub(super) past_the_end: BTreeSet<String>,
}

/// All adapters; a word on their absence if there are none.
pub(super) fn benches() -> Vec<Bench> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapters = block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
    if adapters.is_empty() {
        eprintln!("SKIPPED: no wgpu adapter is present");
    }
    let open = |adapter: wgpu::Adapter| {
        let info = adapter.get_info();
        let features = adapter.features() & wgpu::Features::SUBGROUP;
        let opened = block_on(adapter.request_device(&wgpu::DeviceDescriptor {
            required_features: features,
            required_limits: adapter.limits(),
            ..Default::default()
        }));
        let (device, queue) = opened.unwrap();
        let sizes = [info.subgroup_min_size, info.subgroup_max_size];
        let has_one = !features.is_empty() && sizes[0] == sizes[1];
        Bench { name: info.name, device, queue, subgroup_size: has_one.then_some(sizes[0]) }
    };
    adapters.into_iter().map(open).collect()
}

impl Bench {
    pub(super) fn extensions(&self) -> Extensions {
        Extensions { subgroups: self.subgroup_size.is_some(), cooperative_matrix: false }
    }

    pub(super) fn supports(&self, variant: &Variant) -> bool {
        let requires = variant.requires;
        let has_lanes = requires.subgroup_size.is_none_or(|size| self.subgroup_size == Some(size));
        has_lanes && !requires.cooperative_matrix && !requires.f16
    }

    pub(super) fn buffer(&self, contents: &[u8], usage: wgpu::BufferUsages) -> wgpu::Buffer {
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: contents.len() as u64,
            usage: usage | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        self.queue.write_buffer(&buffer, 0, contents);
        buffer
    }

    pub(super) fn storage<T: bytemuck::Pod>(&self, contents: &[T]) -> wgpu::Buffer {
        self.buffer(bytemuck::cast_slice(contents), wgpu::BufferUsages::STORAGE)
    }

    pub(super) fn module(&self, text: &str) -> wgpu::ShaderModule {
        self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(text.into()),
        })
    }

    pub(super) fn pipeline(
        &self,
        module: &wgpu::ShaderModule,
        entry: &str,
        overrides: &[(&str, f64)],
        zeroed: bool,
    ) -> wgpu::ComputePipeline {
        self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(entry),
            layout: None,
            module,
            entry_point: Some(entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: overrides,
                zero_initialize_workgroup_memory: zeroed,
            },
            cache: None,
        })
    }

    /// Runs a pipeline with what it binds.
    pub(super) fn dispatch(
        &self,
        pipeline: &wgpu::ComputePipeline,
        bindings: &[(u32, &wgpu::Buffer)],
        [x, y]: [u32; 2],
    ) {
        let entries: Vec<wgpu::BindGroupEntry<'_>> = bindings
            .iter()
            .map(|&(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
            .collect();
        let bind_group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        let mut encoder = self.device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(pipeline);
        pass.set_bind_group(0, &bind_group, &[]);
        pass.dispatch_workgroups(x, y, 1);
        drop(pass);
        self.queue.submit([encoder.finish()]);
    }

    pub(super) fn read<T: bytemuck::Pod>(&self, buffer: &wgpu::Buffer) -> Vec<T> {
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: buffer.size(),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, buffer.size());
        self.queue.submit([encoder.finish()]);
        staging.map_async(wgpu::MapMode::Read, .., |result| result.unwrap());
        self.device.poll(wgpu::PollType::Wait { submission_index: None, timeout: None }).unwrap();
        let view = staging.get_mapped_range(..).unwrap();
        bytemuck::pod_collect_to_vec(&view)
    }

    /// Runs a case by one of its variants, in buffers that are exactly as long as the operands.
    pub(super) fn run(&self, case: &Case, variant: &Variant, rewritten: &mut Rewritten) -> Outcome {
        let mut buffers: BTreeMap<&str, wgpu::Buffer> = BTreeMap::new();
        for (index, (name, fill)) in case.op.inputs().iter().zip(&case.inputs).enumerate() {
            buffers.insert(name, self.storage(&fill.data(index as u32)));
        }
        for (index, (name, ty)) in case.op.outputs().iter().zip(case.output_types().unwrap()).enumerate() {
            let contents = match case.targets.get(index) {
                Some(fill) => fill.data(100 + index as u32),
                None => vec![f32::from_bits(u32::MAX); ty.len()],
            };
            buffers.insert(name, self.storage(&contents));
        }
        for &(name, length) in &variant.scratch {
            buffers.insert(name, self.storage(&vec![u32::MAX; length]));
        }
        let notes = self.storage(&[0u32]);
        for pass in &variant.passes {
            let params = rewritten.shader.params(pass).unwrap();
            let params = (!params.is_empty()).then(|| self.buffer(&params, wgpu::BufferUsages::UNIFORM));
            let mut bindings: Vec<(u32, &wgpu::Buffer)> = Vec::new();
            for binding in rewritten.shader.bindings(pass.entry).unwrap() {
                let buffer = match binding.usage {
                    Usage::Params => params.as_ref().unwrap(),
                    _ => &buffers[binding.name.as_str()],
                };
                bindings.push((binding.index, buffer));
            }
            if rewritten.form == Form::CheckedIndices {
                bindings.push((NOTES, &notes));
            }
            let key = format!("{} {:?}", pass.entry, pass.overrides);
            let pipeline = rewritten.pipelines.entry(key).or_insert_with(|| {
                let module = rewritten.module.get_or_insert_with(|| self.module(&rewritten.text));
                self.pipeline(module, pass.entry, &pass.overrides, rewritten.form == Form::Zeroed)
            });
            self.dispatch(pipeline, &bindings, workgroups(&rewritten.shader, pass));
        }
        let bits: Vec<u32> = self.read(&notes);
        let is_noted = |number: u32| bits[0] >> number & 1 == 1;
        Outcome {
            outputs: case.op.outputs().iter().map(|name| self.read(&buffers[name])).collect(),
            past_the_end: rewritten
                .storage
                .iter()
                .filter(|(_, at)| is_noted(*at))
                .map(|(name, _)| name.clone())
                .collect(),
        }
    }
}

/// As an executor folds a grid, with a surplus workgroup where there may be one.
pub(super) fn workgroups(shader: &Shader, pass: &Pass) -> [u32; 2] {
    let count = match pass.grid {
        Grid::Workgroups(count) => count,
        Grid::Invocations(count) => {
            count.div_ceil(shader.workgroup_size(pass).unwrap().iter().product::<u32>() as usize)
        }
    };
    if count > 1 { [count.div_ceil(2) as u32 + 1, 2] } else { [count as u32, 1] }
}
