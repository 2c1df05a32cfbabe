use pollster::block_on;

use super::*;
use crate::device::{Device, Executor};
use crate::graph::{Init, Plan, PlannedNode};
use crate::network::layers::{Conv, WeightInit, linear};
use crate::network::{Tensors, initial_weights, to_tensors};
use crate::ops;

const BATCH: usize = 3;

/// A network of four layers, the third of which is never trained, and the step that trains the others.
struct Network {
    graph: Graph,
    training: Result<TrainingGraph, GraphError>,
    inputs: [(ValueId, Vec<f32>); 3],
}

fn numbers(count: usize, seed: f32) -> Vec<f32> {
    (0..count).map(|index| (seed + 1.7 * index as f32).sin()).collect()
}

impl Network {
    fn new(freeze: impl Fn(&str) -> bool) -> Self {
        let mut graph = Graph::new();
        let x = graph.input("x", TensorType::f32([BATCH, 6, 4, 2]));
        let h = Conv::three(8).build(&mut graph, "first", x).unwrap();
        let h = Conv::one(5).build(&mut graph, "second", h).unwrap();
        let fixed =
            graph.scoped("fixed", |graph| graph.fixed_parameter("weight", [7, 5], Init::Normal { std: 1.0 }));
        let h = ops::linear(&mut graph, h, fixed, None).unwrap();
        let y = linear(&mut graph, "last", h, 2, WeightInit::FanAverage).unwrap();
        let target = graph.input("target", graph.ty(y).clone());
        let weights = graph.input("weights", TensorType::f32([BATCH]));
        let (loss, _) = ops::mse_loss(&mut graph, y, target, weights).unwrap();
        graph.freeze(freeze);
        let optimizer = Optimizer {
            adamw: AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, l2_penalty: 0.0 },
            max_grad_norm: Some(1.0),
            scales_loss: false,
            extra_emas: 1,
            micro_batches: 1,
        };
        let training = TrainingGraph::new(&mut graph, loss, &[], optimizer, false);
        let count = BATCH * 6 * 4 * 2;
        let inputs = [(x, numbers(count, 0.3)), (target, numbers(count, 2.0)), (weights, vec![1.0; BATCH])];
        Self { graph, training, inputs }
    }

    /// The executor after some steps.
    fn run(&self, steps: u64) -> Executor {
        let Self { graph, training, inputs } = self;
        let training = training.as_ref().unwrap();
        let mut executor = block_on(Device::Cpu.prepare(graph, &training.read_back())).unwrap();
        training.initialize(graph, &mut executor, &initial_weights(graph, 3)).unwrap();
        inputs.iter().for_each(|(value, data)| executor.write(*value, data).unwrap());
        for step in 1..=steps {
            let adamw = AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, l2_penalty: 0.0 };
            training.write_schedule(&mut executor, adamw.schedule(step, 1e-2, 0.5), &[0.9]).unwrap();
            executor.run().unwrap();
        }
        executor
    }

    /// What has been trained, and the whole model, after some steps.
    fn trained(&self, steps: u64) -> (Tensors, Tensors) {
        let (training, mut executor) = (self.training.as_ref().unwrap(), self.run(steps));
        let packed = block_on(training.read(&self.graph, &mut executor, &training.weights)).unwrap();
        let model = block_on(training.read_model(&self.graph, &mut executor)).unwrap();
        (to_tensors(&self.graph, self.graph.trained_parameters(), &packed), model)
    }

    fn plan(&self) -> Plan {
        Device::Cpu.plan(&self.graph, &self.training.as_ref().unwrap().read_back())
    }
}

#[test]
fn what_is_not_trained_stays_as_it_is_and_all_else_moves() {
    let network = Network::new(|name| name.starts_with("second."));
    let fresh = to_tensors(&network.graph, network.graph.parameters(), &initial_weights(&network.graph, 3));
    let (trained, model) = network.trained(5);
    let names: Vec<&str> = trained.keys().map(String::as_str).collect();
    assert_eq!(names, ["first.bias", "first.weight", "last.bias", "last.weight"]);
    assert!(model.keys().eq(fresh.keys()));
    for (name, fresh) in &fresh {
        let is_fixed = name.starts_with("second.") || name == "fixed.weight";
        assert_eq!(model[name] == *fresh, is_fixed, "{name}");
        assert!(trained.get(name).is_none_or(|trained| trained != fresh), "{name}");
    }
}

/// The gradients that are left are those of the whole: Adam's first steps have the size of the learning rate, so a
/// clip by another norm would not show; moments do.
#[test]
fn freezing_a_layer_changes_nothing_about_the_gradients_of_the_others() {
    let first_moment = |network: &Network| {
        let (training, mut executor) = (network.training.as_ref().unwrap(), network.run(1));
        let packed = block_on(training.read(&network.graph, &mut executor, &training.first_moment)).unwrap();
        let norm = block_on(training.read_gradient_norm(&mut executor)).unwrap();
        (to_tensors(&network.graph, network.graph.trained_parameters(), &packed), norm)
    };
    let (all, norm_of_all) = first_moment(&Network::new(|_| false));
    let (some, norm_of_some) =
        first_moment(&Network::new(|name| name == "first.weight" || name == "last.bias"));
    assert_eq!((all.len(), some.len()), (6, 4));
    let clipped = |norm: f32| norm.max(1.0);
    assert!(norm_of_some < norm_of_all && norm_of_all > 1.0, "{norm_of_some} of {norm_of_all}");
    for (name, some) in &some {
        for (some, all) in some.data.iter().zip(&all[name].data) {
            let expected = all * clipped(norm_of_all) / clipped(norm_of_some);
            assert!(
                (some - expected).abs() <= 1e-5 * expected.abs() + 1e-9,
                "{name}: {some}, expected {expected}"
            );
        }
    }
}

#[test]
fn nothing_is_computed_or_kept_for_what_is_not_trained() {
    let bytes = |plan: &Plan, role| plan.memory().bytes[&role];
    let calls = |plan: &Plan, path: &str, op: &str| {
        let is_call =
            |planned: &&PlannedNode| planned.node.path == path && planned.node.op.name().ends_with(op);
        plan.nodes.iter().filter(is_call).count()
    };
    let (whole, frozen) =
        (Network::new(|_| false).plan(), Network::new(|name| !name.starts_with("last.")).plan());
    assert_eq!(calls(&whole, "second", "backward_weight"), 1);
    assert_eq!(calls(&whole, "second", "backward_input"), 1);
    // Below the lowest layer that is trained there is no reverse pass at all.
    for path in ["first", "second", ""] {
        for op in ["backward_weight", "backward_input"] {
            assert_eq!(calls(&frozen, path, op), 0, "{path} / {op}");
        }
    }
    assert_eq!(calls(&frozen, "last", "backward_weight"), 1);
    assert_eq!(calls(&frozen, "last", "backward_input"), 0);
    // The last layer's 2 x 7 and 2 numbers, each padded to the alignment of bindings.
    for (role, copies) in [(BufferRole::Gradients, 1), (BufferRole::Moments, 2), (BufferRole::Ema, 2)] {
        assert_eq!(bytes(&frozen, role), copies * 2 * 256, "{role}");
        assert!(bytes(&whole, role) > bytes(&frozen, role), "{role}");
    }
    assert!(bytes(&frozen, BufferRole::Activations) < bytes(&whole, BufferRole::Activations));
}

#[test]
fn a_model_of_which_nothing_is_trained_is_refused() {
    let error = Network::new(|_| true).training.unwrap_err().to_string();
    assert!(error.contains("none of the 7 tensors") && error.contains("frozen"), "{error}");
}
