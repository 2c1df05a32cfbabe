"""What the golden-file generators and study scripts share."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from diffusers import UNet2DModel
from diffusers.utils import logging
from safetensors.torch import save

logging.set_verbosity_error()
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"

# google/ddpm-cifar10-32's unet/config.json
CIFAR10 = {
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [128, 256, 256, 256],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 2,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "norm_eps": 1e-6,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "attention_head_dim": None,
    "center_input_sample": False,
    "mid_block_scale_factor": 1,
    "time_embedding_type": "positional",
}


def randomise(model, seed):
    """Gives every parameter values that are neither zero nor constant, so that no wrong use of one can hide."""
    generator = torch.Generator().manual_seed(seed)
    norms = {name for name, module in model.named_modules() if isinstance(module, torch.nn.GroupNorm)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            owner, _, kind = name.rpartition(".")
            if kind == "bias":
                parameter.copy_(0.1 * noise)
            elif owner in norms:
                parameter.copy_(1 + 0.1 * noise)


def make_unet(config, seed):
    """A UNet2DModel with PyTorch's default initialisation, then randomised norms and biases."""
    torch.manual_seed(seed)
    model = UNet2DModel(**config)
    randomise(model, seed)
    return model.eval()


def unet_config(model):
    """The config as diffusers writes it to unet/config.json."""
    return json.loads(model.to_json_string())


def randn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def save_golden(name, tensors, metadata):
    """Writes tests/golden/NAME.safetensors; metadata values that are not strings are stored as JSON."""
    GOLDEN.mkdir(parents=True, exist_ok=True)
    path = GOLDEN / f"{name}.safetensors"
    metadata = {k: v if isinstance(v, str) else json.dumps(v, sort_keys=True) for k, v in metadata.items()}
    data = save({k: v.detach().contiguous().clone() for k, v in tensors.items()}, metadata)
    # The library writes the metadata in random order: sort it, so that the same run gives the same file.
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    print(f"{path.name}: {len(tensors)} tensors, {path.stat().st_size / 1024:.0f} KiB")


def max_abs_diff(a, b):
    return (a.double() - b.double()).abs().max().item()


def run_binary(binary, *arguments):
    """Runs ddpm-gpu, echoes the command, and stops this script if it fails."""
    command = [str(binary), *map(str, arguments)]
    print("$", " ".join(command), flush=True)
    status = subprocess.run(command).returncode
    if status != 0:
        sys.exit(f"{Path(binary).name} {arguments[0]} failed with status {status}")
