//! A network that no table of the program knows: it trains, saves, resumes exactly, and draws.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a panic is how a test fails

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ddpm_gpu::checkpoint;
use ddpm_gpu::data::{self, OpenOptions};
use ddpm_gpu::device::Device;
use ddpm_gpu::diffusion::{Respacing, SchedulerConfig};
use ddpm_gpu::graph::{Graph, Init, Layout, ValueId};
use ddpm_gpu::network::{Element, Input, ModelError, NamedValues, Network, Precision, SAMPLE, TIMESTEPS};
use ddpm_gpu::ops::{self, conv2d::Padding};
use ddpm_gpu::pipeline::Pipeline;
use ddpm_gpu::sample::{SampleRequest, sample};
use ddpm_gpu::sampler;
use ddpm_gpu::train::{CheckpointEvery, Denoise, Outcome, Run, TrainOptions, train};
use pollster::block_on;

/// A 3x3 convolution of x with 16 channels for the timestep, and another one back.
#[derive(Debug)]
struct TwoConvolutions {
    channels: usize,
}

impl Network for TwoConvolutions {
    fn class_name(&self) -> &'static str {
        "TwoConvolutions"
    }

    fn to_json(&self) -> Result<String, ModelError> {
        Ok(format!(r#"{{"_class_name": "TwoConvolutions", "channels": {}}}"#, self.channels))
    }

    fn check(&self) -> Result<(), ModelError> {
        Ok(())
    }

    fn inputs(&self) -> Result<Vec<Input>, ModelError> {
        Ok(vec![
            Input { name: SAMPLE, shape: vec![8, 8, 1], element: Element::Activation },
            Input { name: TIMESTEPS, shape: Vec::new(), element: Element::Float },
        ])
    }

    fn outputs(&self) -> Result<Vec<(&'static str, Vec<usize>)>, ModelError> {
        Ok(vec![(SAMPLE, vec![8, 8, 1])])
    }

    fn build(
        &self,
        graph: &mut Graph,
        inputs: &NamedValues,
        dropout: Option<ValueId>,
    ) -> Result<NamedValues, ModelError> {
        let convolution = |graph: &mut Graph, name: &str, x: ValueId, outputs: usize| {
            graph.scoped(name, |graph| {
                let shape = [outputs, 3, 3, graph.ty(x).channels()];
                let init = Init::Uniform { bound: 0.1 };
                let weight = graph.parameter_in_file("weight", shape, init, Layout::Convolution, None);
                let bias = graph.parameter("bias", [outputs], Init::Zeros);
                ops::conv2d(graph, x, weight, bias, 1, Padding::Same)
            })
        };
        let time = ops::timestep_embedding(graph, inputs.get(TIMESTEPS)?, self.channels, true, 0.0)?;
        let h = convolution(graph, "conv_in", inputs.get(SAMPLE)?, self.channels)?;
        let h = ops::add(graph, h, time)?;
        let mut h = ops::silu(graph, h)?;
        if let Some(key) = dropout {
            h = ops::dropout(graph, h, key, 0.1)?;
        }
        Ok(NamedValues::default().with(SAMPLE, convolution(graph, "conv_out", h, 1)?))
    }
}

/// Trains in `output` up to `steps`, and gives the last checkpoint or what is said instead.
fn train_to(output: &Path, steps: u64, resume: bool, channels: usize) -> Result<std::path::PathBuf, String> {
    let run = Run {
        device: Device::Cpu,
        dataset: data::open("digits", &OpenOptions::default()).unwrap().into(),
        initial_weights: None,
        base: None,
        options: TrainOptions {
            batch_size: 4,
            steps,
            precision: Precision::F32,
            extra_ema_decays: vec![0.5],
            ..TrainOptions::default()
        },
        output: output.to_owned(),
        resume,
        checkpoint_every: CheckpointEvery::Steps(100),
        checkpoints_to_keep: 3,
        sample_every: 0,
        settings: None,
    };
    let task = Denoise::new(Arc::new(TwoConvolutions { channels }), SchedulerConfig::default()).unwrap();
    match block_on(train(&run, task, &AtomicBool::new(false), &mut |_| {})) {
        Ok(Outcome::Finished { checkpoint }) => Ok(checkpoint),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn it_resumes_exactly_and_draws() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, parts] = ["whole", "parts"].map(|name| folder.path().join(name));
    let expected = train_to(&whole, 6, false, 16).unwrap();
    train_to(&parts, 3, false, 16).unwrap();
    let found = train_to(&parts, 6, true, 16).unwrap();
    for file in ["unet/diffusion_pytorch_model.safetensors", "training_state/second_moment.safetensors"] {
        assert!(
            std::fs::read(expected.join(file)).unwrap() == std::fs::read(found.join(file)).unwrap(),
            "{file}"
        );
    }
    // Its configuration is compared, though nothing here can read it.
    let said = train_to(&parts, 9, true, 8).unwrap_err();
    assert!(said.contains("config.json") && said.contains("TwoConvolutions"), "{said}");

    let network: Arc<dyn Network> = Arc::new(TwoConvolutions { channels: 16 });
    let pipeline = Pipeline::load_with(&checkpoint::resolve(&parts).unwrap(), &network).unwrap();
    let mut request = SampleRequest::new(sampler::by_name("ddim").unwrap(), &pipeline.scheduler);
    (request.num_images, request.options.steps) = (2, Some(Respacing::Steps(3)));
    let images = block_on(sample(&Device::Cpu, &pipeline, &request, &mut |_| {})).unwrap().images;
    assert_eq!(images.shape, [2, 8, 8, 1]);
    // Who does not have the network is told which it is.
    let said = Pipeline::load(&found).unwrap_err().to_string();
    assert!(said.contains("model_index.json") && said.contains("TwoConvolutions"), "{said}");
}
