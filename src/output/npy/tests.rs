#![allow(clippy::unwrap_used)]

use std::fs;

use super::*;

/// A file of version 1, by hand.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn parse(bytes: &[u8]) -> Result<([usize; 4], Vec<f32>), Problem> {
    super::parse(&mut &*bytes, bytes.len() as u64)
}

fn header(descr: &str, fortran_order: &str, shape: &str) -> String {
    format!("{{'descr': '{descr}', 'fortran_order': {fortran_order}, 'shape': {shape}, }}   \n")
}

#[test]
fn round_trip() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.npy");
    let data: Vec<f32> = (0..120).map(|i| (i as f32).sin()).collect();
    write_npy(&path, [2, 3, 4, 5], &data).unwrap();
    assert_eq!(read_npy(&path).unwrap(), ([2, 3, 4, 5], data.clone()));

    // An independent reader agrees; the header says whose file it is.
    assert!(Header::read(&mut fs::File::open(&path).unwrap(), "", "").unwrap().is_own);
    let npy = npyz::NpyFile::new(fs::File::open(&path).unwrap()).unwrap();
    assert_eq!((npy.shape(), npy.order()), (&[2, 3, 4, 5][..], npyz::Order::C));
    assert_eq!(npy.into_vec::<f32>().unwrap(), data);
}

#[test]
fn reads_every_float_type_and_order() {
    let values: Vec<f32> = (0..120).map(|i| i as f32 * 0.5 - 7.0).collect();
    let shape = [2, 3, 4, 5];
    let mut fortran = vec![0.0; 120];
    for (i, &value) in values.iter().enumerate() {
        let (n, c, h, w) = (i / 60, i / 20 % 3, i / 5 % 4, i % 5);
        fortran[n + 2 * (c + 3 * (h + 4 * w))] = value;
    }
    let bytes = |descr: &str, values: &[f32]| -> Vec<u8> {
        let wide = |f: fn(f64) -> [u8; 8]| values.iter().flat_map(|&v| f(f64::from(v))).collect();
        match descr {
            "<f2" => values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect(),
            ">f2" => values.iter().flat_map(|&v| half::f16::from_f32(v).to_be_bytes()).collect(),
            "<f4" => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            ">f4" => values.iter().flat_map(|v| v.to_be_bytes()).collect(),
            "<f8" => wide(f64::to_le_bytes),
            _ => wide(f64::to_be_bytes),
        }
    };
    for descr in ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8"] {
        for (order, stored) in [("False", &values), ("True", &fortran)] {
            let file = file(&header(descr, order, "(2, 3, 4, 5)"), &bytes(descr, stored));
            assert_eq!(parse(&file).unwrap(), (shape, values.clone()), "{descr} {order}");
        }
    }
}

#[test]
fn reads_other_spellings_and_versions() {
    let one = 1.5f32.to_le_bytes();
    for text in [
        "{'shape': (1, 1, 1, 1), 'fortran_order': False, 'descr': '<f4'}",
        "{\"descr\":\"<f4\",\"fortran_order\":False,\"shape\":(1,1,1,1,),}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1L, 1L, 1L, 1L), }",
    ] {
        assert_eq!(parse(&file(text, &one)).unwrap(), ([1; 4], vec![1.5]), "{text}");
    }
    let text = header("<f4", "False", "(1, 1, 1, 1)");
    let mut version_3 = b"\x93NUMPY\x03\x00".to_vec();
    version_3.extend((text.len() as u32).to_le_bytes());
    version_3.extend(text.as_bytes());
    version_3.extend(one);
    assert_eq!(parse(&version_3).unwrap(), ([1; 4], vec![1.5]));
}

#[test]
fn every_cut_is_an_error() {
    let whole = file(&header("<f4", "False", "(1, 1, 2, 2)"), &[0; 16]);
    assert!(parse(&whole).is_ok());
    for length in 0..whole.len() {
        assert!(parse(&whole[..length]).is_err(), "{length}");
    }
}

/// Every byte of a small file, replaced by each of some others, gives a result and no panic.
#[test]
fn no_changed_byte_panics() {
    let whole = file(&header("<f4", "False", "(1, 1, 2, 2)"), &[0; 16]);
    for i in 0..whole.len() - 16 {
        for byte in [0, 1, b'(', b')', b'9', b'\'', b',', b'{', b'}', 0x7f, 0x80, 0xc3, 0xff] {
            let mut changed = whole.clone();
            changed[i] = byte;
            let _ = parse(&changed);
        }
    }
}

#[test]
fn refuses_with_advice() {
    for (bytes, found, advice) in [
        (b"PK\x03\x04 an npz".to_vec(), "another format", "numpy.save"),
        (b"\x93NUMPY\x09\x00\x00\x00".to_vec(), "version 9.0", "numpy.save"),
        (b"\x93NUMPY\x02\x00\xff\xff\x00\x00".to_vec(), "end of the file", "cut short"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec(), "one of 4294967295 bytes", "numpy.save"),
        (file(&header("<i8", "False", "(1, 1, 1, 1)"), &[0; 8]), "dtype <i8", "astype"),
        (file(&header("|O", "False", "(1, 1, 1, 1)"), &[0; 8]), "Python objects", "astype"),
        (file(&header("<U3", "False", "(1, 1, 1, 1)"), &[0; 12]), "text (dtype <U3)", "astype"),
        (file(&header("<c8", "False", "(1, 1, 1, 1)"), &[0; 8]), "complex numbers", "astype"),
        (file(&header("<f16", "False", "(1, 1, 1, 1)"), &[0; 16]), "another size (dtype <f16)", "astype"),
        (file(&header("", "False", "(1, 1, 1, 1)"), &[0; 16]), "no numbers", "astype"),
        (file(&header("\u{e9}\u{e9}", "False", "(1, 1, 1, 1)"), &[0; 16]), "no numbers", "astype"),
        (file("{'descr': [('x', '<f4')], 'shape': (1,)}", &[0; 4]), "something else", "save"),
        (
            file("{'descr': [('x', '<f4', (2,))], 'fortran_order': False, 'shape': (1,), }", &[0; 8]),
            "records of named fields",
            "astype",
        ),
        (file(&header("<f4", "False", "(8, 8)"), &[0; 256]), "[8, 8]", "reshape"),
        (file(&header("<f4", "False", "()"), &[0; 4]), "[]", "reshape"),
        (file(&header("<f4", "False", "(1, 1, 2, 2)"), &[0; 20]), "20 bytes", "more than its header says"),
        (file(&header("<f4", "False", "(1, 1, 2, 2)"), &[0; 12]), "12 bytes", "cut short"),
        (file(&header("<f4", "False", "(0, 1, 2, 2)"), &[]), "[0, 1, 2, 2]", "images in it"),
        (
            file(
                &header("<f4", "False", "(2, 1, 1, 2)"),
                &[[0; 4], [0; 4], f32::NAN.to_le_bytes(), [0; 4]].concat(),
            ),
            "NaN at index [1, 0, 0, 0]",
            "replace it",
        ),
        (
            file(
                &header("<f4", "True", "(2, 1, 1, 2)"),
                &[[0; 4], f32::INFINITY.to_le_bytes(), [0; 4], [0; 4]].concat(),
            ),
            "inf at index [1, 0, 0, 0]",
            "replace it",
        ),
        (
            file(&header(">f8", "False", "(1, 1, 1, 1)"), &1e300_f64.to_be_bytes()),
            "1e300, which float32 cannot hold,",
            "replace it",
        ),
        (file(&header("<f8", "False", "(4294967296, 4294967296, 1, 1)"), &[]), "0 bytes", "cut short"),
        (file(&header("<f4", "False", "(4611686018427387904, 1, 1, 1)"), &[]), "0 bytes", "cut short"),
        (file(&header("<f4", "False", "(99999999999999999999, 1, 1, 1)"), &[]), "something else", "save"),
        (file(&header("<f4", "False", "(-1, 1, 1, 1)"), &[0; 4]), "something else", "save"),
        (file(&header("<f4", "Maybe", "(1, 1, 1, 1)"), &[0; 4]), "something else", "save"),
        (file(&"[".repeat(60_000), &[]), "something else", "save"),
        (file("{'descr': '<f4', 'shape': (1, 1, 1, 1)}", &[0; 4]), "something else", "save"),
        (file("{'descr': 'é", &[]), "something else", "save"),
    ] {
        let problem = parse(&bytes).unwrap_err();
        assert!(problem.found.contains(found), "{problem:?}");
        assert!(problem.advice.contains(advice), "{problem:?}");
    }
}

#[test]
fn errors_name_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x_T.npy");
    let missing = read_npy(&path).unwrap_err().to_string();
    assert!(missing.contains("x_T.npy: cannot be read"), "{missing}");
    fs::write(&path, "hello").unwrap();
    let bad = read_npy(&path).unwrap_err().to_string();
    assert!(
        bad.ends_with("x_T.npy: expected a .npy file, found another format; save it with numpy.save"),
        "{bad}"
    );
    let unfit = write_npy(&path, [1, 2, 3, 4], &[0.0]).unwrap_err().to_string();
    assert!(unfit.contains("1 numbers for the shape [1, 2, 3, 4]"), "{unfit}");
}
