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
    format!("{} with {channels} channels", in_words([height, width]))
}

/// Whether one size is the other with height and width exchanged.
pub fn are_swapped([height, width]: [usize; 2], other: [usize; 2]) -> bool {
    height != width && other == [width, height]
}
