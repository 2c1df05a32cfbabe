//! How large a network may be: far above any in use, and low enough that every size can be multiplied, and the graph be
//! built, before memory is taken.

use super::UNetConfig;
use super::time_embedding::TimeEmbedding;
use crate::image_size::LARGEST_SIDE;
use crate::network::ModelError;
use crate::network::error::unsupported;
use crate::network::parameters::CLASSES;

/// Most channels of a level, of x_t and of the output.
const CHANNELS: usize = 1 << 16;
/// Most residual blocks of the whole network.
const RESIDUAL_BLOCKS: usize = 1024;

/// Refuses a configuration whose sizes are out of bounds.
pub(super) fn check_sizes(config: &UNetConfig) -> Result<(), ModelError> {
    let at_most = |key: &str, value: usize, most: usize| match value <= most {
        true => Ok(()),
        false => Err(unsupported(key, value, format!("it must be at most {most}"))),
    };
    for size in config.image_size()? {
        at_most("sample_size", size, LARGEST_SIDE)?;
    }
    at_most("in_channels", config.in_channels, CHANNELS)?;
    at_most("out_channels", config.out_channels, CHANNELS)?;
    for &channels in &config.block_out_channels {
        at_most("block_out_channels", channels, CHANNELS)?;
    }
    at_most("time_embedding_dim", config.time_embed_dim(), 4 * CHANNELS)?;
    at_most("num_class_embeds", config.num_class_embeds.unwrap_or(0), CLASSES)?;
    if let TimeEmbedding::Learned { timesteps } = config.time_embedding()? {
        at_most("num_train_timesteps", timesteps, CLASSES)?;
    }
    // A level has so many residual blocks on the way down, and one more on the way up.
    let of_level = config.layers_per_block.saturating_mul(2).saturating_add(1);
    if of_level.saturating_mul(config.levels()) > RESIDUAL_BLOCKS {
        let levels = config.levels();
        let expected = format!(
            "{levels} levels of 2 x {0} + 1 residual blocks are more than {RESIDUAL_BLOCKS}",
            config.layers_per_block
        );
        return Err(unsupported("layers_per_block", config.layers_per_block, expected));
    }
    Ok(())
}
