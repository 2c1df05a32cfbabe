#![allow(clippy::unwrap_used)]

use super::super::tests::{golden, open_path, read_bytes};
use super::*;

/// Brightness of the first pixel, and the label.
fn read(path: &Path) -> (Vec<String>, Vec<(u8, Option<u32>)>) {
    let images = open_path(path).unwrap();
    let found = read_bytes(images.as_ref()).into_iter().map(|(pixels, label)| (pixels[0], label)).collect();
    (images.classes().to_vec(), found)
}

#[test]
fn a_folder_of_shards_is_one_dataset() {
    let (classes, found) = read(&golden("shards"));
    assert_eq!(classes, ["0", "1", "2"]);
    // the second is a JPEG of one grey, which may come back a step off
    assert!((19..=21).contains(&found[1].0), "{found:?}");
    assert_eq!(found[1].1, Some(0));
    assert_eq!([found[0], found[2], found[3]], [(10, Some(1)), (30, Some(2)), (40, Some(1))]);
    let (_, one) = read(&golden("shards").join("train-1.tar"));
    assert_eq!(one, [(40, Some(1))]);
}

#[test]
fn names_in_json_are_classes() {
    let (classes, found) = read(&golden("shards-json").join("names.tar"));
    assert_eq!(classes, ["cat", "dog"]);
    assert_eq!(found, [(50, Some(1)), (60, Some(0)), (70, Some(1))]);
}

#[test]
fn a_shard_that_is_cut_short_is_named_or_used_as_far_as_it_goes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.tar");
    let whole = fs::read(golden("shards").join("train-0.tar")).unwrap();
    // Padding follows the two blocks of zeros that end the file; what is cut there is no loss.
    let end = whole.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    for length in (0..end).step_by(61) {
        fs::write(&path, &whole[..length]).unwrap();
        let message = open_path(&path).err().unwrap().to_string();
        assert!(message.contains("cut.tar") && message.contains("whole tar file"), "{length}: {message}");
    }
    // the second picture breaks off
    let second = whole.windows(3).position(|bytes| bytes == [0xff, 0xd8, 0xff]).unwrap();
    fs::write(&path, &whole[..second + 20]).unwrap();
    let skipping = OpenOptions { skip_bad_images: true, ..OpenOptions::default() };
    let images = super::super::open(path.to_str().unwrap(), &skipping).unwrap();
    assert_eq!((images.len(), images.label(0)), (1, Some(1)));
    assert!(images.skipped()[0].reason.contains("s1.JPG"), "{:?}", images.skipped());
}

/// A tar file of members with the given names and contents.
fn tar_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn labels_that_make_no_sense_are_errors_that_name_the_member() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd.tar");
    let picture = &fs::read(golden("images").join("rgb.png")).unwrap()[..];
    let picture = ("a.png", picture);
    for (members, expected) in [
        (&[picture, ("a.cls", b"-1")][..], "a.cls"),
        (&[picture, ("a.cls", b" ")], "a.cls"),
        (&[picture, ("a.json", b"{")], "a.json"),
        (&[picture, ("a.json", b"{\"label\": [1]}")], "a.json"),
        (&[picture, ("a.cls", b"1"), ("b.png", picture.1)], "none for b.png"),
        (&[picture, ("a.cls", b"1"), ("b.png", picture.1), ("b.cls", b"dog")], "all numbers or all names"),
        (&[("a.txt", b"text")], "found none"),
    ] {
        fs::write(&path, tar_of(members)).unwrap();
        let message = open_path(&path).err().unwrap().to_string();
        assert!(message.contains("odd.tar") && message.contains(expected), "{message}");
    }
    // json without a label is a caption; a bad picture is named by its place in the tar file
    fs::write(&path, tar_of(&[picture, ("a.json", b"{\"text\": 1}"), ("b.png", b"GIF89a")])).unwrap();
    let sized = OpenOptions { image_size: Some(4), ..OpenOptions::default() };
    let images = super::super::open(path.to_str().unwrap(), &sized).unwrap();
    assert!(images.classes().is_empty());
    let message = images.read(1, &mut [0.0; 48]).unwrap_err().to_string();
    assert!(message.contains("odd.tar/b.png"), "{message}");
}

#[test]
fn a_gzipped_shard_says_to_gunzip_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shard.tar.gz");
    fs::write(&path, "any").unwrap();
    assert!(open_path(&path).err().unwrap().to_string().contains("gunzip"));
}
