#![allow(clippy::panic)]

use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::*;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/layouts").join(name)
}

/// A temporary file.
struct Temporary {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

fn written(bytes: &[u8]) -> Temporary {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pt");
    fs::write(&path, bytes).unwrap();
    Temporary { _folder: folder, path }
}

/// An archive as torch.save writes it, with these members.
fn zipped(members: &[(&str, &[u8])], compression: CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in members {
        zip.start_file(*name, SimpleFileOptions::default().compression_method(compression)).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn archive(pickle: &[u8], storage: &[u8]) -> Vec<u8> {
    zipped(&[("x/data.pkl", pickle), ("x/data/0", storage)], CompressionMethod::Stored)
}

fn read_bytes(bytes: &[u8]) -> Result<(Tensors, Vec<String>), String> {
    let file = written(bytes);
    let mut notes = Vec::new();
    let tensors = read(&file.path, None, &mut notes).map_err(|error| {
        let error = error.to_string();
        assert!(error.contains("x.pt: "), "names no file: {error}");
        error
    })?;
    Ok((tensors, notes))
}

/// What a file with this pickle is refused with; the storage has 12 bytes.
fn refusal(pickle: &[u8]) -> String {
    match read_bytes(&archive(pickle, &[0; 12])) {
        Ok((tensors, _)) => panic!("{} is read as {tensors:?}", pickle.escape_ascii()),
        Err(error) => error,
    }
}

/// `_rebuild_tensor_v2` of a storage of `length` numbers, in text; sizes and strides are opcodes.
fn tensor(class: &str, length: i64, offset: i64, size: &str, stride: &str) -> String {
    format!(
        "ctorch._utils\n_rebuild_tensor_v2\n((Vstorage\nctorch\n{class}\nV0\nVcpu\nL{length}L\ntQL{offset}L\n\
         {size}{stride}I00\nccollections\nOrderedDict\n)RtR"
    )
}

/// A dictionary with one tensor called `w`.
fn state(tensor: &str) -> Vec<u8> {
    format!("(Vw\n{tensor}d.").into_bytes()
}

#[test]
fn types_of_numbers_and_orders_of_bytes_are_read() {
    let mut doubles = Vec::new();
    [1.5f64, -2.0, 1.0 / 3.0].iter().for_each(|value| doubles.extend(value.to_le_bytes()));
    let longs: Vec<u8> = [7i64, -1, 1 << 24].iter().flat_map(|value| value.to_le_bytes()).collect();
    let halves: Vec<u8> =
        [1.5f32, -0.25, 3.0].iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect();
    let brains: Vec<u8> =
        [1.5f32, -0.25, 3.0].iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect();
    for (class, bytes, expected) in [
        ("DoubleStorage", doubles, [1.5, -2.0, 1.0 / 3.0]),
        ("LongStorage", longs, [7.0, -1.0, 16_777_216.0]),
        ("HalfStorage", halves, [1.5, -0.25, 3.0]),
        ("BFloat16Storage", brains, [1.5, -0.25, 3.0]),
        ("IntStorage", vec![1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 1, 0, 0], [1.0, -1.0, 256.0]),
        ("ShortStorage", vec![1, 0, 0xff, 0xff, 0, 1], [1.0, -1.0, 256.0]),
        ("CharStorage", vec![1, 0xff, 5], [1.0, -1.0, 5.0]),
        ("ByteStorage", vec![1, 0xff, 5], [1.0, 255.0, 5.0]),
        ("BoolStorage", vec![1, 0, 1], [1.0, 0.0, 1.0]),
    ] {
        let pickle = state(&tensor(class, 3, 0, "(K\u{3}t", "(K\u{1}t"));
        let (tensors, notes) = read_bytes(&archive(&pickle, &bytes)).unwrap();
        assert_eq!(tensors["w"], Tensor { shape: vec![3], data: expected.to_vec() }, "{class}");
        assert_eq!(notes.len(), usize::from(class == "DoubleStorage"), "{class}: {notes:?}");
        // The same bytes the other way round.
        let size = bytes.len() / 3;
        let swapped: Vec<u8> = bytes.chunks(size).flat_map(|number| number.iter().rev().copied()).collect();
        let members: [(&str, &[u8]); 3] =
            [("x/data.pkl", &pickle), ("x/byteorder", b"big"), ("x/data/0", &swapped)];
        let (swapped, _) = read_bytes(&zipped(&members, CompressionMethod::Stored)).unwrap();
        assert_eq!(swapped, tensors, "{class}");
    }
}

#[test]
fn views_have_offsets_strides_and_no_axes() {
    let bytes: Vec<u8> = (0..8u8).flat_map(|value| f32::from(value).to_le_bytes()).collect();
    for (offset, size, stride, shape, expected) in [
        (1, "(K\u{2}K\u{3}t", "(K\u{3}K\u{1}t", vec![2, 3], vec![1., 2., 3., 4., 5., 6.]),
        (1, "(K\u{2}K\u{3}t", "(K\u{1}K\u{2}t", vec![2, 3], vec![1., 3., 5., 2., 4., 6.]),
        (5, "(K\u{2}K\u{2}t", "(K\u{0}K\u{1}t", vec![2, 2], vec![5., 6., 5., 6.]),
        (7, ")", ")", vec![], vec![7.]),
        (8, "(K\u{0}t", "(K\u{1}t", vec![0], vec![]),
    ] {
        let pickle = state(&tensor("FloatStorage", 8, offset, size, stride));
        let pickle = if shape.is_empty() {
            // A counter alone is no network.
            let other = tensor("FloatStorage", 8, 0, "(K\u{1}t", "(K\u{1}t");
            format!("(Vw\n{}Vx\n{other}d.", tensor("FloatStorage", 8, offset, size, stride)).into_bytes()
        } else {
            pickle
        };
        let (tensors, _) = read_bytes(&archive(&pickle, &bytes)).unwrap();
        assert_eq!(tensors["w"], Tensor { shape, data: expected });
    }
}

#[test]
fn views_beyond_their_storage_and_huge_claims_are_refused_before_anything_is_allocated() {
    let max = i64::MAX;
    for (length, offset, size, stride, words) in [
        (3, 0, "(K\u{4}t".to_owned(), "(K\u{1}t".to_owned(), "not all lies in its storage"),
        (3, 1, "(K\u{3}t".to_owned(), "(K\u{1}t".to_owned(), "not all lies in its storage"),
        (3, -1, "(K\u{1}t".to_owned(), "(K\u{1}t".to_owned(), "not all lies in its storage"),
        (3, max, "(K\u{1}t".to_owned(), "(K\u{1}t".to_owned(), "not all lies in its storage"),
        (3, 0, "(K\u{2}t".to_owned(), format!("(L{max}L\nt"), "not all lies in its storage"),
        (3, 0, "(K\u{3}t".to_owned(), format!("(L{max}L\nt"), "not all lies in its storage"),
        (3, 0, format!("(L{max}L\nL{max}L\nt"), "(K\u{0}K\u{0}t".to_owned(), "not all lies in its storage"),
        // One number, spread over a tensor of 2^40.
        (3, 0, format!("(L{}L\nt", 1u64 << 40), "(K\u{0}t".to_owned(), "much more than the file has"),
        (3, 0, "(L-1L\nt".to_owned(), "(K\u{1}t".to_owned(), "no tuples of numbers"),
        (3, 0, "(K\u{1}t".to_owned(), "(L-1L\nt".to_owned(), "no tuples of numbers"),
        (3, 0, "(K\u{1}t".to_owned(), ")".to_owned(), "1 sizes and 0 strides"),
        (3, 0, format!("({}t", "K\u{1}".repeat(17)), format!("({}t", "K\u{1}".repeat(17)), "at most 16"),
        // Lengths that the storage in the archive does not have.
        (
            4,
            0,
            "(K\u{1}t".to_owned(),
            "(K\u{1}t".to_owned(),
            "has 12 bytes, where the pickle says 4 numbers of 4",
        ),
        (max, 0, "(K\u{1}t".to_owned(), "(K\u{1}t".to_owned(), "has 12 bytes"),
    ] {
        let message = refusal(&state(&tensor("FloatStorage", length, offset, &size, &stride)));
        assert!(message.contains(words), "{size} {stride}: no `{words}` in {message}");
    }
    let nan = archive(&state(&tensor("FloatStorage", 1, 0, "(K\u{1}t", "(K\u{1}t")), &f32::NAN.to_le_bytes());
    assert!(read_bytes(&nan).unwrap_err().contains("w has NaN at [0]"));
    let wide =
        archive(&state(&tensor("DoubleStorage", 1, 0, "(K\u{1}t", "(K\u{1}t")), &1e300f64.to_le_bytes());
    assert!(read_bytes(&wide).unwrap_err().contains("w has inf at [0]"));
}

/// Files that would run code where Python loads them: each is refused with the name of what it does.
#[test]
fn whatever_is_not_for_tensors_is_refused_by_its_name() {
    let whole = state(&tensor("FloatStorage", 3, 0, "(K\u{3}t", "(K\u{1}t"));
    assert_eq!(read_bytes(&archive(&whole, &[0; 12])).unwrap().0["w"].data, [0.0; 3]);
    let with = |code: &str| [b"(Vw\n".as_slice(), code.as_bytes(), b"d."].concat();
    for (pickle, words) in [
        (b"cos\nsystem\n(Vrm -rf /\ntR.".to_vec(), "it imports os.system"),
        (with("cos\nsystem\n(Vls\ntR"), "it imports os.system"),
        (b"Vos\nVsystem\n\x93(Vls\ntR.".to_vec(), "it imports os.system"),
        (b"cbuiltins\neval\n(V1\ntR0N.".to_vec(), "the opcode POP at byte"),
        (b"cbuiltins\neval\n(V1\ntR.".to_vec(), "it imports builtins.eval"),
        (b"(Vls\nios\nsystem\n.".to_vec(), "the opcode INST at byte 5"),
        (b"(cos\nsystem\nVls\no.".to_vec(), "the opcode OBJ"),
        (
            b"ctorch.nn.modules.container\nSequential\n)\x81}b.".to_vec(),
            "it imports torch.nn.modules.container.Sequential",
        ),
        (b"ctorch.hub\nload\n(Vx\ntR.".to_vec(), "it imports torch.hub.load"),
        (b"ctorch\nload\n(Vx\ntR.".to_vec(), "it imports torch.load"),
        (b"ctorch._utils\n_rebuild_sparse_tensor\n(NtR.".to_vec(), "_rebuild_sparse_tensor"),
        (b"ctorch.storage\nUntypedStorage\n.".to_vec(), "it imports torch.storage.UntypedStorage"),
        (b"ctorch._utils\n_rebuild_tensor_v3\n(NtR.".to_vec(), "_rebuild_tensor_v3"),
        (b"\x82\x01.".to_vec(), "the opcode EXT1 at byte 0"),
        (b"\x83\x01\x00.".to_vec(), "the opcode EXT2"),
        (b"\x84\x01\x00\x00\x00.".to_vec(), "the opcode EXT4"),
        (b"P0\n.".to_vec(), "the opcode PERSID"),
        (b"cos\nsystem\n)}\x92.".to_vec(), "the opcode NEWOBJ_EX"),
        (b"Nb.".to_vec(), "too little on the stack"),
        (b"NNb.".to_vec(), "a state for what takes none"),
        (b"NNR.".to_vec(), "a call of what is no function"),
        (b"h\x07.".to_vec(), "never stored"),
        (b"}q\x00Vw\nh\x00s.".to_vec(), "a value that contains itself"),
        (b"ccollections\nOrderedDict\n)Rq\x00Vw\nh\x00s.".to_vec(), "a value that contains itself"),
        (b"ccollections\nOrderedDict\n(](Va\nKelt\x52.".to_vec(), "OrderedDict"),
        (with("NQ"), "no dictionary of names and tensors"),
        (with("(Vstorage\ntQ"), "no dictionary of names and tensors"),
        (
            with("ctorch._utils\n_rebuild_tensor_v2\n(NQK\u{0}(K\u{1}t(K\u{1}tI00\n)tR"),
            "no storage of numbers",
        ),
        (
            with(
                "ctorch._utils\n_rebuild_tensor_v2\n((Vmodule\nctorch\nFloatStorage\nV0\nVcpu\nK\u{3}tQ\
                 K\u{0}(K\u{1}t(K\u{1}tI00\n)tR",
            ),
            "no storage of numbers",
        ),
        (
            with("ctorch._utils\n_rebuild_tensor_v2\n(NK\u{0}(K\u{1}t(K\u{1}tI00\n)tR"),
            "whose storage is None",
        ),
        (with("ctorch._utils\n_rebuild_tensor_v2\n(NtR"), "with 1 arguments"),
        (with("ctorch._utils\n_rebuild_parameter\n(Nt\x52"), "with 1 arguments"),
        (
            state(&tensor("FloatStorage", 3, 0, "(K\u{3}t", "(K\u{1}t").replace("V0\n", "V../../x\n")),
            "x/data/../../x cannot be read",
        ),
        (b"N.".to_vec(), "there is: None"),
        (b"(K\x01K\x02d.".to_vec(), "keys are not text"),
        (
            b"]".repeat(100_000).into_iter().chain(b"a".repeat(99_999)).chain(*b".").collect(),
            "there is: a list",
        ),
        (b"N".iter().copied().chain(b"\x85".repeat(100_000)).chain(*b".").collect(), "there is: a tuple"),
        (
            b"(Va\n"
                .repeat(100_000)
                .into_iter()
                .chain(*b"N")
                .chain(b"d".repeat(100_000))
                .chain(*b".")
                .collect(),
            "there is: a",
        ),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.".to_vec(), "the end of the file"),
        (b"N".repeat((1 << 22) + 1), "more than 4194304 values"),
    ] {
        let shown = pickle[..pickle.len().min(80)].escape_ascii();
        let message = refusal(&pickle);
        assert!(message.contains(words), "{shown}: no `{words}` in {message}");
        // The same in the format before 1.6.
        let legacy = [MAGIC_AND_SYSTEM, &pickle, b"]."].concat();
        let message = read_bytes(&legacy).unwrap_err();
        assert!(message.contains(words) || message.contains("storage"), "{shown}: {message}");
    }
}

/// A long text or a large dictionary that is named again and again takes no memory and no time.
#[test]
fn shared_values_are_not_copied() {
    let long = "x".repeat(1 << 20);
    let many = 100_000;
    let names = format!("V{long}\nq\u{0}({}d.", "h\u{0}N".repeat(many));
    assert!(refusal(names.as_bytes()).contains("xxx..."));
    let tensor = tensor("FloatStorage", 3, 0, "(K\u{3}t", "(K\u{1}t");
    let tensors = format!("V{long}\nq\u{0}(h\u{0}{tensor}q\u{1}{}d.", "h\u{0}h\u{1}".repeat(many));
    assert!(refusal(tensors.as_bytes()).contains("two tensors called xxx"));
    let dictionaries = format!("(Va\n({}dq\u{0}{}d.", "Vk\nN".repeat(many), "Vb\nh\u{0}".repeat(many));
    assert!(refusal(dictionaries.as_bytes()).contains("no dictionary of names and tensors"));
}

/// Every byte in place of every opcode of a whole file: read, or refused with a sentence.
#[test]
fn a_changed_opcode_never_panics() {
    let whole = state(&tensor("FloatStorage", 3, 0, "(K\u{3}t", "(K\u{1}t"));
    let mut read = 0;
    for at in 0..whole.len() {
        for code in 0..=u8::MAX {
            let mut pickle = whole.clone();
            pickle[at] = code;
            let chosen = Values::read(&pickle)
                .and_then(|values| choose(&values, None, &mut Vec::new()).map(|tensors| tensors.len()));
            match chosen {
                Ok(_) => read += 1,
                Err(error) => assert!(error.contains(' '), "{error}"),
            }
        }
    }
    // Letters of names, and opcodes that say the same.
    assert!(read > whole.len(), "{read}");
}

/// What stands before the object in a file of PyTorch before 1.6.
const MAGIC_AND_SYSTEM: &[u8] =
    b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}X\x0d\x00\x00\x00little_endian\x88s.";

#[test]
fn files_before_1_6_are_cut_and_contradicted() {
    let whole = fs::read(golden("before_torch_1_6/diffusion_pytorch_model.bin")).unwrap();
    let (expected, _) = read_bytes(&whole).unwrap();
    assert!(expected.len() > 50);
    for length in [0, 1, 14, 15, 16, 40, 200, whole.len() / 4, whole.len() / 2, whole.len() - 1] {
        let message = read_bytes(&whole[..length]).unwrap_err();
        let words = ["the end of the file", "ends in the middle of storage", "no file of torch.save"];
        assert!(words.iter().any(|words| message.contains(words)), "{length}: {message}");
    }
    let big = [&MAGIC_AND_SYSTEM[..MAGIC_AND_SYSTEM.len() - 3], b"\x89s.", b"N.", b"]."].concat();
    assert!(read_bytes(&big).unwrap_err().contains("most significant byte first"));
    let version = [legacy::MAGIC, b"M\xe8\x03."].concat();
    assert!(
        read_bytes(&version)
            .unwrap_err()
            .contains("the version of its format is the number 1000; 1001 is read")
    );
    let pickle = state(&tensor("FloatStorage", 3, 0, "(K\u{3}t", "(K\u{1}t").replace("L3L\ntQ", "L3L\nNtQ"));
    let file = |keys: &[u8], length: u64, bytes: &[u8]| {
        read_bytes(&[MAGIC_AND_SYSTEM, &pickle, keys, &length.to_le_bytes(), bytes].concat())
    };
    assert_eq!(file(b"](V0\ne.", 3, &[0; 12]).unwrap().0["w"].data, [0.0; 3]);
    for (keys, length, bytes, words) in [
        (&b"](V0\ne."[..], 3, 11, "ends in the middle of storage 0"),
        (b"](V0\ne.", u64::MAX, 12, "has 18446744073709551615 numbers, where the pickle says 3"),
        (b"](V1\ne.", 3, 12, "a storage that no tensor of it has"),
        (b"].", 3, 12, "its storage 0 is missing"),
        (b"N.", 3, 12, "are no list"),
    ] {
        let message = file(keys, length, &vec![0; bytes]).unwrap_err();
        assert!(message.contains(words), "no `{words}` in {message}");
    }
}

#[test]
fn archives_of_other_kinds_and_lying_ones_are_refused() {
    let pickle = state(&tensor("FloatStorage", 3, 0, "(K\u{3}t", "(K\u{1}t"));
    let storage: &[u8] = &[0; 12];
    let of = |members: &[(&str, &[u8])]| read_bytes(&zipped(members, CompressionMethod::Stored)).unwrap_err();
    for (members, words) in [
        (&[("arr_0.npy", storage)][..], "an archive of NumPy"),
        (&[("x/y", storage)], "no single data.pkl"),
        (&[("x/data.pkl", pickle.as_slice()), ("y/data.pkl", pickle.as_slice())], "no single data.pkl"),
        (&[("x/data.pkl", pickle.as_slice()), ("x/constants.pkl", b"N.".as_slice())], "TorchScript"),
        (&[("x/data.pkl", pickle.as_slice())], "x/data/0 cannot be read"),
        (
            &[("x/data.pkl", pickle.as_slice()), ("x/byteorder", b"middle".as_slice())],
            "byte order is \"middle\"",
        ),
    ] {
        let message = of(members);
        assert!(message.contains(words), "no `{words}` in {message}");
    }
    // A bomb: compressed members are never unpacked.
    let zeros = vec![0u8; 10 << 20];
    let bomb = zipped(&[("x/data.pkl", &pickle), ("x/data/0", &zeros)], CompressionMethod::Deflated);
    assert!(read_bytes(&bomb).unwrap_err().contains("is compressed, which torch.save never does"));
    // Sizes, offsets and checksums that are not so.
    let whole = archive(&pickle, storage);
    for at in 0..whole.len() {
        for byte in [0, 1, 0x7f, 0xff] {
            let mut lying = whole.clone();
            lying[at] = byte;
            if let Err(error) = read_bytes(&lying) {
                assert!(error.len() > 20, "{error}");
            }
        }
    }
    let mut damaged = whole.clone();
    let at = whole.windows(12).rposition(|window| window == storage).unwrap();
    damaged[at] ^= 1;
    assert!(read_bytes(&damaged).unwrap_err().to_lowercase().contains("checksum"));
    for length in 0..whole.len() {
        assert!(read_bytes(&whole[..length]).is_err());
    }
}

#[test]
fn a_nested_state_dict_is_chosen_by_its_key_or_by_its_name() {
    let whole = golden("nested/model.pt");
    let read_at = |key: Option<&str>| {
        let mut notes = Vec::new();
        read(&whole, key, &mut notes).map(|tensors| (tensors, notes.join("\n")))
    };
    let (model, notes) = read_at(None).unwrap();
    assert!(
        notes.ends_with("model: taken for the network's weights; left out: args, ema, optimizer, step"),
        "{notes}"
    );
    let (ema, notes) = read_at(Some("ema")).unwrap();
    assert!(
        ema != model && notes.contains("ema: taken") && notes.contains("left out: args, model, optimizer"),
        "{notes}"
    );
    let message = read_at(Some("weights")).unwrap_err().to_string();
    assert!(message.contains("no tensors at the key weights; there are: model, ema"), "{message}");
    let tensor = tensor("FloatStorage", 3, 0, "(K\u{3}t", "(K\u{1}t");
    let two = format!("(Vfirst\n(Vw\n{tensor}dVsecond\n(Vw\n{tensor}dd.");
    assert!(refusal(two.as_bytes()).contains("several dictionaries of tensors: first, second"));
    let deep = format!("(Vstate\n(Vfirst\n(Vw\n{tensor}ddVepoch\nK\u{5}d.");
    let (tensors, notes) = read_bytes(&archive(deep.as_bytes(), &[0; 12])).unwrap();
    assert_eq!(tensors.keys().collect::<Vec<_>>(), ["w"]);
    assert!(notes[0].contains("state.first: taken for the network's weights; left out: epoch"), "{notes:?}");
}

#[test]
fn files_of_other_formats_are_named() {
    for (bytes, words) in [
        (&b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"[..], "git lfs pull"),
        (b"<!DOCTYPE html><html>", "download the file again"),
        (b"GGUF\x03\x00\x00\x00", "GGUF"),
        (b"\x93NUMPY\x01\x00", "arrays of NumPy"),
        (b"\x80\x02}q\x00.", "no file of torch.save"),
        (b"", "no file of torch.save"),
    ] {
        let message = read_bytes(bytes).unwrap_err();
        assert!(message.contains(words), "no `{words}` in {message}");
    }
}
