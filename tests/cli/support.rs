//! Running the program in a folder of its own.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;

use tempfile::TempDir;

/// A model that takes milliseconds a step.
const TINY_MODEL: &str = r#"{
    "_class_name": "UNet2DModel", "sample_size": 8, "in_channels": 1, "out_channels": 1,
    "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": null,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "num_class_embeds": 10
}"#;

/// A training run of [`TINY_MODEL`], as far as it is the same in all tests.
const TRAIN: &str = "train --dataset digits --model model.json --batch-size 4 --seed 3";

/// Contents of files by their path relative to a folder; `None` for a folder.
type Files = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// A folder that the program runs in, with `model.json`.
pub(crate) struct Workspace {
    folder: TempDir,
    tuning_cache: TempDir,
}

/// How the program ended.
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Workspace {
    pub(crate) fn new() -> Self {
        let workspace =
            Self { folder: tempfile::tempdir().unwrap(), tuning_cache: tempfile::tempdir().unwrap() };
        workspace.write("model.json", TINY_MODEL);
        workspace
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The shape and data of a .npy file.
    pub(crate) fn npy(&self, name: &str) -> ([usize; 4], Vec<f32>) {
        ddpm_gpu::output::read_npy(&self.path(name)).unwrap()
    }

    /// Writes [`TINY_MODEL`] with one key changed.
    pub(crate) fn write_model(&self, name: &str, key: &str, value: serde_json::Value) {
        let mut model: serde_json::Value = serde_json::from_str(TINY_MODEL).unwrap();
        model[key] = value;
        self.write(name, model.to_string());
    }

    /// The folder in which the program keeps the choices of kernels.
    pub(crate) fn tuning_cache(&self) -> &Path {
        self.tuning_cache.path()
    }

    /// The program, to be run in this folder with the words of `line`.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ddpm-gpu"));
        command.current_dir(self.folder.path()).args(line.split_whitespace()).stdin(Stdio::null());
        command.env("DDPM_GPU_TUNING_CACHE", self.tuning_cache());
        command.env("DDPM_GPU_DATA_CACHE", self.tuning_cache().join("images"));
        command
    }

    pub(crate) fn run(&self, line: &str) -> Finished {
        let output = self.command(line).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Finished { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    pub(crate) fn succeeds(&self, line: &str) -> Finished {
        let finished = self.run(line);
        assert_eq!(finished.code, Some(0), "`{line}` said:\n{}", finished.stderr);
        finished
    }

    /// Expects an exit status and all of `words` in the message, and that the folder is as it was.
    pub(crate) fn fails(&self, line: &str, code: i32, words: &[&str]) {
        let before = self.files("");
        let finished = self.run(line);
        let (found, message) = (finished.code, &finished.stderr);
        assert_eq!(found, Some(code), "`{line}` said:\n{message}");
        for word in words {
            assert!(message.contains(word), "`{line}` does not say `{word}`:\n{message}");
        }
        assert!(!message.contains("panicked"), "`{line}` panicked:\n{message}");
        let (before, after): (Vec<_>, Vec<_>) =
            (before.into_iter().collect(), self.files("").into_iter().collect());
        let changed: Vec<&PathBuf> =
            after.iter().filter(|file| !before.contains(file)).map(|(path, _)| path).collect();
        assert!(changed.is_empty() && before.len() == after.len(), "`{line}` failed and left {changed:?}");
    }

    /// Trains to step `steps` in the folder `output`; `more` are further flags, which win over the usual ones.
    pub(crate) fn train(&self, output: &str, steps: u32, more: &str) -> Finished {
        let drawing = if more.contains("--sample-every") { "" } else { "--sample-every 0" };
        let device = if more.contains("--device") { "" } else { "--device cpu" };
        let tuning = if more.contains("--tuning") { "" } else { "--tuning off" };
        self.succeeds(&format!(
            "{TRAIN} --output {output} --steps {steps} {drawing} {device} {tuning} {more}"
        ))
    }

    /// What [`Workspace::train`] runs, for tests in which it fails.
    pub(crate) fn train_line(output: &str, more: &str) -> String {
        format!("{TRAIN} --device cpu --sample-every 0 --output {output} {more}")
    }

    /// All files and folders below a folder.
    pub(crate) fn files(&self, folder: &str) -> Files {
        let root = self.path(folder);
        let mut files = Files::new();
        collect(&root, &root, &mut files);
        files
    }
}

fn collect(root: &Path, folder: &Path, files: &mut Files) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().to_owned();
        if path.is_dir() {
            files.insert(name, None);
            collect(root, &path, files);
        } else {
            files.insert(name, Some(fs::read(&path).unwrap()));
        }
    }
}

/// Expects two sets of files to be the same, byte for byte; of logs, which hold times, what they say of the losses. The
/// settings of a run, which name its folder, are left out.
pub(crate) fn assert_same(left: &Files, right: &Files) {
    let is_own = |path: &Path| path.starts_with("tensorboard") || path.ends_with("run.toml");
    let names = |files: &Files| files.keys().filter(|path| !is_own(path)).cloned().collect::<Vec<_>>();
    assert_eq!(names(left), names(right));
    for path in names(left) {
        if path.ends_with("metrics.jsonl") {
            let losses = |files: &Files| {
                let text = String::from_utf8(files[&path].clone().unwrap()).unwrap();
                let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
                lines.map(|line| (line["step"].clone(), line["loss"].clone())).collect::<Vec<_>>()
            };
            assert_eq!(losses(left), losses(right));
        } else {
            assert!(left[&path] == right[&path], "{} differs", path.display());
        }
    }
}

/// A PNG file of 8 x 8 pixels of one grey.
pub(crate) fn png(grey: u8) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 8, 8);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.write_header().unwrap().write_image_data(&[grey; 64]).unwrap();
    file
}

/// What --device takes on this machine, without repetition: the CPU executor and Mesa's adapter, where it is present.
pub(crate) fn devices() -> Vec<&'static str> {
    let adapters = pollster::block_on(ddpm_gpu::device::adapters());
    if adapters.iter().any(|adapter| adapter.name.contains("llvmpipe")) {
        return vec!["cpu", "llvmpipe"];
    }
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Not eprintln, whose text is shown for failing tests only.
        let text = "SKIPPED on llvmpipe: there is no such adapter, only the CPU executor is tested (tools/test \
                    brings it)";
        let _ = writeln!(std::io::stderr(), "\n{text}");
    });
    vec!["cpu"]
}
