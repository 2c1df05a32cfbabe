#![allow(clippy::unwrap_used)]

use png::{BitDepth, ColorType};

use super::super::codec::tests::encode;
use super::super::{Dataset, ImageShape, Split};
use super::*;

/// Writes a grey PNG of one value, and makes the folders above it.
fn write_grey(path: &Path, size: (u32, u32), value: u8) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let data = vec![value; (size.0 * size.1) as usize];
    fs::write(path, encode(size, ColorType::Grayscale, BitDepth::Eight, (&[], &[]), &data)).unwrap();
}

fn open(path: &Path, options: &OpenOptions) -> Result<Box<dyn Dataset>, DataError> {
    super::super::open(path.to_str().unwrap(), options)
}

fn error(path: &Path, options: &OpenOptions) -> String {
    open(path, options).err().unwrap().to_string()
}

fn sized(image_size: usize) -> OpenOptions {
    OpenOptions { channels: Some(1), image_size: Some([image_size; 2]), ..Default::default() }
}

/// The first pixel and the label of every image.
fn read_all(dataset: &dyn Dataset) -> Vec<(f32, Option<u32>)> {
    let mut pixels = vec![f32::NAN; dataset.image_shape().elements()];
    (0..dataset.len())
        .map(|index| {
            let known = dataset.read(index, &mut pixels).unwrap();
            assert!(pixels.iter().all(|&pixel| (pixel - pixels[0]).abs() < 1e-6));
            (pixels[0], known.class_labels().map(|labels| labels[0]))
        })
        .collect()
}

#[test]
fn loose_images_are_sorted_and_unlabelled() {
    let folder = tempfile::tempdir().unwrap();
    write_grey(&folder.path().join("b.PNG"), (5, 9), 255);
    write_grey(&folder.path().join("a.png"), (4, 4), 0);
    write_grey(&folder.path().join(".hidden.png"), (4, 4), 9);
    fs::write(folder.path().join("notes.txt"), "not an image").unwrap();
    fs::create_dir(folder.path().join("empty")).unwrap();

    let images = open(folder.path(), &sized(4)).unwrap();
    assert!(images.classes().is_empty());
    assert_eq!(read_all(images.as_ref()), [(-1.0, None), (1.0, None)]);
}

#[test]
fn subfolders_are_classes_in_the_order_of_their_names() {
    let folder = tempfile::tempdir().unwrap();
    write_grey(&folder.path().join("zebra/1.png"), (4, 4), 255);
    write_grey(&folder.path().join("ant/2.png"), (8, 6), 0);
    write_grey(&folder.path().join("ant/1.png"), (3, 4), 255);

    let images = open(folder.path(), &sized(4)).unwrap();
    assert_eq!(images.classes(), ["ant", "zebra"]);
    assert_eq!(read_all(images.as_ref()), [(1.0, Some(0)), (-1.0, Some(0)), (1.0, Some(1))]);
}

#[test]
fn size_and_channels_default_to_the_first_image_and_colour() {
    let folder = tempfile::tempdir().unwrap();
    write_grey(&folder.path().join("a.png"), (5, 3), 51);
    let images = open(folder.path(), &OpenOptions::default()).unwrap();
    assert_eq!(images.image_shape(), ImageShape { channels: 3, height: 3, width: 5 });
    assert_eq!(read_all(images.as_ref()), [(2.0 * 0.2 - 1.0, None)]);
}

#[test]
fn folders_without_images_are_errors_that_name_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().display().to_string();
    let message = error(folder.path(), &sized(4));
    assert!(message.contains(&name) && message.contains("found none"), "{message}");

    fs::write(folder.path().join("photo.svg"), "<svg>").unwrap();
    assert!(error(folder.path(), &sized(4)).contains("photo.svg"));

    write_grey(&folder.path().join("cat/1.png"), (4, 4), 0);
    fs::create_dir(folder.path().join("dog")).unwrap();
    assert!(error(folder.path(), &sized(4)).contains("dog"));

    write_grey(&folder.path().join("dog/1.png"), (4, 4), 0);
    assert_eq!(open(folder.path(), &sized(4)).unwrap().len(), 2);
    write_grey(&folder.path().join("loose.png"), (4, 4), 0);
    assert!(error(folder.path(), &sized(4)).contains("both"));
}

#[test]
fn images_below_a_class_folder_are_of_that_class() {
    let folder = tempfile::tempdir().unwrap();
    write_grey(&folder.path().join("cat/2020/may/1.png"), (4, 4), 255);
    write_grey(&folder.path().join("cat/2021/1.png"), (4, 4), 0);
    write_grey(&folder.path().join("dog/1.png"), (4, 4), 0);
    write_grey(&folder.path().join("dog/.thumbnails/1.png"), (4, 4), 255);
    let images = open(folder.path(), &sized(4)).unwrap();
    assert_eq!(images.classes(), ["cat", "dog"]);
    assert_eq!(read_all(images.as_ref()), [(1.0, Some(0)), (-1.0, Some(0)), (-1.0, Some(1))]);
}

#[test]
fn where_images_lie_deeper_than_classes_would_it_is_said_where() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["train/cat/1.png", "train/cat/2.png", "train/dog/1.png", "test/cat/1.png"] {
        write_grey(&folder.path().join(name), (4, 4), 0);
    }
    let message = error(folder.path(), &sized(4));
    let at = |name: &str| folder.path().join(name).display().to_string();
    for part in ["none there, and 4 in deeper folders", &at("test/cat"), &at("train/cat"), &at("train/dog")] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    assert!(message.contains(&format!("such as {}", at("test"))), "{message}");
    assert_eq!(open(&folder.path().join("train"), &sized(4)).unwrap().classes(), ["cat", "dog"]);
}

#[test]
fn what_is_passed_over_is_counted_and_named() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.png", "b.png"] {
        write_grey(&folder.path().join(name), (4, 4), 0);
    }
    for name in ["x.txt", "y.TXT", "z.svg", "LICENSE", ".DS_Store"] {
        fs::write(folder.path().join(name), "text").unwrap();
    }
    let images = open(folder.path(), &sized(4)).unwrap();
    let found: Vec<(&str, usize)> =
        images.passed_over().iter().map(|kind| (kind.kind.as_str(), kind.count)).collect();
    assert_eq!(found, [(".txt files", 2), (".svg files", 1), ("files without an extension", 1)]);
    assert!(images.passed_over()[0].example.ends_with("x.txt"));
}

#[cfg(unix)]
#[test]
fn links_to_folders_above_end_somewhere_and_links_to_devices_are_bad_images() {
    let folder = tempfile::tempdir().unwrap();
    write_grey(&folder.path().join("cat/1.png"), (4, 4), 0);
    write_grey(&folder.path().join("dog/1.png"), (4, 4), 255);
    std::os::unix::fs::symlink("..", folder.path().join("cat/loop")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", folder.path().join("cat/2.png")).unwrap();
    crate::files::tests::make_fifo(&folder.path().join("dog/2.png"));
    let images = open(folder.path(), &sized(4)).unwrap();
    assert_eq!(images.len(), 4);
    let message = images.read(1, &mut [0.0; 16]).unwrap_err().to_string();
    assert!(message.contains("a device"), "{message}");
    let message = images.check().unwrap_err().to_string();
    assert!(message.contains("2.png") && message.contains("1 more image is bad"), "{message}");
    assert_eq!(images.passed_over()[0].kind, "links to a folder that is read already");
    let lenient = open(folder.path(), &OpenOptions { skip_bad_images: true, ..sized(4) }).unwrap();
    assert_eq!((lenient.len(), lenient.skipped().len()), (2, 2));
}

#[test]
fn a_folder_of_two_formats_is_refused_and_says_what_speaks_for_each() {
    let golden = crate::data::tests::golden;
    let shard = fs::read(golden("shards").join("train-1.tar")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for name in ["cat/1.png", "cat/2.png", "dog/1.png"] {
        write_grey(&folder.path().join(name), (4, 4), 0);
    }
    // what macOS puts beside a file is not a tar file
    fs::write(folder.path().join("._000.tar"), "resource fork").unwrap();
    assert_eq!(open(folder.path(), &sized(4)).unwrap().classes(), ["cat", "dog"]);
    fs::write(folder.path().join("dog.tar"), &shard).unwrap();
    let message = error(folder.path(), &sized(4));
    for part in
        ["3 images", "1.png", "1 image of a WebDataset tar file", "s0.input.png", "move what is not meant"]
    {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    let shards = tempfile::tempdir().unwrap();
    fs::write(shards.path().join("000.tar"), &shard).unwrap();
    fs::write(shards.path().join("._000.tar"), "resource fork").unwrap();
    assert_eq!(open(shards.path(), &sized(4)).unwrap().len(), 1);
    fs::copy(golden("arrays").join("plain.npz"), shards.path().join("plain.npz")).unwrap();
    let images = open(shards.path(), &sized(4)).unwrap();
    assert!(images.len() == 1 && images.passed_over().iter().any(|kind| kind.kind == ".npz files"));
    for name in ["data_batch_1.bin", "train-images-idx3-ubyte"] {
        let path = shards.path().join(name);
        fs::write(&path, "any").unwrap();
        assert!(error(shards.path(), &sized(4)).contains("what looks like"), "{name}");
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn what_a_folder_cannot_deliver_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    write_grey(&folder.path().join("a.png"), (4, 4), 0);
    let five_channels = OpenOptions { channels: Some(5), ..sized(4) };
    assert!(error(folder.path(), &five_channels).contains("expected 1 or 2 or 3 or 4, found 5"));
    assert!(error(folder.path(), &sized(0)).contains("image size"));
    assert!(error(folder.path(), &sized(usize::MAX)).contains("image size"));
    assert!(error(folder.path(), &OpenOptions { split: Split::Test, ..sized(4) }).contains("split"));
    assert!(error(&folder.path().join("a.png"), &sized(4)).contains("a folder of images"));
}

#[test]
fn bad_images_are_errors_or_are_skipped_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    write_grey(&folder.path().join("ant/1.png"), (4, 4), 0);
    write_grey(&folder.path().join("bee/1.png"), (4, 4), 255);
    let whole = fs::read(folder.path().join("ant/1.png")).unwrap();
    for (name, bytes) in [("ant/0.png", &whole[..20]), ("ant/3.png", b"text"), ("bee/2.png", &whole[..50])] {
        fs::write(folder.path().join(name), bytes).unwrap();
    }

    let strict = open(folder.path(), &sized(4)).unwrap();
    assert_eq!(strict.len(), 5);
    assert!(strict.skipped().is_empty());
    let message = strict.read(0, &mut [0.0; 16]).unwrap_err().to_string();
    assert!(message.contains("0.png") && message.contains("leave such files out"), "{message}");

    let lenient = open(folder.path(), &OpenOptions { skip_bad_images: true, ..sized(4) }).unwrap();
    assert_eq!(read_all(lenient.as_ref()), [(-1.0, Some(0)), (1.0, Some(1))]);
    let skipped: Vec<_> = lenient.skipped().iter().map(|file| file.path.file_name().unwrap()).collect();
    assert_eq!(skipped, ["0.png", "3.png", "2.png"]);
    assert!(!lenient.skipped()[1].reason.contains("leave such files out"));

    for good in ["ant/1.png", "bee/1.png"] {
        fs::write(folder.path().join(good), "text").unwrap();
    }
    assert!(error(folder.path(), &OpenOptions { skip_bad_images: true, ..sized(4) }).contains("5 of them"));
}
