//! What can be trained on.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::support::Workspace;

/// An IDX file of bytes: <https://yann.lecun.com/exdb/mnist>.
fn idx(dimensions: &[u32]) -> Vec<u8> {
    let mut file = vec![0, 0, 8, dimensions.len() as u8];
    file.extend(dimensions.iter().flat_map(|size| size.to_be_bytes()));
    let length: u32 = dimensions.iter().product();
    file.extend((0..length).map(|i| (i % 10) as u8));
    file
}

/// A PNG file of one grey picture.
fn png(size: u32) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, size, size);
    encoder.set_color(png::ColorType::Grayscale);
    let pixels: Vec<u8> = (0..size * size).map(|i| (7 * i) as u8).collect();
    encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    file
}

/// Trains on `dataset` for a step; what the program said.
fn train(workspace: &Workspace, output: &str, flags: &str) -> String {
    let flags = format!("{flags} --device cpu --batch-size 2 --steps 1 --sample-every 0 --output {output}");
    workspace.succeeds(&format!("train {flags}")).stderr
}

#[test]
fn fashion_mnist_plain_and_gzipped_are_the_same() {
    let workspace = Workspace::new();
    workspace.write_model("model-28.json", "sample_size", 28.into());
    for (name, dimensions) in
        [("train-images-idx3-ubyte", &[5, 28, 28][..]), ("train-labels-idx1-ubyte", &[5][..])]
    {
        let contents = idx(dimensions);
        workspace.write(&format!("plain/{name}"), &contents);
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(&contents).unwrap();
        workspace.write(&format!("gzipped/{name}.gz"), gzip.finish().unwrap());
    }
    for kind in ["plain", "gzipped"] {
        let flags = format!("--dataset fashion-mnist --data-path {kind} --model model-28.json");
        let said = train(&workspace, &format!("run-{kind}"), &flags);
        assert!(said.contains("fashion-mnist, 5 images, 10 classes"), "{said}");
    }
    super::support::assert_same(&workspace.files("run-plain"), &workspace.files("run-gzipped"));
}

#[test]
fn subfolders_are_classes() {
    let workspace = Workspace::new();
    for name in ["cats/a.png", "cats/b.png", "dogs/c.png"] {
        workspace.write(&format!("pictures/{name}"), png(11));
    }
    workspace.write_model("two.json", "num_class_embeds", 2.into());
    let said = train(&workspace, "run", "--dataset pictures --model two.json");
    assert!(said.contains("3 images, 2 classes"), "{said}");
    workspace.fails(
        "sample run --device cpu --output grid.png --class-label 2",
        1,
        &["no class 2", "0 to 1"],
    );

    let said = train(&workspace, "free", "--dataset pictures --model two.json --unconditional");
    assert!(said.contains("3 images"), "{said}");
    let line = "sample free --device cpu --output grid.png --class-label 0";
    workspace.fails(line, 1, &["unconditional", "leave the class labels out"]);
    workspace.succeeds("sample free --device cpu --output grid.png --steps 2");
}

#[test]
fn bad_images_are_an_error_or_skipped_and_counted() {
    let workspace = Workspace::new();
    for name in ["a.png", "b.png"] {
        workspace.write(&format!("pictures/{name}"), png(8));
    }
    workspace.write("pictures/cut.png", &png(8)[..40]);
    workspace.write("pictures/text.png", "this is no picture");
    workspace.write_model("free.json", "num_class_embeds", serde_json::Value::Null);
    let flags = "--dataset pictures --model free.json";
    let line = format!("train {flags} --device cpu --batch-size 4 --steps 1 --sample-every 0 --output run");
    let said = workspace.run(&line);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains(".png") && said.stderr.contains("--skip-bad-images"), "{}", said.stderr);
    assert!(!said.stderr.contains("panicked"), "{}", said.stderr);

    let said = train(&workspace, "skipping", &format!("{flags} --skip-bad-images"));
    for word in ["2 images", "skipped 2 bad images", "cut.png", "text.png"] {
        assert!(said.contains(word), "{word} is not in {said}");
    }
}

/// A file or folder that tools/oracle/datasets.py wrote.
fn golden(name: &str) -> String {
    format!("{}/tests/golden/data/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_format_is_trained_on() {
    let workspace = Workspace::new();
    workspace.write_model("three.json", "in_channels", 3.into());
    let mut model: serde_json::Value = serde_json::from_slice(&workspace.read("three.json")).unwrap();
    model["out_channels"] = 3.into();
    model["num_class_embeds"] = serde_json::Value::Null;
    workspace.write("three.json", model.to_string());
    for (position, (name, expected)) in [
        ("cifar-binary", "10 images, 10 classes"),
        ("cifar-python", "10 images, 10 classes"),
        ("arrays/plain.npz", "3 images, 3 classes"),
        ("arrays/channels-first.npy", "3 images, no classes"),
        ("shards", "4 images, 3 classes"),
        ("shards-json/names.tar", "3 images, 2 classes"),
        ("images", "18 images, no classes"),
    ]
    .into_iter()
    .enumerate()
    {
        let flags = format!("--dataset {} --model three.json --unconditional", golden(name));
        let said = train(&workspace, &format!("run-{position}"), &flags);
        assert!(said.contains(expected), "{name}: {said}");
    }
}

#[test]
fn decoded_images_in_memory_and_on_disk_train_the_same_model() {
    let workspace = Workspace::new();
    workspace.write_model("free.json", "num_class_embeds", serde_json::Value::Null);
    let flags = format!("--dataset {} --model free.json --device cpu", golden("images"));
    let flags = format!("{flags} --batch-size 8 --steps 5 --sample-every 0");
    for (output, memory) in [("memory", 1024), ("disk", 0), ("disk-again", 0)] {
        workspace.succeeds(&format!("train {flags} --data-memory {memory} --output {output}"));
    }
    let weights = |run: &str| {
        workspace.read(&format!("{run}/checkpoint-000005/unet/diffusion_pytorch_model.safetensors"))
    };
    assert_eq!(std::fs::read_dir(workspace.tuning_cache().join("images")).unwrap().count(), 1);
    assert!(weights("memory") == weights("disk") && weights("memory") == weights("disk-again"));
}

#[test]
fn data_shows_counts_sizes_colours_bad_files_and_a_sheet() {
    let workspace = Workspace::new();
    for name in ["cats/a.png", "cats/b.png", "dogs/c.png"] {
        workspace.write(&format!("pictures/{name}"), png(11));
    }
    workspace.write("pictures/dogs/d.jpg", std::fs::read(golden("images/plain.jpg")).unwrap());
    workspace.write("pictures/dogs/cut.png", &png(8)[..40]);
    let said = workspace.succeeds("data pictures --output sheet.png --image-size 16").stdout;
    let lines: Vec<String> =
        said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in [
        "pictures, 4 images, 2 classes",
        "0 cats 2",
        "1 dogs 2",
        "11x11 3",
        "26x19 1",
        "grey 3",
        "colour 1",
        "as read: 16x16, colour",
    ] {
        assert!(lines.iter().any(|found| found == line), "`{line}` is not in:\n{said}");
    }
    assert!(said.contains("bad files: 1") && said.contains("cut.png: expected a whole PNG file"), "{said}");
    let sheet = png::Decoder::new(std::io::Cursor::new(workspace.read("sheet.png"))).read_info().unwrap();
    assert_eq!((sheet.info().width, sheet.info().height), (8 * 48 + 7 * 2, 2 * 48 + 2));

    let said = workspace.succeeds("data digits").stdout;
    assert!(said.contains("1797 images, 10 classes") && said.contains("no bad files"), "{said}");
    workspace.fails("data nothing-here", 1, &["nothing-here", "digits, fashion-mnist, cifar10"]);
    workspace.fails("data model.json", 1, &["model.json", "WebDataset"]);
    workspace.fails("data pictures --output missing/sheet.png", 1, &["missing/sheet.png", "folder exists"]);
    workspace.fails("data", 2, &["NAME|PATH"]);
}

#[cfg(unix)]
#[test]
fn get_data_explains_itself_and_leaves_a_folder_that_is_there_alone() {
    let workspace = Workspace::new();
    workspace.write("data/emoji/flags/a.png", "mine");
    let run = |words: &[&str]| {
        let mut command = std::process::Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tools/get-data"));
        let output = command.args(words).current_dir(workspace.path("")).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    for (words, code, expected) in [
        (&["--help"][..], 0, "fashion-mnist|emoji"),
        (&[], 2, "which dataset"),
        (&["mnist"], 2, "no dataset mnist"),
        (&["emoji", "a", "b"], 2, "one folder only"),
        (&["emoji", "--fast"], 2, "unknown option --fast"),
        (&["emoji"], 0, "data/emoji is there already"),
    ] {
        let (found, text) = run(words);
        assert!(found == Some(code) && text.contains(expected), "{words:?}: {found:?}\n{text}");
    }
    assert_eq!(workspace.read("data/emoji/flags/a.png"), b"mine");
}
