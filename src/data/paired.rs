//! Images with a condition image each: two data sets as one.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::{ArrayOrder, Content, DataError, Dataset, ImageShape, Original, PassedOver, Skipped};
use crate::conditions::{CONDITION_IMAGE, Condition, Conditions, Numbers};

/// Keys that a message names.
const NAMED: usize = 3;

/// Images to draw, each with an image that the network is given beside it.
///
/// Two folders are paired by the names of their files without the endings: `photos/a/1.jpg` and `sketches/a/1.png`.
/// Files of many images are paired in their order, and must hold as many.
pub struct Paired {
    images: Arc<dyn Dataset>,
    conditions: Arc<dyn Dataset>,
    /// The images that have a condition image.
    indices: Vec<usize>,
    /// For each of them, its condition image.
    partners: Vec<usize>,
    /// How many [`contents`](Dataset::contents) are those of images, once these have been read.
    contents_of_images: OnceLock<usize>,
}

impl Paired {
    /// Pairs the images of a data set with those of another.
    ///
    /// # Errors
    /// [`DataError::Unpaired`], which names images that have no partner, and [`DataError::Unfit`] for images of
    /// different sizes.
    pub fn new(images: Arc<dyn Dataset>, conditions: Arc<dyn Dataset>) -> Result<Self, DataError> {
        let (of_images, of_conditions) = (images.image_shape(), conditions.image_shape());
        if (of_images.height, of_images.width) != (of_conditions.height, of_conditions.width) {
            return Err(DataError::Unfit {
                dataset: conditions.name().to_owned(),
                what: "image size",
                expected: format!("{}x{}, that of {}", of_images.width, of_images.height, images.name()),
                found: format!("{}x{}", of_conditions.width, of_conditions.height),
                advice: "give condition images of the same size".to_owned(),
            });
        }
        let (indices, partners) = partners(images.as_ref(), conditions.as_ref())?;
        Ok(Self { images, conditions, indices, partners, contents_of_images: OnceLock::new() })
    }

    /// Says how many condition images belong to no image, where there are any.
    pub fn unused(&self) -> Option<String> {
        let unused = self.conditions.len() - self.partners.len();
        let images = if unused == 1 { "image belongs" } else { "images belong" };
        let (conditions, name) = (self.conditions.name(), self.images.name());
        (unused > 0)
            .then(|| format!("{conditions}: {unused} {images} to none of {name} and will not be used"))
    }
}

/// The keys of all images of a data set; `None` where it has none.
fn keys(dataset: &dyn Dataset) -> Option<Vec<String>> {
    (0..dataset.len()).map(|index| dataset.key(index)).collect()
}

/// Says that two data sets do not go together, and why.
fn unpaired(images: &dyn Dataset, conditions: &dyn Dataset, reason: String, advice: &str) -> DataError {
    DataError::Unpaired {
        images: images.name().to_owned(),
        conditions: conditions.name().to_owned(),
        reason,
        advice: advice.to_owned(),
    }
}

/// The images that have a condition image, and the number of it for each.
fn partners(images: &dyn Dataset, conditions: &dyn Dataset) -> Result<(Vec<usize>, Vec<usize>), DataError> {
    let fault = |reason, advice| Err(unpaired(images, conditions, reason, advice));
    let (keys, keys_of_conditions) = match (keys(images), keys(conditions)) {
        (Some(keys), Some(others)) => (keys, others),
        (None, None) if images.len() == conditions.len() => {
            return Ok(((0..images.len()).collect(), (0..images.len()).collect()));
        }
        (None, None) => {
            let reason =
                format!("there are {} condition images for {} images", conditions.len(), images.len());
            return fault(reason, "files of many images are paired in their order: give as many of both");
        }
        _ => {
            let reason = "one of the two is a folder of image files, and the other is not".to_owned();
            return fault(
                reason,
                "give two folders, which are paired by the names of their files, or two arrays",
            );
        }
    };
    let mut by_key = HashMap::new();
    for (index, key) in keys_of_conditions.iter().enumerate() {
        if let Some(earlier) = by_key.insert(key.as_str(), index) {
            let (first, second) = (conditions.location(earlier), conditions.location(index));
            return fault(format!("{first} and {second} are of the same name"), "remove one of them");
        }
    }
    let mut missing = Vec::new();
    let (mut indices, mut found) = (Vec::new(), Vec::new());
    let is_skipped = |key: &str| {
        let path = Path::new(conditions.name()).join(key);
        conditions.skipped().iter().any(|skipped| skipped.path.with_extension("") == path)
    };
    for (index, key) in keys.iter().enumerate() {
        match by_key.get(key.as_str()) {
            Some(&partner) => {
                indices.push(index);
                found.push(partner);
            }
            // It was bad, and such images are to be left out: so is the pair.
            None if is_skipped(key) => {}
            None => missing.push(key.as_str()),
        }
    }
    if !missing.is_empty() || indices.is_empty() {
        let named = missing.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
        let more = if missing.len() > NAMED { ", ..." } else { "" };
        let reason = format!(
            "{} of {} images have no condition image of their name: {named}{more}; the condition images are called {}",
            missing.len(),
            images.len(),
            keys_of_conditions.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ")
        );
        return fault(reason, "call both files of a pair the same but for the ending");
    }
    Ok((indices, found))
}

impl Dataset for Paired {
    fn name(&self) -> &str {
        self.images.name()
    }

    fn len(&self) -> usize {
        self.indices.len()
    }

    fn image_shape(&self) -> ImageShape {
        self.images.image_shape()
    }

    fn condition_image(&self) -> Option<ImageShape> {
        Some(self.conditions.image_shape())
    }

    fn classes(&self) -> &[String] {
        self.images.classes()
    }

    fn read(&self, index: usize, pixels: &mut [f32]) -> Result<Conditions, DataError> {
        let told = self.images.read(self.indices[index], pixels)?;
        let mut image = vec![0.0; self.conditions.image_shape().elements()];
        self.conditions.read(self.partners[index], &mut image)?;
        let condition = Condition::new(image.len(), Numbers::Floats(image));
        Ok(condition.map_or(told.clone(), |condition| told.with(CONDITION_IMAGE, condition)))
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.images.label(self.indices[index])
    }

    fn original(&self, index: usize) -> Result<Original, DataError> {
        self.images.original(self.indices[index])
    }

    fn location(&self, index: usize) -> String {
        let condition = self.conditions.location(self.partners[index]);
        format!("{} with {condition}", self.images.location(self.indices[index]))
    }

    fn understood(&self) -> Option<&str> {
        self.images.understood()
    }

    fn other_order(&self) -> Option<ArrayOrder> {
        self.images.other_order()
    }

    fn skipped(&self) -> &[Skipped] {
        self.images.skipped()
    }

    fn passed_over(&self) -> &[PassedOver] {
        self.images.passed_over()
    }

    fn check(&self) -> Result<(), DataError> {
        self.images.check()?;
        self.conditions.check()
    }

    /// Those of the images, and then those of the condition images.
    fn contents(&self) -> Result<Vec<Content>, DataError> {
        let images = self.images.contents()?;
        self.contents_of_images.get_or_init(|| images.len());
        Ok([images, self.conditions.contents()?].concat())
    }

    fn content_location(&self, position: usize) -> String {
        let of_images = self.contents_of_images.get().copied().unwrap_or(usize::MAX);
        match position.checked_sub(of_images) {
            Some(position) => self.conditions.content_location(position),
            None => self.images.content_location(position),
        }
    }

    fn content_position(&self, index: usize) -> usize {
        self.images.content_position(self.indices[index])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)] // a panic is how a test fails
mod tests;
