//! What a network is told of each image beside x_t and the timestep: named tensors, from the dataset to the graph.

use std::collections::BTreeMap;
use std::ops::Range;

/// The condition with the class of each image, by the name that diffusers' networks have for it.
pub const CLASS_LABELS: &str = "class_labels";

/// The condition with an image of the size of each image, which the network takes as further channels: `[N, H, W, C]`,
/// such as a sketch (Saharia et al. 2022, "Palette"), or a smaller image, enlarged (Ho et al. 2021, "Cascaded diffusion
/// models").
pub const CONDITION_IMAGE: &str = "condition_image";

/// The numbers of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Numbers {
    /// Such as embeddings, and images.
    Floats(Vec<f32>),
    /// Such as classes.
    Whole(Vec<u32>),
}

impl Numbers {
    fn len(&self) -> usize {
        match self {
            Self::Floats(numbers) => numbers.len(),
            Self::Whole(numbers) => numbers.len(),
        }
    }

    fn range(&self, range: Range<usize>) -> Self {
        match self {
            Self::Floats(numbers) => Self::Floats(numbers[range].to_vec()),
            Self::Whole(numbers) => Self::Whole(numbers[range].to_vec()),
        }
    }

    fn resize(&mut self, length: usize) {
        match self {
            Self::Floats(numbers) => numbers.resize(length, 0.0),
            Self::Whole(numbers) => numbers.resize(length, 0),
        }
    }

    /// Appends numbers of the same kind; gives whether they were.
    fn append(&mut self, more: &Self) -> bool {
        match (self, more) {
            (Self::Floats(numbers), Self::Floats(more)) => numbers.extend(more),
            (Self::Whole(numbers), Self::Whole(more)) => numbers.extend(more),
            _ => return false,
        }
        true
    }
}

/// A tensor with a row for each image.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// Elements of a row.
    elements: usize,
    /// `[N, elements]`
    numbers: Numbers,
}

impl Condition {
    /// A tensor of rows of `elements` numbers each; `None` for numbers that are no whole rows.
    pub fn new(elements: usize, numbers: Numbers) -> Option<Self> {
        numbers.len().is_multiple_of(elements.max(1)).then_some(Self { elements: elements.max(1), numbers })
    }

    /// A class for each row.
    pub fn classes(labels: Vec<u32>) -> Self {
        Self { elements: 1, numbers: Numbers::Whole(labels) }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.numbers.len() / self.elements
    }

    /// Elements of a row.
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// Its rows and then those of another one of the same kind and size; of any other, nothing more.
    #[must_use]
    pub fn followed_by(mut self, other: &Self) -> Self {
        if self.elements == other.elements {
            self.numbers.append(&other.numbers);
        }
        self
    }

    /// All numbers, row by row.
    pub fn numbers(&self) -> &Numbers {
        &self.numbers
    }
}

/// What a batch of images is told, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conditions(BTreeMap<String, Condition>);

impl Conditions {
    /// The class of each image, or nothing.
    pub fn of_classes(labels: Option<Vec<u32>>) -> Self {
        let none = Self::default();
        match labels {
            Some(labels) => none.with(CLASS_LABELS, Condition::classes(labels)),
            None => none,
        }
    }

    /// The class of one image, or nothing.
    pub fn of_class(label: Option<u32>) -> Self {
        Self::of_classes(label.map(|label| vec![label]))
    }

    /// These and one more, in place of one of the same name.
    #[must_use]
    pub fn with(mut self, name: &str, condition: Condition) -> Self {
        self.0.insert(name.to_owned(), condition);
        self
    }

    /// These and others, in place of those of the same names.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }

    /// These without one of a name.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.0.remove(name);
        self
    }

    /// The one of a name.
    pub fn get(&self, name: &str) -> Option<&Condition> {
        self.0.get(name)
    }

    /// The floats of one of a name, to be changed.
    pub fn floats_mut(&mut self, name: &str) -> Option<&mut [f32]> {
        match &mut self.0.get_mut(name)?.numbers {
            Numbers::Floats(numbers) => Some(numbers),
            Numbers::Whole(_) => None,
        }
    }

    /// All of them with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Condition)> {
        self.0.iter().map(|(name, condition)| (name.as_str(), condition))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The class of each image, where there are classes.
    pub fn class_labels(&self) -> Option<&[u32]> {
        match &self.0.get(CLASS_LABELS)?.numbers {
            Numbers::Whole(labels) => Some(labels),
            Numbers::Floats(_) => None,
        }
    }

    fn map(&self, each: impl Fn(&Condition) -> Condition) -> Self {
        Self(self.0.iter().map(|(name, condition)| (name.clone(), each(condition))).collect())
    }

    /// The rows of some of the images; images beyond the last have none.
    pub fn rows(&self, images: Range<usize>) -> Self {
        self.map(|condition| {
            let end = images.end.min(condition.rows());
            let range = images.start.min(end) * condition.elements..end * condition.elements;
            Condition { elements: condition.elements, numbers: condition.numbers.range(range) }
        })
    }

    /// So many rows: the first ones, or these and then zeros.
    pub fn resized(&self, images: usize) -> Self {
        self.map(|condition| {
            let mut condition = condition.clone();
            condition.numbers.resize(images * condition.elements);
            condition
        })
    }

    /// The rows of one after the other. A condition that one of them lacks is left out.
    pub fn stack(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut parts = parts.into_iter();
        let mut all = parts.next().unwrap_or_default();
        for part in parts {
            all.0.retain(|name, condition| {
                let more = part.get(name).filter(|more| more.elements == condition.elements);
                more.is_some_and(|more| condition.numbers.append(&more.numbers))
            });
        }
        all
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn embeddings(rows: Range<u16>) -> Condition {
        let numbers = rows.flat_map(|row| [f32::from(row), -f32::from(row)]).collect();
        Condition::new(2, Numbers::Floats(numbers)).unwrap()
    }

    #[test]
    fn numbers_that_are_no_whole_rows_are_no_condition() {
        assert_eq!(Condition::new(2, Numbers::Whole(vec![1, 2, 3])), None);
    }

    #[test]
    fn rows_are_taken_and_stacked_of_every_condition() {
        let all = Conditions::of_classes(Some(vec![7, 8, 9])).with("embeddings", embeddings(1..4));
        let parts = (0..3).map(|row| all.rows(row..row + 1));
        assert_eq!(Conditions::stack(parts), all);
        let last = all.rows(2..3).resized(2);
        assert_eq!(last.class_labels(), Some(&[9, 0][..]));
        assert_eq!(
            last.get("embeddings").map(Condition::numbers),
            Some(&Numbers::Floats(vec![3.0, -3.0, 0.0, 0.0]))
        );
        assert_eq!(all.rows(2..9).class_labels(), Some(&[9][..]));
    }

    #[test]
    fn a_condition_that_one_image_lacks_is_left_out() {
        let labelled = Conditions::of_classes(Some(vec![1])).with("embeddings", embeddings(0..1));
        let stacked = Conditions::stack([labelled.clone(), labelled.without(CLASS_LABELS)]);
        assert_eq!((stacked.class_labels(), stacked.get("embeddings").map(Condition::rows)), (None, Some(2)));
    }
}
