//! What a network is to the rest of the engine: a configuration, named inputs, named outputs, and a function that
//! builds it in a graph.

use std::fmt::Debug;
use std::sync::Arc;

use super::parameters::check_parameters;
use super::weights::check_tensors;
use super::{
    Adapted, LOGITS, ModelError, Precision, SuperResolution, Tensors, WeightsError, initial_weights,
    to_tensors,
};
use crate::conditions::{Condition, Conditions, Numbers};
use crate::device::{DeviceError, Executor};
use crate::graph::{DType, Graph, TensorType, ValueId};
use crate::ops;

/// The name of the images in the inputs, and of a denoiser's prediction in the outputs.
pub const SAMPLE: &str = "sample";
/// The input with the timestep of each image.
pub const TIMESTEPS: &str = "timesteps";
pub use crate::conditions::{CLASS_LABELS, CONDITION_IMAGE};

/// What the numbers of an input are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// Floats that are stored in the network's precision: images.
    Activation,
    /// 32-bit floats, whatever the precision: timesteps.
    Float,
    /// Numbers from 0 to `count` - 1.
    Class {
        /// How many classes there are.
        count: usize,
        /// The class that means "no class", where one does (Ho and Salimans 2022).
        none: Option<u32>,
    },
}

/// An input of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Its name, as in diffusers' `forward`.
    pub name: &'static str,
    /// Its shape for one image: `[H, W, C]` for images, nothing for a number.
    pub shape: Vec<usize>,
    /// What its numbers are.
    pub element: Element,
}

impl Input {
    /// Its type for a batch, as the host writes it.
    pub fn ty(&self, batch: usize) -> TensorType {
        let shape = [&[batch], self.shape.as_slice()].concat();
        match self.element {
            Element::Activation | Element::Float => TensorType::f32(shape),
            Element::Class { .. } => TensorType::u32(shape),
        }
    }

    /// Elements of one image.
    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Its name, in the plural.
    fn in_words(&self) -> &'static str {
        match self.name {
            CLASS_LABELS => "class labels",
            CONDITION_IMAGE => "condition images",
            other => other,
        }
    }

    /// Refuses what is not for so many images, or not among the classes; in one sentence.
    fn check(&self, condition: &Condition, images: usize) -> Result<(), String> {
        let name = self.in_words();
        if condition.rows() != images {
            return Err(format!("there are {} {name} for {images} images", condition.rows()));
        }
        match (self.element, condition.numbers()) {
            // The class that means none can be asked for as well.
            (Element::Class { count, .. }, Numbers::Whole(labels)) => {
                match labels.iter().find(|&&label| label as usize >= count) {
                    Some(label) => Err(format!(
                        "there is no class {label}; the model has classes 0 to {}",
                        count.saturating_sub(1)
                    )),
                    None => Ok(()),
                }
            }
            (Element::Activation | Element::Float, Numbers::Floats(_))
            | (Element::Float, Numbers::Whole(_))
                if condition.elements() == self.elements() =>
            {
                Ok(())
            }
            _ => Err(format!("{name} are not of the shape {:?} that the model takes", self.shape)),
        }
    }

    /// Whether there is a value of it that means "told nothing".
    pub fn has_unconditional(&self) -> bool {
        matches!(self.element, Element::Class { none: Some(_), .. })
    }

    /// The condition of the unconditional half in classifier-free guidance: the class that means none. Inputs without
    /// one keep theirs.
    pub fn unconditional(&self, condition: &Condition) -> Condition {
        match self.element {
            Element::Class { none: Some(none), .. } => Condition::classes(vec![none; condition.rows()]),
            _ => condition.clone(),
        }
    }

    /// Sets it in a graph where it is `value`.
    ///
    /// # Errors
    /// [`DeviceError::Length`] for another number of images.
    pub fn write(
        &self,
        executor: &mut Executor,
        value: ValueId,
        condition: &Condition,
    ) -> Result<(), DeviceError> {
        match (condition.numbers(), self.element) {
            (Numbers::Floats(numbers), _) => executor.write(value, numbers),
            // A class can be told as a number like any other.
            (Numbers::Whole(numbers), Element::Float) => {
                executor.write(value, &numbers.iter().map(|&number| number as f32).collect::<Vec<f32>>())
            }
            (Numbers::Whole(numbers), _) => executor.write(value, numbers),
        }
    }
}

/// How many of `count` classes can be asked for: all but the one that means "no class".
fn without_none(count: usize, none: Option<u32>) -> usize {
    count.saturating_sub(usize::from(none.is_some()))
}

/// Values of a graph by the names that a network has for them.
#[derive(Clone, Debug, Default)]
pub struct NamedValues(Vec<(&'static str, ValueId)>);

impl NamedValues {
    /// These values and one more, in place of one of the same name.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: ValueId) -> Self {
        self.0.retain(|(other, _)| *other != name);
        self.0.push((name, value));
        self
    }

    /// The value of a name.
    ///
    /// # Errors
    /// [`ModelError::NoValue`]
    pub fn get(&self, name: &str) -> Result<ValueId, ModelError> {
        let found = self.0.iter().find(|(other, _)| *other == name);
        found.map(|(_, value)| *value).ok_or_else(|| ModelError::NoValue { name: name.to_owned() })
    }

    /// All of them, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, ValueId)> + '_ {
        self.0.iter().copied()
    }
}

/// A network: all that is particular to it. What is done with it asks nothing else.
pub trait Network: Debug + Send + Sync {
    /// The name of its class, in diffusers where diffusers has it.
    fn class_name(&self) -> &'static str;

    /// The text of its config.json.
    ///
    /// # Errors
    /// [`ModelError::Json`]
    fn to_json(&self) -> Result<String, ModelError>;

    /// Refuses a configuration that cannot be built.
    ///
    /// # Errors
    /// [`ModelError`] naming the key.
    fn check(&self) -> Result<(), ModelError>;

    /// What it is given.
    ///
    /// # Errors
    /// [`ModelError`] for a configuration that does not say.
    fn inputs(&self) -> Result<Vec<Input>, ModelError>;

    /// What it gives: the name and the shape for one image of each output.
    ///
    /// # Errors
    /// [`ModelError`] for a configuration that does not say.
    fn outputs(&self) -> Result<Vec<(&'static str, Vec<usize>)>, ModelError>;

    /// Appends the network to a graph, with its parameters under the names of its files.
    ///
    /// `inputs` are those of [`Network::inputs`]; the images have the element type of the activations, and so have the
    /// outputs. `dropout` is the random generator's key while training; without it there is no dropout.
    ///
    /// # Errors
    /// [`ModelError`] for a configuration that cannot be built.
    fn build(
        &self,
        graph: &mut Graph,
        inputs: &NamedValues,
        dropout: Option<ValueId>,
    ) -> Result<NamedValues, ModelError>;

    /// Refuses to be told timesteps from `least` to `most`, which it may not be made for; in one sentence.
    ///
    /// # Errors
    /// The sentence.
    fn check_timesteps(&self, least: f64, most: f64) -> Result<(), String> {
        self.within().map_or(Ok(()), |network| network.check_timesteps(least, most))
    }

    /// The network without its low-rank adapters, and these, where it has some.
    fn adapted(&self) -> Option<&Adapted> {
        self.within().and_then(Network::adapted)
    }

    /// What the condition images are, where they are smaller images to enlarge.
    fn super_resolution(&self) -> Option<SuperResolution> {
        self.within().and_then(Network::super_resolution)
    }

    /// The network that this one is made around, where it is one with something added. What has a body here is asked of it.
    fn within(&self) -> Option<&dyn Network> {
        None
    }
}

/// A network with its weights.
#[derive(Clone, Debug)]
pub struct Component {
    /// The network.
    pub network: Arc<dyn Network>,
    /// Its weights, by the names of its files.
    pub weights: Tensors,
}

/// Tensors that are not those of a network.
#[derive(Debug)]
pub struct Misfit {
    /// The first that does not fit.
    pub source: WeightsError,
    /// The number of parameters that the network has.
    pub parameters: u64,
}

impl dyn Network + '_ {
    /// Its input of a name.
    ///
    /// # Errors
    /// [`ModelError::NoValue`] for a network that has none.
    pub fn input(&self, name: &str) -> Result<Input, ModelError> {
        let found = self.inputs()?.into_iter().find(|input| input.name == name);
        found.ok_or_else(|| ModelError::NoValue { name: name.to_owned() })
    }

    /// Whether it has an input of a name.
    pub fn takes(&self, name: &str) -> bool {
        self.input(name).is_ok()
    }

    /// Height, width and channels of the images x_t.
    ///
    /// # Errors
    /// [`ModelError`] for a network without images.
    pub fn image(&self) -> Result<[usize; 3], ModelError> {
        match self.input(SAMPLE)?.shape[..] {
            [height, width, channels] => Ok([height, width, channels]),
            _ => Err(ModelError::NoValue { name: format!("{SAMPLE} of height, width and channels") }),
        }
    }

    /// The shape of an output for one image.
    ///
    /// # Errors
    /// [`ModelError::NoValue`] for a network that has none of this name.
    pub fn output(&self, name: &str) -> Result<Vec<usize>, ModelError> {
        let found = self.outputs()?.into_iter().find(|(other, _)| *other == name);
        found.map(|(_, shape)| shape).ok_or_else(|| ModelError::NoValue { name: name.to_owned() })
    }

    /// How many classes a classifier tells.
    ///
    /// # Errors
    /// [`ModelError::NoValue`] for a network that tells none.
    pub fn classes_told(&self) -> Result<usize, ModelError> {
        Ok(self.output(LOGITS)?.iter().product())
    }

    /// Channels of a denoiser's prediction.
    ///
    /// # Errors
    /// [`ModelError::NoValue`] for a network that predicts no images.
    pub fn out_channels(&self) -> Result<usize, ModelError> {
        Ok(self.output(SAMPLE)?.last().copied().unwrap_or(1))
    }

    /// What it is told of each image beside x_t and the timestep.
    ///
    /// # Errors
    /// [`ModelError`] for a configuration that does not say.
    pub fn conditions(&self) -> Result<Vec<Input>, ModelError> {
        let mut inputs = self.inputs()?;
        inputs.retain(|input| ![SAMPLE, TIMESTEPS].contains(&input.name));
        Ok(inputs)
    }

    /// Refuses conditions that are not those of the network, for so many images; in one sentence.
    ///
    /// # Errors
    /// The sentence.
    pub fn check_conditions(&self, conditions: &Conditions, images: usize) -> Result<(), String> {
        let inputs = self.conditions().map_err(|error| error.to_string())?;
        for input in &inputs {
            match (conditions.get(input.name), input.element) {
                (Some(condition), _) => input.check(condition, images)?,
                (None, Element::Class { count, none }) => {
                    let classes = without_none(count, none);
                    return Err(format!(
                        "the model is conditional on {classes} classes; say which class to draw"
                    ));
                }
                // Low-resolution images make it, and are checked for themselves.
                (None, _) if input.name == CONDITION_IMAGE && self.super_resolution().is_some() => {}
                (None, _) => {
                    let name = input.in_words();
                    return Err(format!(
                        "the model is told more of each image: its {name}, which are not given"
                    ));
                }
            }
        }
        match conditions.iter().find(|(name, _)| !inputs.iter().any(|input| input.name == *name)) {
            Some((CLASS_LABELS, _)) => {
                Err("the model is unconditional; leave the class labels out".to_owned())
            }
            Some((name, _)) => Err(format!("the model takes no {name}; leave them out")),
            None => Ok(()),
        }
    }

    /// How many classes can be asked for; `None` for an unconditional network.
    pub fn num_classes(&self) -> Option<usize> {
        self.classes().map(|(count, none)| without_none(count, none))
    }

    /// The class that means "no class", where one does.
    pub fn null_class(&self) -> Option<u32> {
        self.classes()?.1
    }

    /// A class for each image, all but the one that means none equally often: 0 0 ... 1 1 ...; `None` for an
    /// unconditional network.
    pub fn classes_in_turn(&self, images: usize) -> Option<Vec<u32>> {
        let (count, none) = self.classes()?;
        let asked: Vec<u32> = (0..count as u32).filter(|&class| Some(class) != none).collect();
        Some((0..images).map(|image| asked[image * asked.len() / images]).collect())
    }

    /// How many classes it has, with the one that means "no class", and that one; `None` for an unconditional network.
    pub fn classes(&self) -> Option<(usize, Option<u32>)> {
        match self.input(CLASS_LABELS).ok()?.element {
            Element::Class { count, none } => Some((count, none)),
            Element::Activation | Element::Float => None,
        }
    }

    /// Inputs in a graph for a batch, which the host writes.
    ///
    /// # Errors
    /// [`ModelError`] for a configuration that does not say what they are.
    pub fn declare_inputs(&self, graph: &mut Graph, batch: usize) -> Result<NamedValues, ModelError> {
        let inputs = self.inputs()?;
        let declare = |input: &Input| (input.name, graph.input(input.name, input.ty(batch)));
        Ok(NamedValues(inputs.iter().map(declare).collect()))
    }

    /// Appends the network with f32 images in, f32 results out and activations of a precision in between.
    ///
    /// # Errors
    /// As [`Network::build`].
    pub fn apply(
        &self,
        graph: &mut Graph,
        precision: Precision,
        inputs: &NamedValues,
        dropout: Option<ValueId>,
    ) -> Result<NamedValues, ModelError> {
        let mut cast = NamedValues::default();
        for input in self.inputs()? {
            let value = inputs.get(input.name)?;
            let value = match input.element {
                Element::Activation => ops::cast(graph, value, precision.dtype())?,
                Element::Float | Element::Class { .. } => value,
            };
            cast = cast.with(input.name, value);
        }
        let mut outputs = NamedValues::default();
        for (name, value) in self.build(graph, &cast, dropout)?.iter() {
            outputs = outputs.with(name, ops::cast(graph, value, DType::F32)?);
        }
        check_parameters(graph)?;
        Ok(outputs)
    }

    /// The network alone, for one image: for what is asked of its parameters.
    pub(super) fn alone(&self) -> Result<Graph, ModelError> {
        self.check()?;
        let mut graph = Graph::new();
        let inputs = self.declare_inputs(&mut graph, 1)?;
        self.apply(&mut graph, Precision::F32, &inputs, None)?;
        Ok(graph)
    }

    /// The number of its parameters; nothing is allocated.
    ///
    /// # Errors
    /// [`ModelError`] for a configuration that cannot be built.
    pub fn count_parameters(&self) -> Result<u64, ModelError> {
        check_parameters(&self.alone()?)
    }

    /// Weights that have not been trained, drawn from `seed`.
    ///
    /// # Errors
    /// [`ModelError`] for a configuration that cannot be built.
    pub fn fresh_weights(&self, seed: u64) -> Result<Tensors, ModelError> {
        let graph = self.alone()?;
        Ok(to_tensors(&graph, graph.parameters(), &initial_weights(&graph, seed)))
    }

    /// Whether `tensors` are exactly those of the network; nothing is allocated.
    ///
    /// # Errors
    /// [`ModelError`] for a configuration that cannot be built; [`Misfit`] inside.
    pub fn check_weights(&self, tensors: &Tensors) -> Result<Result<(), Misfit>, ModelError> {
        let graph = self.alone()?;
        let parameters = check_parameters(&graph)?;
        Ok(check_tensors(&graph, tensors).map_err(|source| Misfit { source, parameters }))
    }
}
