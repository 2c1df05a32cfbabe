//! IDX files of bytes, plain or gzipped: the format of MNIST and its relatives.
//!
//! Two zero bytes, the element type (8 is unsigned byte), the rank, then one big-endian u32 per dimension, then
//! the elements in row-major order. Source: Y. LeCun, C. Cortes and C. Burges, "The MNIST database", section
//! "The IDX file format".

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

use flate2::bufread::GzDecoder;

use super::DataError;
use super::error::{most_decompressed, open_regular_file};

/// More elements than any file of this kind holds; a header that claims more is refused before anything is
/// allocated.
const MAX_ELEMENTS: u64 = 1 << 30;

/// The content of an IDX file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Idx<const RANK: usize> {
    pub(super) dimensions: [usize; RANK],
    /// As many as the dimensions multiply to.
    pub(super) elements: Vec<u8>,
}

/// Reads an IDX file of unsigned bytes with `RANK` dimensions. A file that starts with gzip's magic number is
/// decompressed, under any name.
pub(super) fn read<const RANK: usize>(path: &Path) -> Result<Idx<RANK>, DataError> {
    let io_error = |source| DataError::Io { path: path.to_owned(), source };
    let (mut file, file_length) = open_regular_file(path)?;
    let mut magic = [0; 2];
    let gzipped = read_up_to(&mut file, &mut magic).map_err(io_error)? == 2 && magic == [0x1f, 0x8b];
    file.rewind().map_err(io_error)?;

    if gzipped {
        parse(&mut GzDecoder::new(BufReader::new(file)), most_decompressed(file_length), path)
    } else {
        parse(&mut BufReader::<File>::new(file), file_length, path)
    }
}

/// Parses a stream that can hold `most` bytes at best.
fn parse<const RANK: usize>(reader: &mut impl Read, most: u64, path: &Path) -> Result<Idx<RANK>, DataError> {
    let bad = |expected: String, found: String| DataError::BadFile {
        path: path.to_owned(),
        expected,
        found,
        advice: "download or install the file again".to_owned(),
    };
    let damaged = |error: io::Error| bad("a whole IDX file".to_owned(), error.to_string());

    let mut magic = [0; 4];
    reader.read_exact(&mut magic).map_err(damaged)?;
    let expected = [0, 0, 8, RANK as u8];
    if magic != expected {
        return Err(bad(format!("an IDX file that starts with {expected:02x?}"), format!("{magic:02x?}")));
    }

    let mut dimensions = [0; RANK];
    let mut total = Some(1_u64);
    for dimension in &mut dimensions {
        let mut bytes = [0; 4];
        reader.read_exact(&mut bytes).map_err(damaged)?;
        let size = u32::from_be_bytes(bytes);
        *dimension = size as usize;
        total = total.and_then(|total| total.checked_mul(u64::from(size)));
    }
    let limit = most.min(MAX_ELEMENTS);
    let total = total.filter(|&total| total <= limit).ok_or_else(|| {
        bad(
            format!("at most {limit} elements, what a file of this length can hold"),
            format!("dimensions {dimensions:?}"),
        )
    })?;

    // one byte more than expected, to see whether the file ends there; for gzip this also checks its checksum
    let mut elements = Vec::new();
    reader.take(total + 1).read_to_end(&mut elements).map_err(damaged)?;
    if elements.len() as u64 != total {
        let found =
            if elements.len() as u64 > total { "more".to_owned() } else { elements.len().to_string() };
        return Err(bad(format!("{total} elements, as its header {dimensions:?} says"), found));
    }
    Ok(Idx { dimensions, elements })
}

/// Reads until the buffer is full or the file ends, and returns the number of bytes read.
fn read_up_to(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use std::fs;
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;

    /// The bytes of an IDX file.
    pub(in crate::data) fn encode(dimensions: &[u32], elements: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 8, dimensions.len() as u8];
        bytes.extend(dimensions.iter().flat_map(|size| size.to_be_bytes()));
        bytes.extend_from_slice(elements);
        bytes
    }

    pub(in crate::data) fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// Reads the bytes as a file, and checks that an error names the file.
    fn read_bytes(bytes: &[u8]) -> Result<Idx<3>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("images-under-test");
        fs::write(&path, bytes).unwrap();
        read::<3>(&path).map_err(|error| {
            let message = error.to_string();
            assert!(message.contains("images-under-test"), "{message}");
            message
        })
    }

    #[test]
    fn plain_and_gzipped_files_read_the_same() {
        let elements: Vec<u8> = (0..24).collect();
        let bytes = encode(&[2, 3, 4], &elements);
        let expected = Idx { dimensions: [2, 3, 4], elements };
        assert_eq!(read_bytes(&bytes).unwrap(), expected);
        assert_eq!(read_bytes(&gzip(&bytes)).unwrap(), expected);
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = encode(&[2, 3, 4], &[7; 24]);
        for file in [gzip(&bytes), bytes] {
            for length in 0..file.len() {
                assert!(read_bytes(&file[..length]).is_err(), "{length} of {}", file.len());
            }
        }
    }

    #[test]
    fn trailing_bytes_are_an_error() {
        let bytes = encode(&[1, 2, 2], &[0; 5]);
        assert!(read_bytes(&bytes).unwrap_err().contains("expected 4 elements"));
        assert!(read_bytes(&gzip(&bytes)).unwrap_err().contains("expected 4 elements"));
    }

    #[test]
    fn wrong_magic_numbers_are_errors() {
        for magic in [[0, 0, 8, 1], [0, 0, 13, 3], [1, 0, 8, 3], *b"\x89PNG"] {
            let mut bytes = encode(&[1, 1, 1], &[0]);
            bytes[..4].copy_from_slice(&magic);
            assert!(read_bytes(&bytes).unwrap_err().contains("[00, 00, 08, 03]"));
        }
    }

    #[test]
    fn huge_counts_are_errors_before_anything_is_allocated() {
        for dimensions in [[u32::MAX; 3], [1 << 31, 28, 28], [60_000, 28, 28], [1, 1, 1 << 20]] {
            let bytes = encode(&dimensions, &[0; 10]);
            assert!(read_bytes(&bytes).unwrap_err().contains("dimensions"));
            assert!(read_bytes(&gzip(&bytes)).unwrap_err().contains("dimensions"));
        }
    }

    #[test]
    fn a_damaged_gzip_stream_is_an_error() {
        let mut file = gzip(&encode(&[2, 3, 4], &[7; 24]));
        let checksum = file.len() - 8;
        file[checksum] ^= 1;
        assert!(read_bytes(&file).is_err());
    }

    #[test]
    fn a_folder_or_nothing_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read::<3>(folder.path()).is_err());
        assert!(read::<3>(&folder.path().join("absent")).is_err());
    }

    proptest! {
        #![proptest_config(crate::data::tests::seeded())]

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), header in 0_u8..4) {
            let prefix: &[u8] = match header {
                0 => &[],
                1 => &[0, 0, 8, 3],
                2 => &[0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 2],
                _ => &[0x1f, 0x8b, 8, 0],
            };
            let _ = read_bytes(&[prefix, &bytes].concat());
        }
    }
}
