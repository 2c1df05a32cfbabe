//! Animated PNG files, which browsers play and other viewers show as their first frame.

use std::io;
use std::path::Path;

use super::atomic::write_atomically;
use super::{Grid, OutputError, unfit};

/// How long frames are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameTimes {
    /// Every frame but the last, in milliseconds.
    pub each_ms: u16,
    /// The last frame, in milliseconds.
    pub last_ms: u16,
}

impl Default for FrameTimes {
    /// 80 ms a frame, 2 s for the finished images.
    fn default() -> Self {
        Self { each_ms: 80, last_ms: 2000 }
    }
}

/// Writes an animated PNG file that loops for ever over `frames`.
///
/// # Errors
/// [`OutputError::Unfit`] if there is no frame or if their sizes differ; [`OutputError::Write`] or
/// [`OutputError::NoFile`] if the file cannot be written.
pub fn write_animation(path: &Path, frames: &[Grid], times: FrameTimes) -> Result<(), OutputError> {
    let Some((first, rest)) = frames.split_first() else {
        return Err(unfit("at least one frame", "none"));
    };
    let size = |grid: &Grid| [grid.width, grid.height, grid.channels];
    if let Some(other) = rest.iter().find(|&frame| size(frame) != size(first)) {
        let expected = format!("frames of one size ([width, height, channels] = {:?})", size(first));
        return Err(unfit(expected, format!("{:?}", size(other))));
    }
    let count = u32::try_from(frames.len()).map_err(|_| unfit("fewer frames", frames.len().to_string()))?;

    write_atomically(path, |file| {
        let mut encoder = first.encoder(file);
        encoder.set_animated(count, 0)?;
        let mut writer = encoder.write_header()?;
        for (i, frame) in frames.iter().enumerate() {
            let last = i + 1 == frames.len();
            writer.set_frame_delay(if last { times.last_ms } else { times.each_ms }, 1000)?;
            writer.write_image_data(&frame.pixels)?;
        }
        writer.finish().map_err(io::Error::from)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs::File;
    use std::io::BufReader;

    use super::*;
    use crate::output::{GridOptions, tile};

    fn frames(count: usize, channels: usize) -> Vec<Grid> {
        let frame = |i: usize| {
            let images: Vec<f32> = (0..128 * channels).map(|j| ((i * 977 + j) as f32 * 0.37).sin()).collect();
            tile(&images, [2, 8, 8, channels], &GridOptions::default()).unwrap()
        };
        (0..count).map(frame).collect()
    }

    #[test]
    fn round_trip() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        for (count, channels) in [(1, 3), (2, 1), (7, 3)] {
            let frames = frames(count, channels);
            write_animation(&path, &frames, FrameTimes { each_ms: 40, last_ms: 1500 }).unwrap();

            let mut reader =
                png::Decoder::new(BufReader::new(File::open(&path).unwrap())).read_info().unwrap();
            let control = *reader.info().animation_control().unwrap();
            assert_eq!((control.num_frames, control.num_plays), (count as u32, 0));
            for (i, frame) in frames.iter().enumerate() {
                let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
                reader.next_frame(&mut pixels).unwrap();
                assert_eq!(pixels, frame.pixels, "frame {i} of {count}");
                let shown = reader.info().frame_control().unwrap();
                let expected = if i + 1 == count { 1500 } else { 40 };
                assert_eq!((shown.delay_num, shown.delay_den), (expected, 1000));
            }
        }
    }

    #[test]
    fn refuses_frames_that_do_not_match() {
        let path = Path::new("never written.png");
        let none = write_animation(path, &[], FrameTimes::default()).unwrap_err().to_string();
        assert!(none.contains("at least one frame"), "{none}");
        let mixed = [frames(1, 1), frames(1, 3)].concat();
        let mixed = write_animation(path, &mixed, FrameTimes::default()).unwrap_err().to_string();
        assert!(mixed.contains("frames of one size"), "{mixed}");
        assert!(!path.exists());
    }
}
