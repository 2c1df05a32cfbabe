//! Batches, read ahead on a background thread.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use rayon::prelude::*;

use super::order::{self, Order};
use super::{DataError, Dataset, ImageShape};
use crate::conditions::{CONDITION_IMAGE, Conditions};

/// Batches that wait in the channel; one more is being read.
const BATCHES_AHEAD: usize = 2;

/// Batches in memory at once: those read ahead, one that is being read, and one that is trained on.
pub(crate) const BATCHES_AT_ONCE: usize = BATCHES_AHEAD + 2;

/// Images and what is known of them, as a training step takes them.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// \[N, H, W, C\] in \[-1, 1\]
    pub images: Vec<f32>,
    /// Such as their classes, as indices into those of the dataset; nothing when the images carry no labels.
    pub conditions: Conditions,
}

impl Batch {
    /// Reads these images of a dataset, as they are.
    ///
    /// # Errors
    /// As [`Dataset::read`].
    pub fn read(
        dataset: &dyn Dataset,
        indices: impl ExactSizeIterator<Item = usize>,
    ) -> Result<Self, DataError> {
        let elements = dataset.image_shape().elements();
        let mut images = vec![0.0; indices.len() * elements];
        let mut conditions = Vec::with_capacity(indices.len());
        for (index, pixels) in indices.zip(images.chunks_exact_mut(elements)) {
            conditions.push(dataset.read(index, pixels)?);
        }
        Ok(Self { images, conditions: Conditions::stack(conditions) })
    }

    /// The class of each image `[N]`, as an index into those of the dataset; empty when the images carry no labels.
    pub fn labels(&self) -> &[u32] {
        self.conditions.class_labels().unwrap_or_default()
    }
}

/// Which batches to read.
#[derive(Clone, Debug)]
pub struct LoaderOptions {
    /// Images in a batch, at least 1; may be more than the dataset holds.
    pub batch_size: usize,
    /// Decides the order of the images, the mirroring and the shifts.
    pub seed: u64,
    /// The training step of the first batch; a resumed run passes the step it stopped at.
    pub first_step: u64,
    /// Mirror each image left to right with probability one half, and its condition image with it.
    pub random_flip: bool,
    /// Shift each image by up to so many pixels in each direction, after the mirroring, and its condition image with
    /// it; edges are repeated.
    pub random_shift: usize,
}

/// An endless stream of batches.
///
/// The batch of a step depends only on the dataset, the step and the options, without `first_step`. A loader that
/// starts at step k gives the batches that a loader from step 0 gives from its k-th batch on.
#[derive(Debug)]
pub struct Loader {
    name: String,
    /// `None` only while the loader is dropped.
    batches: Option<Receiver<Result<Batch, Failure>>>,
    /// The image at which it has stopped.
    failed_image: Option<usize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Loader {
    /// Starts reading.
    ///
    /// # Errors
    /// When the dataset or the batch is empty, the batch is too large for memory, or no thread can be started.
    pub fn new(dataset: Arc<dyn Dataset>, options: LoaderOptions) -> Result<Self, DataError> {
        let name = dataset.name().to_owned();
        if dataset.is_empty() || dataset.image_shape().elements() == 0 {
            return Err(DataError::Unfit {
                dataset: name,
                what: "number of images",
                expected: "at least 1".to_owned(),
                found: "none".to_owned(),
                advice: "choose another dataset".to_owned(),
            });
        }
        let bytes = options.batch_size.checked_mul(dataset.image_shape().elements() * size_of::<f32>());
        if options.batch_size == 0 || bytes.is_none_or(|bytes| bytes > isize::MAX as usize) {
            return Err(batch_size_error(&name, options.batch_size));
        }

        let (sender, batches) = sync_channel(BATCHES_AHEAD);
        let stop = Arc::new(AtomicBool::new(false));
        let reader = Reader { dataset, options, stop: Arc::clone(&stop) };
        let thread = thread::Builder::new()
            .name("data-loader".to_owned())
            .spawn(move || reader.run(&sender))
            .map_err(|source| DataError::Io { path: name.clone().into(), source })?;
        Ok(Self { name, batches: Some(batches), failed_image: None, stop, thread: Some(thread) })
    }

    /// Waits for the batch of the next step.
    ///
    /// # Errors
    /// When an image of the batch cannot be read; the loader stops there, and every later call is an error too.
    // not an iterator: the stream has no end, so `None` would have no meaning
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Batch, DataError> {
        let batch = self.batches.as_ref().and_then(|batches| batches.recv().ok());
        match batch {
            Some(Ok(batch)) => Ok(batch),
            Some(Err(Failure { image, error })) => {
                self.failed_image = image;
                Err(error)
            }
            None => Err(DataError::Stopped { dataset: self.name.clone() }),
        }
    }

    /// The index of the image that could not be read, after [`next`](Self::next) has failed because of one.
    pub fn failed_image(&self) -> Option<usize> {
        self.failed_image
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // a thread that waits to send wakes up with an error
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            // every panic of a dataset is caught in the thread and sent as an error
            let _ = thread.join();
        }
    }
}

/// Why there is no further batch.
struct Failure {
    /// The image that could not be read, where it is because of one.
    image: Option<usize>,
    error: DataError,
}

impl From<DataError> for Failure {
    fn from(error: DataError) -> Self {
        Self { image: None, error }
    }
}

/// The background thread's side.
struct Reader {
    dataset: Arc<dyn Dataset>,
    options: LoaderOptions,
    stop: Arc<AtomicBool>,
}

impl Reader {
    fn run(&self, sender: &SyncSender<Result<Batch, Failure>>) {
        let mut order = Order::new(self.options.seed, self.dataset.len());
        for step in self.options.first_step.. {
            let batch =
                catch_unwind(AssertUnwindSafe(|| self.read(&mut order, step))).unwrap_or_else(|payload| {
                    let dataset = self.dataset.name().to_owned();
                    let message = panic_message(payload.as_ref());
                    Err(DataError::Panicked { dataset, step, message }.into())
                });
            let last = batch.is_err();
            if self.stop.load(Ordering::Relaxed) || sender.send(batch).is_err() || last {
                return;
            }
        }
    }

    fn read(&self, order: &mut Order, step: u64) -> Result<Batch, Failure> {
        let LoaderOptions { batch_size, seed, random_flip, random_shift, .. } = self.options;
        let shape = self.dataset.image_shape();
        let flips = if random_flip { order::flips(seed, step, batch_size) } else { vec![false; batch_size] };

        let shifts = order::shifts(seed, step, batch_size, random_shift);

        // a batch that does not fit in memory is an error rather than an abort
        let mut images = Vec::new();
        images
            .try_reserve_exact(batch_size * shape.elements())
            .map_err(|_| batch_size_error(self.dataset.name(), batch_size))?;
        images.resize(batch_size * shape.elements(), 0.0);
        let indices = order.batch(step, batch_size);
        let conditions: Vec<Result<Conditions, Failure>> = images
            .par_chunks_exact_mut(shape.elements())
            .zip(indices.into_par_iter().zip(flips).zip(shifts))
            .map(|(pixels, ((index, flip), by))| {
                // a dropped loader does not wait for the rest of its batch
                if self.stop.load(Ordering::Relaxed) {
                    return Err(DataError::Stopped { dataset: self.dataset.name().to_owned() }.into());
                }
                let read = self.dataset.read(index, pixels);
                let mut conditions = read.map_err(|error| Failure { image: Some(index), error })?;
                let condition_image =
                    self.dataset.condition_image().zip(conditions.floats_mut(CONDITION_IMAGE));
                for (shape, pixels) in [(shape, pixels)].into_iter().chain(condition_image) {
                    if flip {
                        mirror(pixels, shape.width, shape.channels);
                    }
                    if by != [0, 0] {
                        shift(pixels, shape, by);
                    }
                }
                Ok(conditions)
            })
            .collect();
        // in the order of the batch, so that of several errors the same one is reported each time
        let conditions: Vec<Conditions> = conditions.into_iter().collect::<Result<_, Failure>>()?;
        Ok(Batch { images, conditions: Conditions::stack(conditions) })
    }
}

fn batch_size_error(dataset: &str, batch_size: usize) -> DataError {
    DataError::BatchSize { dataset: dataset.to_owned(), batch_size }
}

/// Mirrors an image \[H, W, C\] left to right.
fn mirror(pixels: &mut [f32], width: usize, channels: usize) {
    for row in pixels.chunks_exact_mut(width * channels) {
        for left in 0..width / 2 {
            let right = width - 1 - left;
            for channel in 0..channels {
                row.swap(left * channels + channel, right * channels + channel);
            }
        }
    }
}

/// Shifts an image \[H, W, C\] down and to the right; what comes in is the edge again.
fn shift(pixels: &mut [f32], shape: ImageShape, [down, right]: [isize; 2]) {
    let ImageShape { channels, height, width } = shape;
    let original = pixels.to_vec();
    let from = |at: usize, by: isize, size: usize| at.saturating_add_signed(-by).min(size - 1);
    for (y, row) in pixels.chunks_exact_mut(width * channels).enumerate() {
        for (x, pixel) in row.chunks_exact_mut(channels).enumerate() {
            let at = (from(y, down, height) * width + from(x, right, width)) * channels;
            pixel.copy_from_slice(&original[at..at + channels]);
        }
    }
}

/// The text of a panic, where it has one.
fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod tests;
