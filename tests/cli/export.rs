//! `export`: a model alone, to be shared.

use crate::support::{Workspace, assert_same};

#[test]
fn an_exported_model_draws_what_the_run_draws() {
    let workspace = Workspace::new();
    workspace.train("run", 2, "");
    workspace.succeeds("export run --output shared");
    let sample = |model: &str| {
        let output = format!("{model}-image.npy");
        workspace.succeeds(&format!(
            "sample {model} --steps 3 --num-images 2 --class-label 3 --device cpu --output {model}.png \
             --save-npy {output}"
        ));
        workspace.npy(&output)
    };
    let (shape, of_run) = sample("run");
    assert_eq!(sample("shared"), (shape, of_run.clone()));
    assert!(!workspace.path("shared/training_state").exists());

    workspace.succeeds("export run --output half --precision f16");
    let size =
        |model: &str| workspace.read(&format!("{model}/unet/diffusion_pytorch_model.safetensors")).len();
    assert!(size("half") < size("shared") * 2 / 3, "{} {}", size("half"), size("shared"));
    let (_, rounded) = sample("half");
    let largest = of_run.iter().zip(&rounded).fold(0.0f32, |worst, (a, b)| worst.max((a - b).abs()));
    assert!(largest > 0.0 && largest < 0.05, "{largest}");
}

#[test]
fn a_folder_that_is_there_is_left_alone() {
    let workspace = Workspace::new();
    workspace.train("run", 1, "");
    workspace.succeeds("export run --output shared");
    let before = workspace.files("shared");
    workspace.fails(
        "export run --output shared --precision f16",
        1,
        &["shared is there already", "another folder"],
    );
    assert_same(&before, &workspace.files("shared"));
    workspace.fails("export nothing --output x", 1, &["nothing", "there is no checkpoint"]);
    assert!(!workspace.path("x").exists());
}
