//! What happens to a run whose images are bad, gone or replaced, and what is no file.

use super::support::Workspace;

/// A PNG file of one grey picture of 8 x 8 pixels, another for each number.
fn png(number: u8) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 8, 8);
    encoder.set_color(png::ColorType::Grayscale);
    let pixels: Vec<u8> = (0..64).map(|i| number.wrapping_mul(17).wrapping_add(3 * i)).collect();
    encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    file
}

/// A folder `pictures` of twelve pictures, and a model without classes.
fn pictures() -> Workspace {
    let workspace = Workspace::new();
    workspace.write_model("free.json", "num_class_embeds", serde_json::Value::Null);
    for number in 0..12 {
        workspace.write(&format!("pictures/{number:02}.png"), png(number));
    }
    workspace
}

const TRAIN: &str = "train --dataset pictures --model free.json --device cpu --batch-size 3 --sample-every 0";

#[test]
fn a_bad_image_saves_the_run_and_what_the_message_names_is_allowed() {
    let workspace = pictures();
    // So long that images are not decoded before training; one that comes after some steps.
    let long = std::fs::File::create(workspace.path("pictures/zz.png")).unwrap();
    long.set_len(300 << 20).unwrap();
    for output in ["removed", "skipped"] {
        let line = format!("{TRAIN} --steps 12 --seed 1 --output {output}");
        let said = workspace.run(&line);
        assert_eq!(said.code, Some(1), "{}", said.stderr);
        for word in ["zz.png", "at most 257 MiB", "is whole", "--resume"] {
            assert!(said.stderr.contains(word), "{word} is not in {}", said.stderr);
        }
        let again = workspace.run(&format!("{line} --resume"));
        assert!(again.code == Some(1) && again.stderr.contains("zz.png"), "{}", again.stderr);
    }
    let line = format!("{TRAIN} --steps 12 --seed 1 --resume");
    workspace.succeeds(&format!("{line} --output skipped --skip-bad-images"));
    std::fs::remove_file(workspace.path("pictures/zz.png")).unwrap();
    workspace.succeeds(&format!("{line} --output removed"));
    // the same images are left, so the rest of both runs is the same
    let weights = |run: &str| {
        workspace.read(&format!("{run}/checkpoint-000012/unet/diffusion_pytorch_model.safetensors"))
    };
    assert!(weights("removed") == weights("skipped"));
}

#[test]
fn bad_images_of_a_small_set_are_found_before_training() {
    let workspace = pictures();
    workspace.write("pictures/07.png", &png(7)[..50]);
    workspace.write("pictures/09.png", "text");
    let line = format!("{TRAIN} --steps 1 --output run");
    workspace.fails(&line, 1, &["07.png", "cut short", "1 more image is bad", "--skip-bad-images"]);
}

#[test]
fn a_run_does_not_go_on_with_other_images() {
    let workspace = pictures();
    let line = format!("{TRAIN} --output run");
    workspace.succeeds(&format!("{line} --steps 1"));
    for number in [5, 7, 9] {
        workspace.write(&format!("pictures/{number:02}.png"), png(100 + number));
    }
    workspace.fails(
        &format!("{line} --steps 2 --resume"),
        1,
        &["other images", "first that differs", "05.png"],
    );
    // what an earlier version saved, which knows some of the images only
    for number in [5, 7, 9] {
        workspace.write(&format!("pictures/{number:02}.png"), png(number));
    }
    let path = "run/checkpoint-000001/training_state/state.json";
    let mut state: serde_json::Value = serde_json::from_slice(&workspace.read(path)).unwrap();
    let contents = state["dataset"].as_object_mut().unwrap().remove("contents").unwrap();
    assert_eq!(contents["each"].as_str().unwrap().len(), 12 * 8);
    let mut values = vec![0xff; 4 * 12];
    for number in 0..12 {
        let mut reader = png::Decoder::new(std::io::Cursor::new(png(number))).read_info().unwrap();
        let mut pixels = vec![0; 64];
        reader.next_frame(&mut pixels).unwrap();
        values
            .extend(pixels.iter().flat_map(|&pixel| (2.0 * (f32::from(pixel) / 255.0) - 1.0).to_le_bytes()));
    }
    state["dataset"]["checksum"] = crc32c::crc32c(&values).into();
    workspace.write(path, state.to_string());
    workspace.succeeds(&format!("{line} --steps 2 --resume"));
}

#[test]
fn what_is_passed_over_is_counted_and_named() {
    let workspace = pictures();
    workspace.write("pictures/notes.txt", "text");
    workspace.write("pictures/a.svg", "<svg>");
    let expected = "passed over: 2 that are not taken (1 .svg files, such as pictures/a.svg; 1 .txt files";
    let said = workspace.succeeds("data pictures").stdout;
    assert!(said.contains(expected) && said.contains("no bad files"), "{said}");
    let said = workspace.succeeds(&format!("{TRAIN} --steps 1 --output run")).stderr;
    assert!(said.contains(expected), "{said}");
}

#[test]
fn a_folder_is_evaluated_whole() {
    let workspace = pictures();
    workspace.succeeds(&format!("{TRAIN} --steps 1 --num-train-timesteps 4 --output run"));
    let line = "evaluate run --device cpu --nll vlb --dataset";
    let said = workspace.succeeds(&format!("{line} pictures")).stdout;
    assert!(said.contains("12 images of pictures"), "{said}");
    workspace.succeeds(&format!("{line} pictures --split train --num-images 1"));
    workspace.fails(&format!("{line} pictures --split test"), 1, &["pictures: split", "held-out images"]);
    workspace.fails(&format!("{line} digits"), 1, &["digits: split", "--split train"]);
}

#[cfg(unix)]
#[test]
fn pipes_and_devices_are_refused_at_every_door() {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    let workspace = pictures();
    workspace.train("run", 1, "--num-train-timesteps 4");
    for name in ["pipe", "pipe.png", "pipe.npy", "pipe.npz", "pipe.tar", "pipe.json", "folder/a.png"] {
        std::fs::create_dir_all(workspace.path(name).parent().unwrap()).unwrap();
        assert!(Command::new("mkfifo").arg(workspace.path(name)).status().unwrap().success());
    }
    std::os::unix::fs::symlink("/dev/zero", workspace.path("zero.png")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", workspace.path("zero.npy")).unwrap();
    let checkpoint = |name: &str, file: &str| {
        let mut copy = Command::new("cp");
        copy.arg("-r").args(["run/checkpoint-000001", name]).current_dir(workspace.path(""));
        let copied = copy.status().unwrap();
        assert!(copied.success());
        std::fs::remove_file(workspace.path(&format!("{name}/{file}"))).unwrap();
        assert!(
            Command::new("mkfifo").arg(workspace.path(&format!("{name}/{file}"))).status().unwrap().success()
        );
    };
    checkpoint("config", "unet/config.json");
    checkpoint("weights", "unet/diffusion_pytorch_model.safetensors");
    checkpoint("scheduler", "scheduler/scheduler_config.json");
    let train = "train --device cpu --steps 1 --sample-every 0 --output new";
    let draw = "--device cpu --steps 2 --output grid.png";
    for line in [
        &format!("{train} --dataset digits --config pipe"),
        &format!("{train} --dataset digits --model pipe.json"),
        &format!("{train} --dataset digits --trained-betas pipe.json"),
        &format!("{train} --dataset folder --model free.json"),
        &format!("{train} --dataset pipe.npz --model free.json"),
        &format!("{train} --dataset pipe.tar --model free.json"),
        &format!("sample run {draw} --init-noise pipe.npy"),
        &format!("sample run {draw} --init-noise zero.npy"),
        &format!("sample config {draw}"),
        &format!("sample weights {draw}"),
        &format!("sample scheduler {draw}"),
        &format!("inpaint run {draw} --images digits --mask pipe.png"),
        &format!("inpaint run {draw} --images digits --mask zero.png"),
        "noise pipe.png --timesteps 1 --output strip.png",
        "noise zero.npy --timesteps 1 --output strip.png",
        "predict run --input pipe.npy --timesteps 1 --output out.npy --device cpu",
        "plot pipe --output loss.png",
    ] {
        let mut child = workspace.command(line).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let start = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if start.elapsed() > Duration::from_secs(60) {
                child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code().is_some_and(|code| code > 0), "`{line}` said:\n{said}");
        let is_named = ["a named pipe (FIFO)", "a device", "a file of another kind"]
            .iter()
            .any(|kind| said.contains(kind));
        assert!(is_named && !said.contains("panicked"), "`{line}` said:\n{said}");
    }
}
