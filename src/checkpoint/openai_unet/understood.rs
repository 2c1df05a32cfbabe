//! What a model is: what its file tells, what its flags say, and what is taken by default.

use std::sync::Arc;

use super::Refusal;
use super::form::Form;
use super::settings::{ImportSettings, NoiseSchedule};
use crate::network::{ClassifierConfig, Network, SampleSize, SuperResolution, UNetConfig};
use crate::setting::SettingError;

/// Levels by the size of the images, as both `create_model` have them.
const MULTIPLES: [(usize, &[usize]); 4] =
    [(32, &[1, 2, 2, 2]), (64, &[1, 2, 3, 4]), (128, &[1, 1, 2, 3, 4]), (256, &[1, 1, 2, 2, 4, 4])];

/// Channels of a head of guided-diffusion's classifiers, which have no flag for it.
const CLASSIFIER_HEAD: usize = 64;

/// T that timesteps are scaled to.
const RESCALED: usize = 1000;

/// All that is known of a model.
#[derive(Debug)]
pub(super) struct Understood {
    image_size: usize,
    small_size: Option<usize>,
    /// Channels of a head; `None` for as many heads at every level.
    head_dim: Option<usize>,
    heads: usize,
    pub(super) has_new_order: bool,
    dropout: f32,
    pub(super) learn_sigma: bool,
    pub(super) sigma_small: bool,
    pub(super) predict_xstart: bool,
    pub(super) steps: usize,
    pub(super) schedule: NoiseSchedule,
    rescales: bool,
    /// Settings that nothing said, with what they were taken for.
    assumed: Vec<String>,
}

/// A setting, or its default, which is noted.
fn or_default<T: Copy + std::fmt::Display>(
    given: Option<T>,
    name: &str,
    default: T,
    assumed: &mut Vec<String>,
) -> T {
    given.unwrap_or_else(|| {
        assumed.push(format!("{name} {default}"));
        default
    })
}

/// A refusal that another setting helps against.
fn setting(names: &'static [&'static str], message: impl Into<String>) -> Refusal {
    SettingError::new(names, message).into()
}

/// Refuses a setting that the file contradicts.
fn agree<T: PartialEq + std::fmt::Debug>(
    given: Option<&T>,
    name: &'static [&'static str; 1],
    found: &T,
) -> Result<(), SettingError> {
    match given {
        Some(given) if given != found => {
            let message = format!(
                "`{}` is {given:?}, but in the file it is {found:?}; leave it out, or give the other file",
                name[0]
            );
            Err(SettingError::new(name, message))
        }
        _ => Ok(()),
    }
}

impl Understood {
    pub(super) fn of(form: &Form, settings: &ImportSettings) -> Result<Self, Refusal> {
        let mut assumed = Vec::new();
        let multiples: Vec<usize> =
            form.channels.iter().map(|channels| channels / form.num_channels).collect();
        if form
            .channels
            .iter()
            .zip(&multiples)
            .any(|(channels, multiple)| *channels != multiple * form.num_channels)
        {
            let message =
                format!("its levels have {:?} channels, which are no multiples of the first", form.channels);
            return Err(Refusal::File(message));
        }
        agree(settings.num_channels.as_ref(), &["num_channels"], &form.num_channels)?;
        agree(settings.num_res_blocks.as_ref(), &["num_res_blocks"], &form.num_res_blocks)?;
        agree(settings.channel_mult.as_ref(), &["channel_mult"], &multiples)?;
        agree(settings.class_cond.as_ref(), &["class_cond"], &form.classes.is_some())?;
        agree(settings.use_scale_shift_norm.as_ref(), &["use_scale_shift_norm"], &form.scale_shift)?;
        if form.channels.len() > 1 {
            agree(settings.resblock_updown.as_ref(), &["resblock_updown"], &form.resblock_updown)?;
        }
        let image_size = image_size(&multiples, settings, &mut assumed)?;
        if let Some(resolutions) = &settings.attention_resolutions {
            let at =
                |level: usize| resolutions.iter().any(|&size| size > 0 && image_size / size == 1 << level);
            let attends: Vec<bool> = (0..form.channels.len()).map(at).collect();
            if attends != form.attends {
                let found: Vec<usize> = (0..form.channels.len())
                    .filter(|&level| form.attends[level])
                    .map(|level| image_size >> level)
                    .collect();
                return Err(setting(
                    &["attention_resolutions", "image_size"],
                    format!(
                        "`attention_resolutions` is {resolutions:?}, but with images of {image_size} pixels the file has \
                     attention at {found:?}; leave it out, or give another `image_size`"
                    ),
                ));
            }
        }
        let learn_sigma = match form.is_classifier() {
            true => settings.learn_sigma.unwrap_or(false),
            false => learns_sigma(form, settings)?,
        };
        let heads = Heads::of(form, settings, &mut assumed)?;
        let has_new_order = match heads.several {
            true => {
                or_default(settings.use_new_attention_order, "use_new_attention_order", false, &mut assumed)
            }
            false => false,
        };
        let steps = or_default(settings.diffusion_steps, "diffusion_steps", RESCALED, &mut assumed);
        let schedule =
            or_default(settings.noise_schedule, "noise_schedule", NoiseSchedule::Linear, &mut assumed);
        let predict_xstart = or_default(settings.predict_xstart, "predict_xstart", false, &mut assumed);
        let sigma_small = match learn_sigma {
            true => false,
            false => or_default(settings.sigma_small, "sigma_small", false, &mut assumed),
        };
        let rescales = match steps {
            RESCALED => false,
            _ => or_default(settings.rescale_timesteps, "rescale_timesteps", true, &mut assumed),
        };
        if steps == 0 {
            return Err(setting(&["diffusion_steps"], "`diffusion_steps` is 0; it must be at least 1"));
        }
        Ok(Self {
            image_size,
            small_size: settings.small_size,
            head_dim: heads.dim,
            heads: heads.count,
            has_new_order,
            dropout: settings.dropout.unwrap_or(0.0),
            learn_sigma,
            sigma_small,
            predict_xstart,
            steps,
            schedule,
            rescales,
            assumed,
        })
    }

    /// How many heads attention over so many channels has.
    pub(super) fn heads_of(&self, channels: usize) -> usize {
        self.head_dim.map_or(self.heads, |dim| channels / dim.max(1)).max(1)
    }

    /// What was assumed, in sentences.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.assumed.is_empty() {
            notes.push(format!(
                "what the file does not tell is taken as the scripts have it by default: {}. Give what the model was \
                 trained with",
                self.assumed.join(", ")
            ));
        }
        let own: Vec<String> = [
            self.timestep_scale().map(|scale| format!("timesteps are multiplied by {scale}")),
            self.heads_at_every_level().map(|heads| format!("attention has {heads} heads at every level")),
        ]
        .into_iter()
        .flatten()
        .collect();
        if !own.is_empty() {
            notes.push(format!(
                "its config.json says that {}, which diffusers has no word for and passes over: there the model is \
                 another one",
                own.join(" and ")
            ));
        }
        notes
    }

    /// What timesteps are multiplied by, where they are.
    fn timestep_scale(&self) -> Option<f64> {
        self.rescales.then(|| RESCALED as f64 / self.steps as f64)
    }

    /// How many heads there are, where they are as many at levels of other channels.
    fn heads_at_every_level(&self) -> Option<usize> {
        (self.head_dim.is_none() && self.heads > 1).then_some(self.heads)
    }

    /// The network, not yet checked.
    pub(super) fn network(&self, form: &Form) -> Arc<dyn Network> {
        match form.is_classifier() {
            true => Arc::new(ClassifierConfig {
                num_classes: form.outputs,
                encoder: self.unet(form, form.in_channels),
            }),
            false => Arc::new(self.unet(form, form.outputs)),
        }
    }

    /// The U-Net, whose time embedding, activations and norms are as diffusers has them by default.
    fn unet(&self, form: &Form, out_channels: usize) -> UNetConfig {
        let kind = |attends: bool, way: &str| match (attends, form.resblock_updown) {
            (true, _) => format!("Attn{way}Block2D"),
            (false, false) => format!("{way}Block2D"),
            (false, true) => format!("Resnet{way}sampleBlock2D"),
        };
        let resample = if form.resblock_updown { "resnet" } else { "conv" };
        let defaults = UNetConfig::default();
        UNetConfig {
            sample_size: Some(SampleSize::Square(self.image_size)),
            in_channels: form.in_channels,
            out_channels,
            down_block_types: form.attends.iter().map(|&attends| kind(attends, "Down")).collect(),
            up_block_types: form.attends.iter().rev().map(|&attends| kind(attends, "Up")).collect(),
            block_out_channels: form.channels.clone(),
            layers_per_block: form.num_res_blocks,
            downsample_type: Some(resample.to_owned()),
            upsample_type: Some(resample.to_owned()),
            dropout: self.dropout,
            attention_head_dim: self.head_dim,
            // A mid block of a UNet2DModel with scale_shift has no norm before attention unless this is said.
            attn_norm_num_groups: defaults.norm_num_groups,
            resnet_time_scale_shift: if form.scale_shift { "scale_shift" } else { "default" }.to_owned(),
            num_class_embeds: form.classes,
            timestep_scale: self.timestep_scale().unwrap_or(defaults.timestep_scale),
            num_attention_heads: self.heads_at_every_level(),
            super_resolution: self
                .small_size
                .map(|size| SuperResolution { low_size: SampleSize::Square(size), augmentation: 0 }),
            ..defaults
        }
    }
}

/// The size of the images: as said, or by the levels.
fn image_size(
    multiples: &[usize],
    settings: &ImportSettings,
    assumed: &mut Vec<String>,
) -> Result<usize, Refusal> {
    if let Some(size) = settings.image_size {
        return Ok(size);
    }
    let usual = MULTIPLES.iter().find(|(_, known)| *known == multiples);
    // Levels of 256 pixels are those of a super-resolution model of 512 too.
    match usual {
        Some(&(size, _)) if settings.small_size.is_none() => {
            assumed.push(format!("image_size {size}, as its channel_mult is {multiples:?}"));
            Ok(size)
        }
        _ => Err(setting(
            &["image_size"],
            format!(
                "the file does not tell the size of the images: give `image_size` (`large_size` of a super-resolution model); \
             its channel_mult is {multiples:?}"
            ),
        )),
    }
}

/// Whether half of the output is the variance.
fn learns_sigma(form: &Form, settings: &ImportSettings) -> Result<bool, Refusal> {
    let image = form.image_channels(settings);
    if settings.small_size.is_none() && form.in_channels == 6 {
        return Err(setting(
            &["small_size", "image_size"],
            "its input has 6 channels, as that of a super-resolution model: give `small_size`, the size of the images to \
             enlarge, and `image_size`",
        ));
    }
    let learns = match form.outputs {
        outputs if outputs == image => false,
        outputs if outputs == 2 * image => true,
        outputs => {
            return Err(Refusal::File(format!(
                "its output has {outputs} channels, where images have {image}; expected as many, or twice as many with \
                 learned variances"
            )));
        }
    };
    agree(settings.learn_sigma.as_ref(), &["learn_sigma"], &learns)?;
    Ok(learns)
}

/// The heads of attention.
struct Heads {
    /// Channels of a head, where they are the same at every level.
    dim: Option<usize>,
    count: usize,
    /// Whether any attention has more than one.
    several: bool,
}

impl Heads {
    fn of(form: &Form, settings: &ImportSettings, assumed: &mut Vec<String>) -> Result<Self, Refusal> {
        let (mut given, mut dim) = (settings.num_heads, settings.num_head_channels);
        if form.is_classifier() && given.is_none() && dim.is_none() {
            dim = Some(or_default(None, "num_head_channels", CLASSIFIER_HEAD, assumed));
        }
        if let (None, None) = (given, dim) {
            given = Some(or_default(None, "num_heads", 4, assumed));
        }
        if let (None, Some(upsample), Some(heads)) = (dim, settings.num_heads_upsample, given)
            && upsample != heads
        {
            return Err(setting(
                &["num_heads_upsample"],
                format!(
                    "`num_heads_upsample` is {upsample} and `num_heads` {heads}; a UNet2DModel has as many heads on the way up"
                ),
            ));
        }
        // The mid block always attends.
        let last = form.channels.last().copied().unwrap_or(1);
        let attended = form
            .channels
            .iter()
            .zip(&form.attends)
            .filter(|(_, attends)| **attends)
            .map(|(&channels, _)| channels);
        let attended: Vec<usize> = attended.chain([last]).collect();
        // As theirs, num_head_channels goes before num_heads.
        if let Some(dim) = dim {
            if let Some(channels) = attended.iter().find(|channels| dim == 0 || **channels % dim != 0) {
                return Err(setting(
                    &["num_head_channels"],
                    format!(
                        "`num_head_channels` is {dim}, which does not divide the {channels} channels of a level"
                    ),
                ));
            }
            return Ok(Self {
                dim: Some(dim),
                count: 1,
                several: attended.iter().any(|&channels| channels > dim),
            });
        }
        let count = given.unwrap_or(1);
        if let Some(channels) = attended.iter().find(|channels| count == 0 || **channels % count != 0) {
            return Err(setting(
                &["num_heads"],
                format!("`num_heads` is {count}, which does not divide the {channels} channels of a level"),
            ));
        }
        let is_one_size = attended.iter().all(|channels| *channels == last);
        Ok(Self { dim: (is_one_size && count > 1).then_some(last / count), count, several: count > 1 })
    }
}
