use std::fs;
use std::path::Path;

use super::*;
use crate::data::Fingerprint;
use crate::data::{Batch, Loader, LoaderOptions, OpenOptions, open};

/// A grey picture of 4 x 2 pixels that counts from `first`, as a Netpbm file.
fn picture(path: &Path, first: u8) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let pixels: Vec<u8> = (0..8).map(|i| first + 10 * i).collect();
    fs::write(path, [b"P5 4 2 255\n".as_slice(), &pixels].concat()).unwrap();
}

fn grey(path: &Path) -> Box<dyn Dataset> {
    let options = OpenOptions { channels: Some(1), ..OpenOptions::default() };
    open(path.to_str().unwrap(), &options).unwrap()
}

/// Two folders in which each image of `names` begins with its number, and its condition with 100 more.
fn folders(names: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (number, name) in (0..).zip(names) {
        picture(&folder.path().join(format!("photos/{name}.pgm")), number);
        picture(&folder.path().join(format!("sketches/{name}.pnm")), 100 + number);
    }
    folder
}

fn pair(folder: &Path) -> Result<Paired, DataError> {
    Paired::new(grey(&folder.join("photos")).into(), grey(&folder.join("sketches")).into())
}

fn level(value: f32) -> f32 {
    ((value + 1.0) * 127.5).round()
}

#[test]
fn files_are_paired_by_their_names_in_class_folders_too() {
    for names in [["b", "a", "c"], ["two/b", "one/a", "two/a"]] {
        let folder = folders(&names);
        // One that belongs to nothing; and it comes first.
        picture(&folder.path().join("sketches").join(format!("{}0.pgm", names[1])), 90);
        let paired = pair(folder.path()).unwrap();
        assert_eq!((paired.len(), paired.condition_image().unwrap().channels), (3, 1));
        assert!(paired.unused().unwrap().contains("1 image"), "{:?}", paired.unused());
        let mut pixels = [0.0; 8];
        for index in 0..3 {
            let told = paired.read(index, &mut pixels).unwrap();
            let Numbers::Floats(image) = told.get(CONDITION_IMAGE).unwrap().numbers() else {
                panic!("no floats")
            };
            assert_eq!(level(image[0]), level(pixels[0]) + 100.0, "{}", paired.location(index));
            assert_eq!(told.class_labels().is_some(), names[0].contains('/'));
        }
    }
}

#[test]
fn images_without_a_partner_are_named() {
    let folder = folders(&["a", "b"]);
    picture(&folder.path().join("photos/alone.pgm"), 3);
    let message = pair(folder.path()).err().unwrap().to_string();
    assert!(message.contains("1 of 3 images have no condition image of their name: alone"), "{message}");
    assert!(message.contains("are called a, b"), "{message}");
    fs::remove_file(folder.path().join("photos/alone.pgm")).unwrap();
    picture(&folder.path().join("sketches/a.pgm"), 3);
    let message = pair(folder.path()).err().unwrap().to_string();
    assert!(message.contains("are of the same name"), "{message}");
}

/// What is mirrored and shifted is mirrored and shifted together.
#[test]
fn augmentation_changes_both_images_of_a_pair_alike() {
    let folder = folders(&["a", "b", "c", "d", "e"]);
    let paired: Arc<dyn Dataset> = Arc::new(pair(folder.path()).unwrap());
    let options =
        LoaderOptions { batch_size: 20, seed: 3, first_step: 0, random_flip: true, random_shift: 1 };
    let Batch { images, conditions } = Loader::new(paired, options).unwrap().next().unwrap();
    let Numbers::Floats(sketches) = conditions.get(CONDITION_IMAGE).unwrap().numbers() else {
        panic!("no floats")
    };
    assert_eq!(images.len(), sketches.len());
    for (image, sketch) in images.iter().zip(sketches) {
        assert_eq!(level(*image) + 100.0, level(*sketch));
    }
    let rows: std::collections::BTreeSet<Vec<u32>> =
        images.chunks(8).map(|image| image.iter().map(|value| level(*value) as u32).collect()).collect();
    assert!(rows.len() > 5, "nothing was mirrored or shifted");
}

#[test]
fn a_fingerprint_notices_another_condition_image() {
    let folder = folders(&["a", "b", "c"]);
    let then = Fingerprint::of(&pair(folder.path()).unwrap()).unwrap();
    let same = pair(folder.path()).unwrap();
    assert_eq!(then.difference(&Fingerprint::of(&same).unwrap(), &same).unwrap(), None);
    picture(&folder.path().join("sketches/b.pnm"), 77);
    let other = pair(folder.path()).unwrap();
    let found = then.difference(&Fingerprint::of(&other).unwrap(), &other).unwrap().unwrap();
    assert!(found.contains("b.pnm") && found.contains("number 5 of 6"), "{found}");
}
