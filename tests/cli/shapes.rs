//! Images that are not square and have other channels than 1 and 3, through every command.

use serde_json::json;

use super::support::Workspace;

/// Channels, height and width.
type Shape = [usize; 3];

/// A wide shape and a tall one.
const WIDE: Shape = [5, 6, 12];
const TALL: Shape = [2, 8, 4];

/// Images of a data set.
const IMAGES: usize = 6;

/// Another byte for each image, channel and pixel: 2 to a column, 20 to a row, 40 to a channel and 3 to an image.
fn value([n, c, y, x]: [usize; 4]) -> u8 {
    ((3 * n + 40 * c + 20 * y + 2 * x) % 251) as u8
}

/// An `.npy` file of bytes, `[N, C, H, W]` or `[N, H, W, C]`.
fn npy([c, h, w]: Shape, channels_last: bool) -> Vec<u8> {
    let shape = if channels_last { [h, w, c] } else { [c, h, w] };
    let text = format!(
        "{{'descr': '|u1', 'fortran_order': False, 'shape': ({IMAGES}, {}, {}, {}), }}",
        shape[0], shape[1], shape[2]
    );
    let text = format!("{text:117}\n");
    let mut file =
        [b"\x93NUMPY\x01\x00".as_slice(), &(text.len() as u16).to_le_bytes(), text.as_bytes()].concat();
    for n in 0..IMAGES {
        for index in 0..c * h * w {
            file.push(value(match channels_last {
                true => [n, index % c, index / (c * w), index / c % w],
                false => [n, index / (h * w), index / w % h, index % w],
            }));
        }
    }
    file
}

/// A workspace with `images.npy`, `last.npy`, and a `model.json` of such images without classes.
fn workspace([c, h, w]: Shape) -> Workspace {
    let workspace = Workspace::new();
    workspace.write("images.npy", npy([c, h, w], false));
    workspace.write("last.npy", npy([c, h, w], true));
    let mut model: serde_json::Value = serde_json::from_slice(&workspace.read("model.json")).unwrap();
    for (key, value) in [
        ("in_channels", json!(c)),
        ("out_channels", json!(c)),
        ("sample_size", json!([h, w])),
        ("num_class_embeds", json!(null)),
    ] {
        model[key] = value;
    }
    workspace.write("model.json", model.to_string());
    workspace
}

/// Width and height of a PNG file, and whether it is grey.
fn picture(workspace: &Workspace, name: &str) -> (usize, usize, bool) {
    let file = workspace.read(name);
    let reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
    let info = reader.info();
    (info.width as usize, info.height as usize, info.color_type == png::ColorType::Grayscale)
}

/// Width and height of a grid of strips, in which images are 48 pixels long.
fn strips([c, h, w]: Shape, columns: usize, rows: usize) -> (usize, usize, bool) {
    let scale = 48 / h.max(w);
    let strip = c * scale * w + (c - 1) * 2;
    (columns * strip + (columns - 1) * 6, rows * scale * h + (rows - 1) * 6, true)
}

const TRAIN: &str = "train --model model.json --device cpu --batch-size 3 --seed 1 --num-train-timesteps 10";
const DRAW: &str = "--device cpu --steps 2 --output grid.png";

#[test]
fn rectangles_of_two_and_five_channels_are_trained_on_and_drawn() {
    for (shape, per_row) in [(WIDE, 2), (TALL, 4)] {
        let [c, h, w] = shape;
        let workspace = workspace(shape);
        let line =
            format!("{TRAIN} --dataset last.npy --steps 2 --sample-every 2 --random-flip --random-shift 1");
        let said = workspace.succeeds(&format!("{line} --output run")).stderr;
        assert!(said.contains(&format!("[N, H, W, C], {c} channels of {w}x{h}")), "{said}");
        assert!(said.contains(&format!("a strip of its {c} channels in grey")), "{said}");
        assert_eq!(picture(&workspace, "run/samples/step-000002.png"), strips(shape, per_row, 32 / per_row));
        let config = workspace.read("run/checkpoint-000002/unet/config.json");
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        assert_eq!(config["sample_size"], json!([h, w]));
        // the other order of the axes has the same images
        workspace.succeeds(&format!("{} --output other", line.replace("last.npy", "images.npy")));
        let weights = "checkpoint-000002/unet/diffusion_pytorch_model.safetensors";
        assert!(workspace.read(&format!("run/{weights}")) == workspace.read(&format!("other/{weights}")));
        workspace.train_more(&line);

        let line =
            format!("sample run --num-images 3 --columns 3 --save-npy drawn.npy --animate moving.png {DRAW}");
        let said = workspace.succeeds(&line).stderr;
        assert!(said.contains(&format!("grid.png: each image is a strip of its {c} channels")), "{said}");
        assert_eq!(picture(&workspace, "grid.png"), strips(shape, 3, 1));
        assert_eq!(picture(&workspace, "moving.png"), strips(shape, 3, 1));
        assert_eq!(workspace.npy("drawn.npy").0, [3, c, h, w]);
        workspace.succeeds("predict run --input drawn.npy --timesteps 3 --output out.npy --device cpu");
        assert_eq!(workspace.npy("out.npy").0, [3, c, h, w]);
        for line in [
            "image-to-image run --images last.npy",
            "interpolate run --images images.npy --frames 3",
            "interpolate run --seeds 1,2 --frames 3",
            "sample run --sampler ddim_inverse --init-noise images.npy",
        ] {
            workspace.succeeds(&format!("{line} {DRAW}"));
        }
        let line = "evaluate run --dataset images.npy --nll vlb --num-images 2 --device cpu";
        assert!(workspace.succeeds(line).stdout.contains("bits/dim"));
    }
}

impl Workspace {
    /// Goes on with a run, whose images are the same.
    fn train_more(&self, line: &str) {
        self.succeeds(&format!("{line} --output run --steps 3 --resume").replacen("--steps 2 ", "", 1));
    }
}

/// What is known of an image stays where it is: in its channel, its row and its column.
#[test]
fn given_images_keep_channels_rows_and_columns() {
    for shape in [WIDE, TALL] {
        let [c, h, w] = shape;
        let workspace = workspace(shape);
        workspace.succeeds(&format!("{TRAIN} --dataset images.npy --steps 1 --sample-every 0 --output run"));
        let signed = |byte: u8| 2.0 * (f32::from(byte) / 255.0) - 1.0;
        let numbers =
            |n: usize| (0..c * h * w).map(move |i| signed(value([n, i / (h * w), i / w % h, i % w])));
        for name in ["images.npy", "last.npy"] {
            let said = workspace.succeeds(&format!(
                "noise {name} --timesteps 0 --num-images 2 --output n.png --save-npy n.npy"
            ));
            assert!(said.stderr.contains(&format!("{c} channels of {w}x{h}")), "{}", said.stderr);
            let (found, noised) = workspace.npy("n.npy");
            assert_eq!(found, [2, c, h, w]);
            let off = noised.iter().zip((0..2).flat_map(numbers)).map(|(a, b)| (a - b).abs());
            assert!(off.fold(0.0, f32::max) < 0.06, "{name}");
        }
        // The right half is painted.
        let mask: Vec<u8> = (0..h * w).map(|i| u8::from(i % w >= w / 2)).collect();
        let text = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({h}, {w}), }}");
        let text = format!("{text:117}\n");
        let length = (text.len() as u16).to_le_bytes();
        let file = [b"\x93NUMPY\x01\x00".as_slice(), &length, text.as_bytes(), &mask].concat();
        workspace.write("mask.npy", file);
        let line =
            "inpaint run --images images.npy --num-images 2 --mask mask.npy --resample 1 --jump-length 1";
        workspace.succeeds(&format!("{line} --save-npy painted.npy {DRAW}"));
        let (found, painted) = workspace.npy("painted.npy");
        assert_eq!(found, [2, c, h, w]);
        for (i, (painted, given)) in painted.iter().zip((0..2).flat_map(numbers)).enumerate() {
            let is_known = i % w < w / 2;
            assert_eq!(is_known, *painted == given, "number {i} of {found:?}");
        }
    }
}

#[test]
fn sheets_show_channels_and_sizes_are_width_and_height() {
    let workspace = workspace(WIDE);
    let said = workspace.succeeds("data images.npy --output sheet.png");
    for words in [
        "axes [N, C, H, W], 5 channels of 12x6",
        "with --array-order nhwc they are [N, H, W, C]",
        "as read: 12x6, 5 channels",
    ] {
        assert!(said.stdout.contains(words), "{}", said.stdout);
    }
    assert!(said.stderr.contains("a strip of its 5 channels"), "{}", said.stderr);
    assert_eq!(picture(&workspace, "sheet.png"), strips(WIDE, 2, 3));
    let said = workspace.succeeds("data images.npy --array-order nhwc --image-size 8x5").stdout;
    assert!(
        said.contains("axes [N, H, W, C], 12 channels of 6x5") && said.contains("as read: 8x5"),
        "{said}"
    );
    workspace.fails(
        "data images.npy --image-size 6x12",
        1,
        &["12x6, width x height", "6x12, whose sides are swapped"],
    );
    let line = format!("{TRAIN} --dataset images.npy --steps 1 --output run --image-size");
    workspace.fails(&format!("{line} 6x12"), 1, &["images.npy", "6x12, whose sides are swapped"]);
    workspace.fails(&format!("{line} 11x6"), 1, &["sample_size is 11x6", "multiples of 2, such as 12x6"]);
    workspace.fails(&format!("{line} 8,4"), 2, &["'8,4' for '--image-size", "width x height, such as 64x32"]);
    workspace.fails(&format!("{line} 8x8193"), 2, &["--image-size", "from 1 to 8192"]);
    // A data set of image files may have some of either form: a note.
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 6, 4);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.write_header().unwrap().write_image_data(&[7; 24]).unwrap();
    workspace.write("pictures/a.png", file);
    let said = workspace.succeeds("data pictures --image-size 4x6").stdout;
    assert!(said.contains("the first image is 6x4, width x height"), "{said}");
    workspace.fails(
        "data pictures --channels 5",
        1,
        &["pictures: channels", "expected 1 or 2 or 3 or 4, found 5"],
    );
}

#[test]
fn rectangles_are_enlarged_in_proportion() {
    let workspace = workspace(WIDE);
    let line = format!(
        "{TRAIN} --dataset images.npy --steps 1 --sample-every 1 --noise-augmentation 5 --output run \
         --super-resolution"
    );
    workspace.succeeds(&format!("{line} 2"));
    let config = workspace.read("run/checkpoint-000001/unet/config.json");
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["_super_resolution"], json!({ "low_size": [2, 4], "augmentation": 5 }));
    workspace.succeeds(&format!("{line} 4x2 --resume --steps 2").replacen("--steps 1 ", "", 1));
    let small = "small --dataset images.npy --image-size 4x2 --steps 1 --sample-every 0";
    workspace.succeeds(&format!("{TRAIN} --output {small}"));
    workspace.succeeds(&format!("sample small --then run --num-images 2 --save-npy drawn.npy {DRAW}"));
    assert_eq!(workspace.npy("drawn.npy").0, [2, 5, 6, 12]);
    workspace.succeeds(&format!("sample small --num-images 2 --save-npy low.npy {DRAW}"));
    workspace.succeeds(&format!("sample run --low-resolution low.npy {DRAW}"));
    let line = line.replace("--output run", "--output bad");
    workspace.fails(&format!("{line} 2x4"), 1, &["low_size is 2x4", "12x6, by the same number in both"]);
    workspace.fails(&format!("{line} 2x2"), 1, &["low_size is 2x2", "12x6"]);
    workspace.fails(
        &format!("sample run --num-images 2 {}", DRAW.replace("grid", "bad")),
        1,
        &["images of 4x2"],
    );
}

#[test]
fn classes_guide_and_a_classifier_judges_rectangles_of_five_channels() {
    let workspace = workspace(WIDE);
    let mut model: serde_json::Value = serde_json::from_slice(&workspace.read("model.json")).unwrap();
    model["num_class_embeds"] = json!(3);
    workspace.write("classes.json", model.to_string());
    // An .npz without compression: images, and the classes 0, 1, 2, 0, 1, 2.
    let text = format!("{:117}\n", "{'descr': '|u1', 'fortran_order': False, 'shape': (6,), }");
    let length = (text.len() as u16).to_le_bytes();
    let labels = [b"\x93NUMPY\x01\x00".as_slice(), &length, text.as_bytes(), &[0, 1, 2, 0, 1, 2]].concat();
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, contents) in [("images.npy", npy(WIDE, false)), ("labels.npy", labels)] {
        archive.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        std::io::Write::write_all(&mut archive, &contents).unwrap();
    }
    workspace.write("labelled.npz", archive.finish().unwrap().into_inner());
    let train = TRAIN.replace("model.json", "classes.json");
    workspace.succeeds(&format!(
        "{train} --dataset labelled.npz --label-dropout 0.2 --steps 1 --sample-every 1 --output run"
    ));
    // A row of eight images for each class becomes four rows of two strips.
    assert_eq!(picture(&workspace, "run/samples/step-000001.png"), strips(WIDE, 2, 12));
    let judge =
        "train-classifier --dataset labelled.npz --model model.json --device cpu --batch-size 3 --steps 1";
    workspace.succeeds(&format!("{judge} --num-train-timesteps 10 --measure-every 1 --output judge"));
    workspace.succeeds(&format!(
        "sample run --guidance-scale 2 --guidance-rescale 0.5 --classifier judge --num-images 3 {DRAW}"
    ));
    let line =
        "evaluate run --dataset labelled.npz --split train --classifier judge --num-images 6 --steps 2";
    assert!(workspace.succeeds(&format!("{line} --device cpu")).stdout.contains("6 images drawn"));
}
