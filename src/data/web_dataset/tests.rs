#![allow(clippy::unwrap_used)]

use std::fs;

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
        (&[picture, ("a.jpg", picture.1)], "two, a.png and a.jpg"),
        (&[picture, ("b.cls", b"1")], "a picture for the label b.cls"),
        (
            &[picture, ("a.v2.cls", b"1")],
            "the label a.v2.cls, with the same name, found none; the nearest is a.png",
        ),
        (&[picture, ("a.cls", b"1"), ("a.json", b"{\"label\": 2}")], "two that differ, in a.cls and a.json"),
        (&[("a.x.png", picture.1), ("a.y.png", picture.1), ("a.cls", b"1")], "such as a.x.png and a.y.png"),
        (&[("a.txt", b"text")], "found none"),
    ] {
        fs::write(&path, tar_of(members)).unwrap();
        let message = open_path(&path).err().unwrap().to_string();
        assert!(message.contains("odd.tar") && message.contains(expected), "{message}");
    }
    // json without a label is a caption; a bad picture is named by its place in the tar file
    fs::write(&path, tar_of(&[picture, ("a.json", b"{\"text\": 1}"), ("b.png", b"GIF89a")])).unwrap();
    let sized = OpenOptions { image_size: Some([4, 4]), ..OpenOptions::default() };
    let images = super::super::open(path.to_str().unwrap(), &sized).unwrap();
    assert!(images.classes().is_empty());
    let message = images.read(1, &mut [0.0; 48]).unwrap_err().to_string();
    assert!(message.contains("odd.tar/b.png"), "{message}");
}

#[test]
fn a_bad_label_is_one_bad_image_and_a_cut_is_named_where_labels_come_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd.tar");
    let picture = fs::read(golden("images").join("rgb.png")).unwrap();
    let whole = tar_of(&[
        ("a.png", &picture),
        ("a.cls", b"1"),
        ("b.input.png", &picture),
        ("b.cls", b" "),
        ("c.png", &picture),
        ("c.cls", b"2"),
    ]);
    fs::write(&path, &whole).unwrap();
    let skipping = OpenOptions { skip_bad_images: true, ..OpenOptions::default() };
    let images = super::super::open(path.to_str().unwrap(), &skipping).unwrap();
    assert_eq!((images.len(), images.skipped().len()), (2, 1));
    assert!(images.skipped()[0].reason.contains("b.cls"), "{:?}", images.skipped());

    // The sample before the cut may lack a part too.
    let names = ["a", "b", "c"].map(|name| [format!("{name}.cls"), format!("{name}.png")]);
    let labels = names.iter().map(|[label, _]| (label.as_str(), &b"1"[..]));
    let pictures = names.iter().map(|[_, name]| (name.as_str(), &picture[..]));
    let labels_first = tar_of(&labels.chain(pictures).collect::<Vec<_>>());
    let last = labels_first.windows(picture.len()).rposition(|bytes| bytes == picture).unwrap();
    fs::write(&path, &labels_first[..last + 20]).unwrap();
    assert!(open_path(&path).err().unwrap().to_string().contains("cut short"));
    let images = super::super::open(path.to_str().unwrap(), &skipping).unwrap();
    assert_eq!((images.len(), images.skipped().len()), (1, 1));
}

/// Names of pictures with their labels.
type Labelled = Vec<(String, Option<u32>)>;

/// The pictures of a tar file by their names, with their labels, and the kinds of what is passed over.
fn index_of(members: &[(&str, &[u8])]) -> (Labelled, Vec<(String, usize)>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.tar");
    fs::write(&path, tar_of(members)).unwrap();
    let images = open_path(&path).unwrap();
    let prefix = format!("{}/", path.display());
    let name = |index| images.location(index).strip_prefix(&prefix).unwrap().to_owned();
    let found = (0..images.len()).map(|index| (name(index), images.label(index))).collect();
    (found, images.passed_over().iter().map(|kind| (kind.kind.clone(), kind.count)).collect())
}

#[test]
fn names_with_dots_are_samples_of_their_own() {
    let picture = &fs::read(golden("images").join("rgb.png")).unwrap()[..];
    let names: Vec<String> = (0..10).map(|i| format!("d/shot.{i:04}.png")).collect();
    let members: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), picture)).collect();
    let (found, _) = index_of(&members);
    assert_eq!(found, names.iter().map(|name| (name.clone(), None)).collect::<Vec<_>>());

    // labels by the same name, wherever they lie in the file
    let members = [
        ("img_0.v2.cls", &b"1"[..]),
        ("img_1.v2.png", picture),
        ("img_0.v2.png", picture),
        ("img_1.v2.cls", b"0"),
        ("./._img_0.v2.png", b"resource fork"),
        ("img.d/x.PNG", picture),
        ("img.d/x.json", b"{\"label\": 1}"),
    ];
    let (found, _) = index_of(&members);
    let expected = [("img_1.v2.png", Some(0)), ("img_0.v2.png", Some(1)), ("img.d/x.PNG", Some(1))];
    assert_eq!(found, expected.map(|(name, label)| (name.to_owned(), label)));
}

#[test]
fn beside_a_plain_picture_others_of_its_sample_are_passed_over() {
    let picture = &fs::read(golden("images").join("rgb.png")).unwrap()[..];
    for order in [["0000.depth.png", "0000.jpg"], ["0000.jpg", "0000.depth.png"]] {
        let members =
            [(order[0], picture), ("0000.cls", &b"3"[..]), (order[1], picture), ("0000.txt", b"a caption")];
        let (found, rest) = index_of(&members);
        assert_eq!(found, [("0000.jpg".to_owned(), Some(3))]);
        let kinds = [(".txt files", 1), ("pictures beside one with a plainer name", 1)];
        assert_eq!(rest, kinds.map(|(kind, count)| (kind.to_owned(), count)));
    }
}

#[test]
fn a_header_that_goes_on_and_on_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.tar");
    let picture = fs::read(golden("images").join("rgb.png")).unwrap();
    for (kind, length, is_read) in [
        (tar::EntryType::GNULongName, 1000_u64, true),
        (tar::EntryType::GNULongName, 3 << 20, false),
        (tar::EntryType::XHeader, 3 << 20, false),
    ] {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(length);
        header.set_cksum();
        let name = [vec![b'x'; length as usize - 4], b".png".to_vec()].concat();
        builder.append(&header, &name[..]).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(picture.len() as u64);
        builder.append_data(&mut header, "short.png", &picture[..]).unwrap();
        fs::write(&path, builder.into_inner().unwrap()).unwrap();
        match open_path(&path) {
            Ok(images) => assert!(is_read && images.len() == 1),
            Err(error) => {
                let message = error.to_string();
                assert!(!is_read && message.contains("longer than 1048576 bytes"), "{message}");
            }
        }
    }
}

#[test]
fn a_member_that_is_too_long_is_one_bad_image() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.tar");
    let picture = &fs::read(golden("images").join("rgb.png")).unwrap()[..];
    // the header of a member of 300 MiB, a hole, and what follows it
    let mut header = tar::Header::new_gnu();
    header.set_path("a.png").unwrap();
    header.set_size(300 << 20);
    header.set_cksum();
    fs::write(&path, header.as_bytes()).unwrap();
    let mut file = fs::File::options().append(true).open(&path).unwrap();
    file.set_len(BLOCK + (300 << 20)).unwrap();
    std::io::Write::write_all(&mut file, &tar_of(&[("b.png", picture)])).unwrap();
    let skipping = OpenOptions { skip_bad_images: true, ..OpenOptions::default() };
    let images = super::super::open(path.to_str().unwrap(), &skipping).unwrap();
    assert_eq!((images.len(), images.skipped().len()), (1, 1));
    assert!(images.skipped()[0].reason.contains("at most 257 MiB"), "{:?}", images.skipped());
}

#[test]
fn a_gzipped_shard_says_to_gunzip_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shard.tar.gz");
    fs::write(&path, "any").unwrap();
    assert!(open_path(&path).err().unwrap().to_string().contains("gunzip"));
}
