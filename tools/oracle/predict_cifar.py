#!/usr/bin/env python3
"""Compares one forward pass of ddpm-gpu with PyTorch's, by default on google/ddpm-cifar10-32's architecture.

The weights are random (seeded). The model goes to disk as a diffusers pipeline, `ddpm-gpu predict` runs on it, and
max|difference| / std(PyTorch's output) is held against --limit.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler

from common import CIFAR10, make_unet, randn, run_binary


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, required=True, help="the ddpm-gpu executable")
    parser.add_argument("--device", default="cpu", help="passed on to ddpm-gpu (default: cpu)")
    parser.add_argument("--config", type=Path, help="another UNet2DModel config.json")
    parser.add_argument("--timesteps", default="10,500,999,0", help="one per image of the batch (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=1e-4, help="exit 1 above this (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="leave the pipeline and the arrays in this folder")
    args = parser.parse_args()

    config = json.loads(args.config.read_text()) if args.config else CIFAR10
    config = {k: v for k, v in config.items() if not k.startswith("_")}
    timesteps = [int(t) for t in args.timesteps.split(",")]
    unet = make_unet(config, args.seed)
    size = unet.config.sample_size
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    x_t = randn(args.seed + 1, len(timesteps), unet.config.in_channels, height, width)
    labels = None
    if unet.config.num_class_embeds:
        labels = torch.arange(len(timesteps)) * 3 % unet.config.num_class_embeds

    torch.set_num_threads(torch.get_num_interop_threads())
    start = time.perf_counter()
    with torch.no_grad():
        expected = unet(x_t, torch.tensor(timesteps), class_labels=labels).sample.numpy()
    torch_seconds = time.perf_counter() - start

    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        scheduler = DDPMScheduler(beta_schedule="linear", clip_sample=True, variance_type="fixed_large")
        DDPMPipeline(unet, scheduler).save_pretrained(folder / "pipeline")
        np.save(folder / "x_t.npy", x_t.numpy())
        arguments = ["predict", folder / "pipeline", "--input", folder / "x_t.npy", "--timesteps", args.timesteps,
                     "--output", folder / "out.npy", "--device", args.device]
        if labels is not None:
            arguments += ["--class-labels", ",".join(map(str, labels.tolist()))]
        start = time.perf_counter()
        run_binary(args.binary, *arguments)
        our_seconds = time.perf_counter() - start
        output = np.load(folder / "out.npy")

    if output.shape != expected.shape:
        sys.exit(f"shape {output.shape}, expected {expected.shape}")
    std = expected.std()
    difference = np.abs(output.astype(np.float64) - expected).reshape(len(timesteps), -1).max(axis=1) / std
    parameters = sum(p.numel() for p in unet.parameters())
    print(f"{parameters:,} parameters in {len(list(unet.parameters()))} tensors, output std {std:.4f}")
    print(f"PyTorch {torch_seconds:.2f} s; ddpm-gpu {our_seconds:.2f} s with start and loading")
    for t, d in zip(timesteps, difference):
        print(f"  timestep {t}: max|difference| / std = {d:.2e}")
    passed = bool(difference.max() <= args.limit)  # NaN does not pass
    print(f"{'passed' if passed else 'FAILED'}: {difference.max():.2e}, limit {args.limit:.0e}")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
