//! Arrays that a command is given: what their numbers are taken for, and what is refused.

use super::support::Workspace;

/// Numbers of an image of [`Workspace`]'s model.
const PIXELS: usize = 64;

/// An `.npy` file as NumPy writes it, in C order.
fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    let text = format!("{text:117}\n");
    [b"\x93NUMPY\x01\x00".as_slice(), &(text.len() as u16).to_le_bytes(), text.as_bytes(), data].concat()
}

/// One image of floats, from a function of the pixel's share of the way, 0 to 1.
fn floats(value: impl Fn(f32) -> f32) -> Vec<u8> {
    let values = (0..PIXELS).flat_map(|i| value(i as f32 / (PIXELS - 1) as f32).to_le_bytes());
    npy("<f4", "(1, 1, 8, 8)", &values.collect::<Vec<u8>>())
}

/// `noise` at t = 0 leaves an image almost as it was: what the program took for it, in -1..1.
fn taken(workspace: &Workspace, name: &str, understood: &str) -> Vec<f32> {
    let line = format!("noise {name} --timesteps 0 --output strip.png --save-npy taken.npy");
    let said = workspace.succeeds(&line).stderr;
    assert!(said.contains(&format!("{name}: {understood}")), "{said}");
    workspace.npy("taken.npy").1
}

#[test]
fn the_same_image_is_taken_alike_in_every_range_and_by_every_reader() {
    let workspace = Workspace::new();
    workspace.write("unit.npy", floats(|x| x));
    workspace.write("over.npy", floats(|x| x * 1.000_000_1));
    workspace.write("signed.npy", floats(|x| 2.0 * x - 1.0));
    workspace.write("wide.npy", floats(|x| 255.0 * x));
    let bytes: Vec<u8> = (0..PIXELS).map(|i| (i * 255 / (PIXELS - 1)) as u8).collect();
    workspace.write("bytes.npy", npy("|u1", "(1, 8, 8, 1)", &bytes));
    let signed = taken(&workspace, "signed.npy", "floats -1 to 1");
    for (name, understood) in [
        ("unit.npy", "floats 0 to 1, found 0 to 1"),
        ("over.npy", "floats 0 to 1, found 0 to 1.0000001, clamped"),
        ("wide.npy", "floats 0 to 255"),
        ("bytes.npy", "whole numbers 0 to 255"),
    ] {
        let found = taken(&workspace, name, understood);
        let off = found.iter().zip(&signed).fold(0.0_f32, |worst, (a, b)| worst.max((a - b).abs()));
        assert!(off < 0.01, "{name} is {off} off");
        let said = workspace.succeeds(&format!("data {name}")).stdout;
        assert!(said.contains(understood), "{said}");
    }
    // x_t of large noise goes beyond -1..1, and comes back as it was
    workspace.succeeds("noise digits --num-images 2 --timesteps 500 --output strip.png --save-npy own.npy");
    let first = taken(&workspace, "own.npy", "floats as ddpm-gpu writes them");
    let (_, own) = workspace.npy("own.npy");
    assert!(own.iter().any(|value| value.abs() > 1.5));
    let off = first.iter().zip(&own).fold(0.0_f32, |worst, (a, b)| worst.max((a - b).abs()));
    assert!(off < 0.1, "own.npy is {off} off");
}

#[test]
fn what_is_no_image_or_not_finite_is_refused_by_every_reader() {
    let workspace = Workspace::new();
    workspace.train("run", 1, "");
    workspace.write("dark.npy", floats(|x| 16.0 * x));
    workspace.write("nan.npy", floats(|x| if x == 0.0 { f32::NAN } else { x }));
    workspace.write("infinite.npy", floats(|x| if x == 1.0 { f32::INFINITY } else { x }));
    workspace.write("bytes.npy", npy("|u1", "(1, 1, 8, 8)", &[7; PIXELS]));
    workspace.write("x.npy", floats(|x| x));
    let edit = "image-to-image run --class-label 1 --steps 2 --output bad.png --device cpu";
    let sample = "sample run --class-label 1 --steps 2 --output bad.png --device cpu";
    let predict = "predict run --class-labels 1 --output bad.npy --device cpu";
    for (line, words) in [
        (format!("{edit} --images dark.npy"), &["dark.npy", "0 to 16", "at least 64"][..]),
        (format!("{edit} --images nan.npy"), &["nan.npy", "NaN at index [0, 0, 0, 0]"]),
        (format!("{sample} --init-noise nan.npy"), &["nan.npy", "NaN at index [0, 0, 0, 0]"]),
        (format!("{sample} --init-noise infinite.npy"), &["infinite.npy", "inf at index [0, 0, 7, 7]"]),
        (format!("{sample} --init-noise bytes.npy"), &["bytes.npy", "dtype |u1", "float32"]),
        (format!("{predict} --timesteps 1 --input nan.npy"), &["nan.npy", "NaN at index"]),
        (format!("{predict} --timesteps NaN --input x.npy"), &["--timesteps", "NaN is not finite"]),
        (format!("{predict} --timesteps 1,-inf --input x.npy"), &["--timesteps", "-inf is not finite"]),
        ("data nan.npy".to_owned(), &["nan.npy", "NaN at index [0, 0, 0, 0]"]),
    ] {
        workspace.fails(&line, 1, words);
    }
}

#[test]
fn masks_of_0_and_1_paint_and_black_ones_are_refused() {
    let workspace = Workspace::new();
    workspace.train("run", 1, "");
    let png = |value: u8| {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, 8, 8);
        encoder.set_color(png::ColorType::Grayscale);
        let pixels: Vec<u8> = (0..PIXELS).map(|i| if i % 8 < 4 { 0 } else { value }).collect();
        encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
        file
    };
    for value in [0, 1, 5, 255] {
        workspace.write(&format!("{value}.png"), png(value));
    }
    workspace.write("floats.npy", floats(|_| 0.0));
    let half: Vec<u8> = (0..PIXELS).map(|i| u8::from(i % 8 >= 4)).collect();
    workspace.write("bytes.npy", npy("|u1", "(8, 8)", &half));
    let line = "inpaint run --images digits --num-images 1 --class-label 1 --steps 2 --resample 1 --jump-length 1 \
                --output grid.png --device cpu";
    let painted = |mask: &str| {
        let said = workspace.succeeds(&format!("{line} --mask {mask} --save-npy out.npy")).stderr;
        (workspace.npy("out.npy").1, said)
    };
    let (white, said) = painted("255.png");
    assert!(!said.contains("0 and 1"), "{said}");
    let (ones, said) = painted("1.png");
    assert!(said.contains("1.png: the numbers of the mask are 0 and 1"), "{said}");
    let (bytes, said) = painted("bytes.npy");
    assert!(said.contains("bytes.npy: whole numbers 0 to 1"), "{said}");
    assert!(bytes == white);
    let off = ones.iter().zip(&white).fold(0.0_f32, |worst, (a, b)| worst.max((a - b).abs()));
    assert!(off < 1e-3, "{off}");
    let line = line.replace("grid.png", "bad.png");
    workspace.fails(&format!("{line} --mask 0.png"), 1, &["0.png", "black", "paints nothing"]);
    workspace.fails(&format!("{line} --mask 5.png"), 1, &["5.png", "5 of 255"]);
    workspace.fails(&format!("{line} --mask floats.npy"), 1, &["floats.npy", "paints nothing"]);
}

#[test]
fn a_data_set_of_squares_has_no_images_that_are_not() {
    let workspace = Workspace::new();
    workspace.write_model("wide.json", "sample_size", serde_json::json!([8, 16]));
    let line = "train --dataset digits --model wide.json --device cpu --batch-size 2 --steps 1 --output run";
    workspace.fails(line, 1, &["digits: image size", "8x8 or 16x16, found 16x8"]);
}

/// Names as on Kaggle; a pickle that asks for 2^27 values under a name of CIFAR-10's.
#[test]
fn mnist_with_a_dot_is_read_and_a_pickle_bomb_is_not() {
    let workspace = Workspace::new();
    let idx = |dimensions: &[u32], data: &[u8]| {
        let sizes = dimensions.iter().flat_map(|size| size.to_be_bytes()).collect::<Vec<u8>>();
        [&[0, 0, 8, dimensions.len() as u8], sizes.as_slice(), data].concat()
    };
    workspace.write("mnist/train-images.idx3-ubyte", idx(&[2, 8, 8], &[90; 2 * PIXELS]));
    workspace.write("mnist/train-labels.idx1-ubyte", idx(&[2], &[0, 3]));
    let said = workspace.succeeds("data mnist").stdout;
    assert!(said.contains("2 images, 4 classes"), "{said}");
    workspace
        .write("bomb/data_batch_1", [b"\x80\x02N".to_vec(), b"2\x86".repeat(27), b".".to_vec()].concat());
    workspace.fails("data bomb", 1, &["data_batch_1", "opcode DUP"]);
}
