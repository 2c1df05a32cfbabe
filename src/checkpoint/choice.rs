//! Which of a model's weights to read, where a folder has several.

/// Which of a model's weights to read; nothing of it for the plain ones.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WeightsChoice {
    /// The variant, as diffusers calls it: `fp16` for diffusion_pytorch_model.fp16.safetensors.
    pub variant: Option<String>,
    /// The decay of the average, of several that a run of this program has.
    pub ema_decay: Option<f64>,
}
