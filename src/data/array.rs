//! Pictures of one size that lie end to end in memory.

use std::path::PathBuf;

use super::DataError;
use super::axes::ArrayOrder;
use super::format::Pictures;
use super::picture::{Layout, Picture, Samples};

/// Pictures of one size in memory.
pub(super) struct Array {
    /// The files that they come from.
    pub(super) files: Vec<PathBuf>,
    pub(super) classes: Vec<String>,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) layout: Layout,
    /// Whether the channels of a picture lie one after another, \[C, H, W\]; else \[H, W, C\].
    pub(super) planar: bool,
    /// Pictures end to end.
    pub(super) values: Samples,
    /// What numbers and axes were taken for, where there was a choice.
    pub(super) understood: Option<String>,
    /// The order that the axes may have instead.
    pub(super) other_order: Option<ArrayOrder>,
    /// \[N\], or empty without labels.
    pub(super) labels: Vec<u32>,
}

impl Array {
    fn elements(&self) -> usize {
        self.height * self.width * self.layout.channels()
    }

    /// The values of one picture, \[H, W, C\].
    fn interleaved<T: Copy>(&self, values: &[T], index: usize) -> Vec<T> {
        let values = &values[index * self.elements()..][..self.elements()];
        if !self.planar {
            return values.to_vec();
        }
        let plane = self.height * self.width;
        (0..plane).flat_map(|pixel| values[pixel..].iter().step_by(plane).copied()).collect()
    }
}

impl Pictures for Array {
    fn len(&self) -> usize {
        self.values.len() / self.elements()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.labels.get(index).copied()
    }

    fn decode(&self, index: usize) -> Result<Picture, DataError> {
        let samples = match &self.values {
            Samples::Eight(values) => Samples::Eight(self.interleaved(values, index)),
            Samples::Sixteen(values) => Samples::Sixteen(self.interleaved(values, index)),
            Samples::Float(values) => Samples::Float(self.interleaved(values, index)),
        };
        Ok(Picture { width: self.width, height: self.height, layout: self.layout, palette: false, samples })
    }

    fn location(&self, index: usize) -> PathBuf {
        let path = self.files.first().map(|path| path.display().to_string()).unwrap_or_default();
        format!("{path} [{index}]").into()
    }

    fn files(&self) -> Vec<PathBuf> {
        self.files.clone()
    }

    fn channels(&self) -> usize {
        self.layout.colour_channels()
    }

    fn offered_channels(&self) -> Vec<usize> {
        match self.layout {
            Layout::Planes(channels) => vec![channels],
            _ => vec![1, 3],
        }
    }

    fn size(&self) -> Option<[usize; 2]> {
        Some([self.height, self.width])
    }

    fn other_order(&self) -> Option<ArrayOrder> {
        self.other_order
    }

    fn understood(&self) -> Option<&str> {
        self.understood.as_deref()
    }

    fn is_decoded(&self) -> bool {
        true
    }
}
