//! Every kind of file that people bring: a whole sample of it, and the reader that gets the damaged one.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use ddpm_gpu::checkpoint::{self, ImportSettings};
use ddpm_gpu::conditions::Conditions;
use ddpm_gpu::data::{self, OpenOptions};
use ddpm_gpu::device::Device;
use ddpm_gpu::diffusion::{Respacing, SchedulerConfig};
use ddpm_gpu::log::{METRICS_FILE, read_metrics};
use ddpm_gpu::network::UNetConfig;
use ddpm_gpu::output::{read_npy, write_npy};
use ddpm_gpu::pipeline::Pipeline;
use ddpm_gpu::sample::{SampleRequest, sample};
use ddpm_gpu::sampler;
use ddpm_gpu::train::{CheckpointEvery, Denoise, Run, TimestepSampling, TrainOptions, train};
use flate2::read::GzDecoder;
use pollster::block_on;

/// Files of a folder by their paths in it.
pub(crate) type Files = Vec<(PathBuf, Vec<u8>)>;

/// A kind of file, or of folder.
pub(crate) struct Format {
    pub(crate) name: &'static str,
    /// Whole files. Which of them is damaged is chosen at random.
    pub(crate) files: fn() -> Files,
    /// Reads a folder, one file of which is damaged, as a user's command would.
    pub(crate) read: fn(&Path, &Path) -> Result<(), String>,
    /// Whether damage may be refused; a damaged cache is passed over.
    pub(crate) refuses: bool,
}

/// Everything that is read.
pub(crate) const ALL: &[Format] = &[
    Format { name: "npy", files: || arrays("npy"), read: array, refuses: true },
    Format { name: "npz", files: || arrays("npz"), read: array, refuses: true },
    Format { name: "source-npy", files: batches, read: source, refuses: true },
    Format { name: "idx", files: idx, read: dataset, refuses: true },
    Format { name: "cifar-binary", files: || folder("data/cifar-binary", ""), read: dataset, refuses: true },
    Format { name: "cifar-python", files: || folder("data/cifar-python", ""), read: dataset, refuses: true },
    Format { name: "tar", files: || folder("data/shards", "tar"), read: dataset, refuses: true },
    Format { name: "images", files: images, read: image, refuses: true },
    Format { name: "image-folder", files: images, read: dataset, refuses: true },
    Format { name: "image-cache", files: image_cache, read: image_cache_changes_nothing, refuses: false },
    Format { name: "checkpoint-to-sample", files: run_folder, read: draw, refuses: true },
    Format { name: "checkpoint-to-resume", files: run_folder, read: resume, refuses: true },
    Format { name: "weights-in-parts", files: || folder("layouts/shards", ""), read: draw, refuses: true },
    Format { name: "torch-file", files: || folder("layouts/data_parallel", ""), read: draw, refuses: true },
    Format {
        name: "torch-file-views",
        files: || folder("layouts/views_of_one_storage", ""),
        read: draw,
        refuses: true,
    },
    Format {
        name: "torch-before-1.6",
        files: || folder("layouts/before_torch_1_6", ""),
        read: draw,
        refuses: true,
    },
    Format { name: "torch-nested", files: || folder("layouts/nested", ""), read: draw, refuses: true },
    Format { name: "openai-checkpoint", files: openai_checkpoint, read: import_checkpoint, refuses: true },
    Format { name: "metrics", files: metrics, read: metrics_lines, refuses: true },
];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The files of a folder of golden files, with this ending if it is not empty.
fn folder(name: &str, ending: &str) -> Files {
    let mut files = Vec::new();
    collect(&golden().join(name), Path::new(""), &mut files);
    files.retain(|(path, _)| ending.is_empty() || path.extension().is_some_and(|found| found == ending));
    files
}

/// The golden arrays that are images; some are wrong on purpose.
fn arrays(ending: &str) -> Files {
    let name = "data/arrays";
    let mut files = folder(name, ending);
    files.retain(|(path, _)| read_all(&golden().join(name).join(path), &OpenOptions::default()).is_ok());
    files
}

fn collect(folder: &Path, relative: &Path, files: &mut Files) {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    entries.sort();
    for path in entries {
        let relative = relative.join(path.file_name().expect("a name"));
        if path.is_dir() {
            collect(&path, &relative, files);
        } else {
            files.push((relative, fs::read(&path).expect("a file that can be read")));
        }
    }
}

/// All pictures of the golden files, without the expected pixels.
fn images() -> Files {
    let mut files = folder("data/images", "");
    files.extend(folder("data/formats", ""));
    files.retain(|(path, _)| path.extension().is_some_and(|ending| ending != "safetensors"));
    files
}

/// Images `[N, C, H, W]` of float32, as `--images` and `--init-noise` take them.
fn batches() -> Files {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("batch.npy");
    write_npy(&path, [3, 2, 5, 4], &(0..120).map(|i| i as f32 / 60.0 - 1.0).collect::<Vec<_>>())
        .expect("a file");
    vec![(PathBuf::from("batch.npy"), fs::read(path).expect("a file"))]
}

/// Three images of 5x4 with labels, by the names that MNIST's files have.
fn idx() -> Files {
    let mut images = vec![0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 5, 0, 0, 0, 4];
    images.extend((0..60).map(|pixel| 4 * pixel as u8));
    let labels = vec![0, 0, 8, 1, 0, 0, 0, 3, 2, 0, 1];
    ["train", "t10k"]
        .into_iter()
        .flat_map(|part| {
            [
                (PathBuf::from(format!("{part}-images-idx3-ubyte")), images.clone()),
                (PathBuf::from(format!("{part}-labels-idx1-ubyte")), labels.clone()),
            ]
        })
        .collect()
}

fn read_all(path: &Path, options: &OpenOptions) -> Result<Vec<f32>, String> {
    let name = path.to_str().expect("a path of letters");
    let dataset = data::open(name, options).map_err(|error| error.to_string())?;
    let elements = dataset.image_shape().elements();
    let mut all = Vec::new();
    for index in 0..dataset.len() {
        let mut pixels = vec![0.0; elements];
        let known = dataset.read(index, &mut pixels).map_err(|error| error.to_string())?;
        let labels = known.class_labels().unwrap_or_default();
        if labels.iter().any(|&label| label as usize >= dataset.classes().len()) {
            return Err(format!("MISREAD: image {index} has the class {labels:?}"));
        }
        if let Some(value) = pixels.iter().find(|value| !(-1.0..=1.0).contains(*value)) {
            return Err(format!("MISREAD: image {index} has the value {value}"));
        }
        all.extend(pixels);
    }
    Ok(all)
}

fn dataset(folder: &Path, _: &Path) -> Result<(), String> {
    let strict = OpenOptions { image_size: Some([8, 8]), ..OpenOptions::default() };
    let skipping = OpenOptions { skip_bad_images: true, ..strict.clone() };
    match (read_all(folder, &strict), read_all(folder, &skipping)) {
        (Err(refused), Ok(_)) => Err(refused),
        (_, skipping) => skipping.map(drop),
    }
}

fn array(_: &Path, file: &Path) -> Result<(), String> {
    read_all(file, &OpenOptions::default()).map(drop)
}

fn source(_: &Path, file: &Path) -> Result<(), String> {
    read_npy(file).map(drop).map_err(|error| error.to_string())
}

fn image(_: &Path, file: &Path) -> Result<(), String> {
    data::read_image(file, None, None).map(drop).map_err(|error| error.to_string())
}

fn cached(cache: &Path) -> OpenOptions {
    OpenOptions {
        image_size: Some([8, 8]),
        memory_budget: 0,
        cache_folder: Some(cache.to_owned()),
        skip_bad_images: true,
        ..OpenOptions::default()
    }
}

/// The cache that the program makes of the golden images.
fn image_cache() -> Files {
    let folder = tempfile::tempdir().expect("a temporary folder");
    read_all(&golden().join("data/images"), &cached(folder.path())).expect("whole images");
    let mut files = Files::new();
    collect(folder.path(), Path::new(""), &mut files);
    files
}

/// Whatever is in the cache, what is read is what the images say.
fn image_cache_changes_nothing(folder: &Path, _: &Path) -> Result<(), String> {
    let images = golden().join("data/images");
    let plain = OpenOptions { cache_folder: None, ..cached(folder) };
    if read_all(&images, &cached(folder))? != read_all(&images, &plain)? {
        return Err("MISREAD: the cache changed an image".to_owned());
    }
    Ok(())
}

/// A checkpoint of improved-diffusion.
fn openai_checkpoint() -> Files {
    let file = fs::File::open(golden().join("openai_unet/plain.pt.gz")).expect("a golden file");
    let mut bytes = Vec::new();
    GzDecoder::new(file).read_to_end(&mut bytes).expect("a whole file");
    vec![(PathBuf::from("model.pt"), bytes)]
}

fn import_checkpoint(_: &Path, file: &Path) -> Result<(), String> {
    let settings = ImportSettings { image_size: Some(8), num_heads: Some(1), ..ImportSettings::default() };
    checkpoint::import(file, None, &settings).map(drop).map_err(|error| error.to_string())
}

const MODEL: &str = r#"{
    "_class_name": "UNet2DModel", "sample_size": 8, "in_channels": 1, "out_channels": 1,
    "block_out_channels": [4, 8], "layers_per_block": 1, "norm_num_groups": 2, "attention_head_dim": null,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "num_class_embeds": 10
}"#;

fn run_in(output: PathBuf, steps: u64, resume: bool) -> Run {
    let dataset = data::open("digits", &OpenOptions::default()).expect("the digits of the program");
    Run {
        device: Device::Cpu,
        dataset: Arc::from(dataset),
        initial_weights: None,
        base: None,
        options: TrainOptions {
            steps,
            batch_size: 2,
            extra_ema_decays: vec![0.5],
            timestep_sampling: TimestepSampling::Importance,
            learned_schedule: false,
            ..TrainOptions::default()
        },
        output,
        resume,
        checkpoint_every: CheckpointEvery::Steps(1000),
        checkpoints_to_keep: 2,
        sample_every: 0,
        settings: None,
    }
}

fn task() -> Denoise {
    let scheduler = SchedulerConfig { num_train_timesteps: 20, ..SchedulerConfig::default() };
    let network = UNetConfig::from_json(MODEL).expect("a model");
    Denoise::new(Arc::new(network), scheduler).expect("a schedule")
}

/// The output folder of a run of two steps.
fn run_folder() -> Files {
    static FILES: OnceLock<Files> = OnceLock::new();
    let made = || {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let run = run_in(folder.path().to_owned(), 2, false);
        block_on(train(&run, task(), &AtomicBool::new(false), &mut |_| ())).expect("a run of two steps");
        let mut files = Files::new();
        collect(folder.path(), Path::new(""), &mut files);
        files
    };
    FILES.get_or_init(made).clone()
}

fn draw(folder: &Path, _: &Path) -> Result<(), String> {
    let checkpoint = checkpoint::resolve(folder).map_err(|error| error.to_string())?;
    let pipeline = Pipeline::load(&checkpoint).map_err(|error| error.to_string())?;
    let ddim = sampler::by_name("ddim").map_err(|error| error.to_string())?;
    let mut request = SampleRequest::new(ddim, &pipeline.scheduler);
    request.num_images = 1;
    request.options.steps = Some(Respacing::Steps(1));
    let network = &pipeline.denoiser().map_err(|error| error.to_string())?.network;
    request.conditions = Conditions::of_classes(network.classes().map(|_| vec![0]));
    let drawn = block_on(sample(&Device::Cpu, &pipeline, &request, &mut |_| ()));
    // The files make sense: which model it is, the command line says.
    let images = drawn.map_err(|error| format!("{}: {error}", checkpoint.display()))?.images;
    match images.data.iter().find(|value| !value.is_finite()) {
        Some(value) => Err(format!("MISREAD: the picture has the value {value}")),
        None => Ok(()),
    }
}

fn resume(folder: &Path, _: &Path) -> Result<(), String> {
    let run = run_in(folder.to_owned(), 3, true);
    let ended = block_on(train(&run, task(), &AtomicBool::new(false), &mut |_| ()));
    ended.map(drop).map_err(|error| error.to_string())
}

fn metrics() -> Files {
    let files = run_folder();
    files.into_iter().filter(|(path, _)| path == Path::new(METRICS_FILE)).collect()
}

fn metrics_lines(folder: &Path, _: &Path) -> Result<(), String> {
    read_metrics(folder).map(drop).map_err(|error| error.to_string())
}
