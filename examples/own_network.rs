//! A network of your own: trained on the digits in the program, and drawn from.
//!
//! `cargo run --release --example own_network` writes `own-network.png`. The network is three convolutions, far too few to
//! draw well; what matters is how little it takes. Everything else (averages, checkpoints, samplers, guidance, 16 bits)
//! works with it as with a U-Net. Layers with parameters are in `network::layers` (convolution, linear, group norm), all
//! else in `ops`. For classes, declare `CLASS_LABELS` with `Element::Class`. `train::train` runs a whole `Run`, with
//! checkpoints; `Pipeline::load_with` reads one back.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use ddpm_gpu::data::{self, Loader, LoaderOptions, OpenOptions};
use ddpm_gpu::device::{Device, Selection};
use ddpm_gpu::diffusion::{Respacing, SchedulerConfig};
use ddpm_gpu::graph::{Graph, ValueId};
use ddpm_gpu::network::layers::Conv;
use ddpm_gpu::network::{Element, Input, ModelError, NamedValues, Network, SAMPLE, TIMESTEPS};
use ddpm_gpu::ops;
use ddpm_gpu::output::{GridOptions, tile};
use ddpm_gpu::sample::{SampleRequest, sample};
use ddpm_gpu::sampler;
use ddpm_gpu::train::{Denoise, TrainOptions, Trainer};
use serde::Serialize;

/// `conv_out(silu(conv_mid(silu(conv_in(x) + time))))`
#[derive(Debug, Serialize)]
struct ThreeConvolutions {
    size: usize,
    channels: usize,
}

impl Network for ThreeConvolutions {
    fn class_name(&self) -> &'static str {
        "ThreeConvolutions"
    }

    fn to_json(&self) -> Result<String, ModelError> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    fn check(&self) -> Result<(), ModelError> {
        Ok(())
    }

    fn inputs(&self) -> Result<Vec<Input>, ModelError> {
        let image = vec![self.size, self.size, 1];
        Ok(vec![
            Input { name: SAMPLE, shape: image, element: Element::Activation },
            Input { name: TIMESTEPS, shape: Vec::new(), element: Element::Float },
        ])
    }

    fn outputs(&self) -> Result<Vec<(&'static str, Vec<usize>)>, ModelError> {
        Ok(vec![(SAMPLE, vec![self.size, self.size, 1])])
    }

    fn build(
        &self,
        graph: &mut Graph,
        inputs: &NamedValues,
        _dropout: Option<ValueId>,
    ) -> Result<NamedValues, ModelError> {
        let time = ops::timestep_embedding(graph, inputs.get(TIMESTEPS)?, self.channels, true, 0.0)?;
        let h = Conv::three(self.channels).build(graph, "conv_in", inputs.get(SAMPLE)?)?;
        let h = ops::add(graph, h, time)?;
        let h = ops::silu(graph, h)?;
        let h = Conv::three(self.channels).build(graph, "conv_mid", h)?;
        let h = ops::silu(graph, h)?;
        let output = Conv::three(1).build(graph, "conv_out", h)?;
        Ok(NamedValues::default().with(SAMPLE, output))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    pollster::block_on(run())
}

async fn run() -> Result<(), Box<dyn Error>> {
    // `Selection::Auto` takes a GPU where there is one.
    let device = Device::open(&Selection::Cpu).await?;
    let options = TrainOptions { batch_size: 32, learning_rate: 2e-3, ..TrainOptions::default() };
    let task =
        Denoise::new(Arc::new(ThreeConvolutions { size: 8, channels: 32 }), SchedulerConfig::default())?;
    let mut trainer = Trainer::new(&device, task, options.clone(), None).await?;
    let loading = LoaderOptions {
        batch_size: options.batch_size,
        seed: 0,
        first_step: 0,
        random_flip: false,
        random_shift: 0,
    };
    let mut loader = Loader::new(data::open("digits", &OpenOptions::default())?.into(), loading)?;
    for step in 0..300 {
        trainer.step(&loader.next()?)?;
        if step % 50 == 0 {
            println!("step {step}: loss {:.4}", trainer.loss().await?);
        }
    }
    let pipeline = trainer.pipeline().await?;
    let mut request = SampleRequest::new(sampler::by_name("ddim")?, &pipeline.scheduler);
    request.options.steps = Some(Respacing::Steps(50));
    let images = sample(&device, &pipeline, &request, &mut |_| {}).await?.images;
    let path = Path::new("own-network.png");
    tile(&images.data, images.shape, &GridOptions::default())?.write_png(path)?;
    println!("wrote {}", path.display());
    Ok(())
}
