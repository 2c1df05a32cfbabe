//! How good and how varied generated images are, beside those of a data set, in the eyes of a classifier.

use serde::Serialize;

use super::EvaluateError;
use super::features::{FeatureNetwork, Features};
use super::frechet::Gaussian;
use super::precision_recall::{NEIGHBOUR, precision_and_recall};
use crate::data::{Batch, Dataset};
use crate::device::Device;
use crate::image_size::image_in_words;
use crate::pipeline::Pipeline;
use crate::sample::Images;

/// What is measured of a set of images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quality {
    /// The share of images that the classifier gives the class asked for; `None` where none was.
    pub accuracy: Option<f64>,
    /// The Frechet distance between the features of these images and of all images of the data set.
    pub frechet_distance: f64,
    /// The share of images that are among the real ones, of which as many are taken.
    pub precision: f64,
    /// The share of as many real images that are among these: how much of the data set's variety they have.
    pub recall: f64,
}

/// A data set as a classifier sees it, to compare images with.
pub struct Evaluator {
    network: FeatureNetwork,
    classes: usize,
    /// `[H, W, C]`
    image: [usize; 3],
    reference: Features,
    gaussian: Gaussian,
    accuracy: Option<f64>,
}

impl Evaluator {
    /// Gives all images of `dataset` to `classifier`, `batch_size` at once; `progress` is called with how many are done.
    ///
    /// # Errors
    /// [`EvaluateError`] for images or classes that are not those of the classifier, and for too few images.
    pub async fn new(
        device: &Device,
        classifier: &Pipeline,
        dataset: &dyn Dataset,
        batch_size: usize,
        progress: &mut (dyn FnMut(usize) + Send),
    ) -> Result<Self, EvaluateError> {
        let fault = |text: String| Err(EvaluateError::Request(text));
        if batch_size == 0 {
            return fault("the batch size must be at least 1".to_owned());
        }
        let classifier = classifier.classifier()?;
        let image = classifier.network.image()?;
        let shape = dataset.image_shape();
        check_image("the classifier", image, dataset.name(), [shape.height, shape.width, shape.channels])?;
        let classes = classifier.network.classes_told()?;
        let known = dataset.classes().len();
        if known != 0 && known != classes {
            return fault(format!("the classifier knows {classes} classes, {} has {known}", dataset.name()));
        }
        check_count(dataset.name(), dataset.len())?;
        let mut network = FeatureNetwork::new(device, classifier, batch_size).await?;
        let mut reference = Features::default();
        let mut right = 0;
        for first in (0..dataset.len()).step_by(batch_size) {
            let count = batch_size.min(dataset.len() - first);
            let batch = Batch::read(dataset, first..first + count)?;
            let predicted = network.extract(&batch.images, &mut reference).await?;
            right += equal(&predicted, batch.labels());
            progress(first + count);
        }
        let accuracy = (known != 0).then(|| right as f64 / dataset.len() as f64);
        let gaussian = Gaussian::fit(&reference);
        Ok(Self { network, classes, image, reference, gaussian, accuracy })
    }

    /// The share of the data set's own images that are given their class, where they have any.
    pub fn reference_accuracy(&self) -> Option<f64> {
        self.accuracy
    }

    /// Measures images, for which the classes `labels` were asked.
    ///
    /// # Errors
    /// [`EvaluateError`] for images or classes that are not those of the classifier, and for too few images.
    pub async fn measure(
        &mut self,
        images: &Images,
        labels: Option<&[u32]>,
    ) -> Result<Quality, EvaluateError> {
        let [count, height, width, channels] = images.shape;
        check_image("the classifier", self.image, "what is measured", [height, width, channels])?;
        check_count("what is measured", count)?;
        if let Some(label) = labels.unwrap_or_default().iter().find(|&&label| label as usize >= self.classes)
        {
            return Err(EvaluateError::Request(format!(
                "class {label} was asked for; the classifier knows classes 0 to {}",
                self.classes - 1
            )));
        }
        if images.data.iter().any(|value| !value.is_finite()) {
            return Err(EvaluateError::NotFinite {
                what: "a pixel of the images that are measured".to_owned(),
            });
        }
        let mut features = Features::default();
        let predicted = self.network.extract(&images.data, &mut features).await?;
        let real = self.reference.spread(count.min(self.reference.len()));
        let [precision, recall] = precision_and_recall(&real, &features);
        let frechet_distance = Gaussian::fit(&features).frechet_distance(&self.gaussian);
        if !frechet_distance.is_finite() {
            let what = "the Frechet distance, from the classifier's features,".to_owned();
            return Err(EvaluateError::NotFinite { what });
        }
        Ok(Quality {
            accuracy: labels.map(|labels| equal(&predicted, labels) as f64 / count as f64),
            frechet_distance,
            precision,
            recall,
        })
    }
}

fn equal(predicted: &[u32], labels: &[u32]) -> usize {
    predicted.iter().zip(labels).filter(|(predicted, label)| predicted == label).count()
}

fn check_image(who: &str, known: [usize; 3], what: &str, found: [usize; 3]) -> Result<(), EvaluateError> {
    if known == found {
        return Ok(());
    }
    Err(EvaluateError::Request(format!(
        "{who} knows images of {}, {what} has {}",
        image_in_words(known),
        image_in_words(found)
    )))
}

fn check_count(what: &str, count: usize) -> Result<(), EvaluateError> {
    if count > NEIGHBOUR {
        return Ok(());
    }
    Err(EvaluateError::Request(format!("{what} has {count} images; at least {} are needed", NEIGHBOUR + 1)))
}
