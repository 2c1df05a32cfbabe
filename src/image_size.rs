//! The size of images: `[height, width]` in code, as arrays and diffusers' `sample_size` have it; for people
//! WIDTHxHEIGHT, as image programs write it.

/// The largest height and width of images. With three channels, such an image takes less than 1 GiB as floats.
pub const LARGEST_SIDE: usize = 8192;

/// `64x32` for a height of 32 and a width of 64.
pub fn in_words([height, width]: [usize; 2]) -> String {
    format!("{width}x{height}")
}

/// Size and channels of images `[H, W, C]`, in words.
pub fn image_in_words([height, width, channels]: [usize; 3]) -> String {
    let channels = match channels {
        1 => "1 channel".to_owned(),
        channels => format!("{channels} channels"),
    };
    format!("{} with {channels}", in_words([height, width]))
}

/// Whether one size is the other with height and width exchanged.
pub fn are_swapped([height, width]: [usize; 2], other: [usize; 2]) -> bool {
    height != width && other == [width, height]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_the_width_first_and_one_channel_in_the_singular() {
        assert_eq!(image_in_words([28, 14, 1]), "14x28 with 1 channel");
        assert_eq!(image_in_words([28, 14, 5]), "14x28 with 5 channels");
    }
}
