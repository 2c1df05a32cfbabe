#!/usr/bin/env python3
"""Golden files: small models of OpenAI's own improved-diffusion and guided-diffusion, and what their code computes of them.

Writes tests/golden/openai_unet/<case>.pt.gz, which their trainer would save, and tests/golden/openai_unet.safetensors with
  <case>.sample, <case>.timesteps in 0..T, <case>.class_labels (where there are classes), <case>.output,
  <case>.low_resolution (of the super-resolution model)
Metadata: <case>: the flags of the model (JSON), as `ddpm-gpu import` takes them.

--study BINARY runs the program on a model with improved-diffusion's flags for CIFAR-10, thinner: a forward pass, and a
whole trajectory of their ddim_sample_loop. Their code is not in this repository: PYTHONPATH leads to it, as
to clones of github.com/openai/improved-diffusion and github.com/openai/guided-diffusion. On PyPI the packages
guided-diffusion-sdk and improved-diffusion-for-SMLM carry it (--improved improved_diffusion_for_SMLM.improved_diffusion).
"""

import argparse
import gzip
import importlib
import io
import tempfile
from pathlib import Path

import numpy as np
import torch

from common import GOLDEN, randn, run_binary, save_golden

FOLDER = GOLDEN / "openai_unet"

SMALL = dict(model_channels=32, num_res_blocks=1, out_channels=3, attention_resolutions=(2,), channel_mult=(1, 1))

# name -> (whose, class, its arguments, those of create_gaussian_diffusion, timesteps, classes, flags)
CASES = {
    # improved-diffusion: 4000 rescaled steps, learned variance, classes, and two heads at levels of 32 and 64 channels
    "rescaled_heads": (
        "improved", "UNetModel",
        dict(SMALL, in_channels=3, out_channels=6, attention_resolutions=(1, 2), channel_mult=(1, 2), num_classes=10,
             num_heads=2, use_scale_shift_norm=True),
        dict(steps=4000, learn_sigma=True, noise_schedule="cosine", rescale_timesteps=True),
        [0, 1777, 3999], 10,
        "--image_size 8 --num_heads 2 --attention_resolutions 8,4 --diffusion_steps 4000 --noise_schedule cosine "
        "--learn_sigma True --class_cond True",
    ),
    # improved-diffusion: one head, nothing learned or scaled, no classes
    "plain": (
        "improved", "UNetModel", dict(SMALL, in_channels=3, num_heads=1),
        dict(steps=1000, noise_schedule="linear", rescale_timesteps=True), [3, 998], None,
        "--image_size 8 --num_heads 1 --use_scale_shift_norm False",
    ),
    # guided-diffusion: residual blocks resample, heads of 16 channels, the new order of queries, keys and values
    "resblock_updown": (
        "guided", "UNetModel",
        dict(SMALL, image_size=8, in_channels=3, out_channels=6, num_classes=5, num_head_channels=16,
             use_scale_shift_norm=True, resblock_updown=True, use_new_attention_order=True),
        dict(steps=1000, learn_sigma=True), [0, 512, 999], 5,
        "--image_size 8 --num_head_channels 16 --resblock_updown True --use_new_attention_order True --learn_sigma True "
        "--class_cond True --diffusion_steps 1000 --noise_schedule linear --num_heads_upsample -1 --use_fp16 False",
    ),
    # guided-diffusion: a super-resolution model
    "upsampler": (
        "guided", "SuperResModel",
        dict(SMALL, image_size=8, in_channels=3, num_heads=4, use_scale_shift_norm=True),
        dict(steps=1000), [1, 700], None,
        "--large_size 8 --small_size 4 --num_heads 4",
    ),
    # guided-diffusion: a classifier
    "classifier": (
        "guided", "EncoderUNetModel",
        dict(SMALL, image_size=8, in_channels=3, out_channels=7, num_head_channels=16, use_scale_shift_norm=True,
             resblock_updown=True, pool="adaptive"),
        dict(steps=1000), [2, 600], None,
        "--image_size 8 --classifier_depth 1 --num_head_channels 16 --classifier_resblock_updown True",
    ),
}  # fmt: skip


def fill(model, seed):
    """Sparse multiples of 1/16, so that the files are small: as random as any where one tensor is taken for another."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randint(-8, 9, parameter.shape, generator=generator) / 16
            if parameter.ndim > 1:
                noise = noise * (torch.rand(parameter.shape, generator=generator) < 1 / 16)
            is_scale = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(1 + noise / 4 if is_scale else noise)
    return model.eval()


def process(scripts, settings):
    return scripts.create_gaussian_diffusion(**settings)


def generate(name, seed, modules):
    whose, kind, arguments, settings, timesteps, classes, flags = CASES[name]
    unet, scripts = modules[whose]
    arguments = dict(arguments)
    if whose == "improved":
        arguments.pop("image_size", None)
    model = fill(getattr(unet, kind)(**arguments), seed)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    path = FOLDER / f"{name}.pt.gz"
    path.write_bytes(gzip.compress(file.getvalue(), mtime=0))

    sample, t = randn(seed + 1, len(timesteps), 3, 8, 8), torch.tensor(timesteps)
    tensors = {"sample": sample, "timesteps": t}
    rest = {}
    if classes:
        rest["y"] = tensors["class_labels"] = torch.tensor([(3 * i + 1) % classes for i in range(len(timesteps))])
    if kind == "SuperResModel":
        rest["low_res"] = tensors["low_resolution"] = randn(seed + 2, len(timesteps), 3, 4, 4)
    # As their diffusion gives timesteps to the model: scaled, where that is asked for.
    with torch.no_grad():
        tensors["output"] = process(scripts, settings)._wrap_model(model)(sample, t, **rest)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{name}: {parameters:,} parameters, {path.stat().st_size / 1024:.0f} KiB, output std {tensors['output'].std():.3f}")
    return {f"{name}.{key}": value for key, value in tensors.items()}, flags.split()


CIFAR10 = (
    "--image_size 32 --num_res_blocks 3 --learn_sigma True --dropout 0.3 --diffusion_steps 4000 --noise_schedule cosine"
)


def study(binary, modules):
    """improved-diffusion's flags for CIFAR-10 with 32 channels rather than 128, in its own code and in the program."""
    unet, scripts = modules["improved"]
    torch.manual_seed(0)
    model = unet.UNetModel(
        in_channels=3, model_channels=32, out_channels=6, num_res_blocks=3, attention_resolutions=(2, 4), dropout=0.3,
        channel_mult=(1, 2, 2, 2), num_heads=4, use_scale_shift_norm=True,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            # What they initialise as zero would hide the rest.
            if parameter.ndim > 1 and not parameter.any():
                parameter.normal_(0, 0.5 * parameter[0].numel() ** -0.5)
    model.eval()
    spaced = dict(steps=4000, learn_sigma=True, noise_schedule="cosine", rescale_timesteps=True)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        torch.save(model.state_dict(), folder / "ema_0.9999_500000.pt")
        run_binary(binary, "import", folder / "ema_0.9999_500000.pt", "--output", folder / "model", *CIFAR10.split())
        x, t = randn(1, 2, 3, 32, 32), torch.tensor([17, 3998])
        np.save(folder / "x.npy", x.numpy())
        with torch.no_grad():
            expected = process(scripts, spaced)._wrap_model(model)(x, t)
            steps = scripts.create_gaussian_diffusion(**spaced, timestep_respacing="ddim10")
            drawn = steps.ddim_sample_loop(model, x.shape, noise=x, clip_denoised=True, eta=0.0, device="cpu")
        for device in ["cpu", "llvmpipe", "swiftshader"]:
            run_binary(binary, "predict", folder / "model", "--input", folder / "x.npy", "--timesteps", "17,3998",
                       "--output", folder / "y.npy", "--device", device)  # fmt: skip
            run_binary(binary, "sample", folder / "model", "--init-noise", folder / "x.npy", "--sampler", "ddim", "--steps",
                       "ddim10", "--num-images", 2, "--save-npy", folder / "z.npy", "--output", folder / "z.png",
                       "--device", device)  # fmt: skip
            for what, file, theirs in [("forward pass", "y.npy", expected), ("ddim10", "z.npy", drawn)]:
                ours = torch.from_numpy(np.load(folder / file))
                print(f"{device}: {what}: largest difference {(ours - theirs).abs().max():.1e} of std {theirs.std():.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--improved", default="improved_diffusion", help="the package with improved-diffusion's code")
    parser.add_argument("--guided", default="guided_diffusion", help="the package with guided-diffusion's code")
    parser.add_argument("--study", metavar="BINARY", help="ddpm-gpu, to be compared with their code")
    arguments = parser.parse_args()
    packages = {"improved": arguments.improved, "guided": arguments.guided}
    modules = {
        whose: [importlib.import_module(f"{package}.{part}") for part in ["unet", "script_util"]]
        for whose, package in packages.items()
    }
    if arguments.study:
        study(arguments.study, modules)
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    tensors, metadata = {}, {}
    for index, name in enumerate(CASES):
        found, metadata[name] = generate(name, 2000 + 10 * index, modules)
        tensors |= found
    save_golden("openai_unet", tensors, metadata)


if __name__ == "__main__":
    main()
