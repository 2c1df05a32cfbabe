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
