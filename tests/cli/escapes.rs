//! Text of files on the terminal: characters that steer it are shown escaped.

use super::support::{Workspace, png};

/// Sets the title of a terminal.
const TITLE: &str = "\u{1b}]0;x\u{7}";
const SHOWN: &str = "\\x1b]0;x\\x07";

/// What the program prints when it is run with these words; it must show the sequence, and not send it.
fn shows(workspace: &Workspace, line: &str, last: &str) {
    let output = workspace.command(line).arg(last).output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!text.contains(['\u{1b}', '\u{7}']), "{text:?}");
    assert!(text.contains(SHOWN), "{text:?}");
}

#[cfg(unix)]
#[test]
fn names_of_files_classes_and_members() {
    let workspace = Workspace::new();
    workspace.write(&format!("classes/{TITLE}/a.png"), png(7));
    workspace.write("classes/dog/b.png", png(7));
    shows(&workspace, "data", "classes");
    workspace.write(&format!("files/{TITLE}.png"), "no picture");
    workspace.write("files/good.png", png(7));
    shows(&workspace, "data", "files");
    shows(&workspace, "plot --output a.png", TITLE);
    // clap's own messages, of words that a shell has found as names.
    shows(&workspace, "train --output a --dataset digits --steps", TITLE);
    let mut tar = tar::Builder::new(Vec::new());
    for (name, contents) in [(format!("{TITLE}.png"), b"no picture".to_vec()), ("b.png".to_owned(), png(7))] {
        let mut header = tar::Header::new_ustar();
        header.set_size(contents.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, &contents[..]).unwrap();
    }
    workspace.write("shard.tar", tar.into_inner().unwrap());
    shows(&workspace, "data", "shard.tar");
}

#[test]
fn strings_of_configurations_and_names_of_tensors() {
    let workspace = Workspace::new();
    workspace.write_model("odd.json", "act_fn", TITLE.into());
    shows(&workspace, "train --dataset digits --device cpu --output run --model", "odd.json");
    workspace.write(
        "odd.toml",
        format!("dataset = \"digits\"\noutput = \"run\"\nloss_type = {TITLE:?}\n")
            .replace("\\u{1b}", "\\u001b")
            .replace("\\u{7}", "\\u0007"),
    );
    shows(&workspace, "train --config", "odd.toml");
    workspace.train("run", 1, "");
    let weights = "run/checkpoint-000001/unet/diffusion_pytorch_model.safetensors";
    let whole = workspace.read(weights);
    let file = safetensors::SafeTensors::deserialize(&whole).unwrap();
    let spare = format!("spare{TITLE}");
    let tensors = file.iter().chain([(spare.as_str(), file.tensor("conv_in.bias").unwrap())]);
    let tensors: std::collections::HashMap<&str, _> = tensors.collect();
    workspace.write(weights, safetensors::serialize(tensors, None).unwrap());
    shows(&workspace, "sample --device cpu --steps 2 --output grid.png", "run");
}
