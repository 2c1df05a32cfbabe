//! Files that hold weights, but not as this program reads them: by their names and by how they begin.

use std::io::Read;
use std::path::Path;

use crate::files::open_regular;

/// A format, and what to do with it.
struct Foreign {
    /// How names end.
    endings: &'static [&'static str],
    /// How files begin, where that says enough.
    begins: &'static [&'static [u8]],
    what: &'static str,
    advice: &'static str,
}

const ALL: &[Foreign] = &[
    Foreign {
        endings: &[".msgpack"],
        begins: &[],
        what: "weights of Flax",
        advice: "with an older diffusers, which reads Flax: \
                 UNet2DModel.from_pretrained(FOLDER, from_flax=True).save_pretrained(NEW_FOLDER)",
    },
    Foreign {
        endings: &[".h5", ".hdf5", ".keras"],
        begins: &[b"\x89HDF\r\n"],
        what: "weights of Keras or TensorFlow in HDF5",
        advice: "write them with safetensors.numpy.save_file, under the names of a UNet2DModel",
    },
    Foreign {
        endings: &[".ckpt.index", ".pb", ".tflite"],
        begins: &[],
        what: "a model of TensorFlow",
        advice: "write its weights with safetensors.numpy.save_file, under the names of a UNet2DModel",
    },
    Foreign {
        endings: &[".gguf"],
        begins: &[b"GGUF"],
        what: "quantised weights in the format GGUF",
        advice: "take the weights that they were made of, in safetensors",
    },
    Foreign {
        endings: &[".onnx", ".onnx_data"],
        begins: &[],
        what: "a model of ONNX",
        advice: "take the weights that it was made of, in safetensors",
    },
    Foreign {
        endings: &[".npz", ".npy"],
        begins: &[b"\x93NUMPY"],
        what: "arrays of NumPy",
        advice: "write them with safetensors.numpy.save_file, under the names of a UNet2DModel",
    },
    Foreign {
        endings: &[".ckpt"],
        begins: &[],
        what: "a checkpoint of PyTorch Lightning, or of TensorFlow",
        advice: "of Lightning: torch.save(torch.load(FILE)[\"state_dict\"], \"diffusion_pytorch_model.bin\")",
    },
    Foreign {
        endings: &[],
        begins: &[b"version https://git-lfs"],
        what: "a pointer of Git LFS in place of the file",
        advice: "fetch the file with `git lfs pull`",
    },
    Foreign {
        endings: &[],
        begins: &[b"<!", b"<html", b"<?xml"],
        what: "a page of HTML or XML, such as a server sends in place of a file",
        advice: "download the file again",
    },
];

/// A sentence about a file that its name says is of a foreign format.
pub(super) fn of_name(name: &str) -> Option<String> {
    let found = ALL.iter().find(|foreign| foreign.endings.iter().any(|ending| name.ends_with(ending)))?;
    Some(format!("this is {}, which is not read; {}", found.what, found.advice))
}

/// A sentence about a file that begins as one of a foreign format does.
pub(super) fn of_contents(path: &Path) -> Option<String> {
    let longest = ALL.iter().flat_map(|foreign| foreign.begins).map(|begin| begin.len()).max().unwrap_or(0);
    let mut head = Vec::new();
    open_regular(path).ok()?.0.take(longest as u64).read_to_end(&mut head).ok()?;
    let begins = |foreign: &&Foreign| foreign.begins.iter().any(|begin| head.starts_with(begin));
    let found = ALL.iter().find(begins)?;
    Some(format!("this is {}; {}", found.what, found.advice))
}
