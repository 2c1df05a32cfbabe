#!/usr/bin/env python3
"""Checks that checkpoints are diffusers pipelines, both ways.

1. ddpm-gpu trains a tiny model for a few steps; DDPMPipeline.from_pretrained loads the checkpoint and samples from it.
2. diffusers saves a pipeline; `ddpm-gpu sample` runs DDIM (eta 0) from a given x_T, and the images are compared with
   DDIMScheduler's in Python.
3. diffusers saves a pipeline with each scheduler class; what `ddpm-gpu export` makes of it, diffusers loads as the same class with
   the same configuration.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import diffusers
import numpy as np
import torch
from class_trajectories import CASES, V
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel

from common import make_unet, randn, run_binary

CONFIG = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [16, 32],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": None,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "act_fn": "silu",
    "norm_eps": 1e-5,
}


def check(condition, message):
    print(("ok: " if condition else "FAILED: ") + message)
    if not condition:
        sys.exit(1)


def ours_to_diffusers(args, folder):
    config = folder / "config.json"
    config.write_text(json.dumps({"_class_name": "UNet2DModel", **CONFIG}))
    run_binary(args.binary, "train", "--dataset", "digits", "--model", config, "--steps", args.train_steps,
               "--batch-size", 8, "--output", folder / "run", "--device", args.device)
    checkpoints = [p for p in (folder / "run").glob("checkpoint-*") if p.name.rpartition("-")[2].isdigit()]
    check(checkpoints, f"{len(checkpoints)} checkpoint folders in the output")
    newest = max(checkpoints, key=lambda p: int(p.name.rpartition("-")[2]))

    pipeline = DDPMPipeline.from_pretrained(newest)
    loaded = dict(pipeline.unet.config)
    wrong = {k: loaded[k] for k, v in CONFIG.items() if json.dumps(loaded[k]) != json.dumps(v)}
    check(not wrong, f"{newest.name}: unet config loaded as given {wrong or ''}")
    reference = UNet2DModel(**CONFIG)
    expected = {name: tuple(p.shape) for name, p in reference.named_parameters()}
    check({n: tuple(p.shape) for n, p in pipeline.unet.named_parameters()} == expected, "tensor names and shapes")
    check(all(p.isfinite().all() for p in pipeline.unet.parameters()), "finite weights")
    constant = [n for n, p in pipeline.unet.named_parameters() if p.numel() > 1 and p.std() == 0]
    check(not constant, f"every tensor moved in training {constant or ''}")
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(batch_size=2, num_inference_steps=5, output_type="np",
                      generator=torch.Generator().manual_seed(0)).images
    check(images.shape == (2, 8, 8, 1), f"sample shape {images.shape}")
    check(bool(np.isfinite(images).all()), "finite samples")
    print(f"scheduler: {type(pipeline.scheduler).__name__} {pipeline.scheduler.config.beta_schedule}")


def diffusers_to_ours(args, folder):
    unet = make_unet(CONFIG, seed=args.seed)
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=True)
    DDPMPipeline(unet, scheduler).save_pretrained(folder / "pipeline")
    x_T = randn(args.seed + 1, 4, 1, 8, 8)
    np.save(folder / "x_T.npy", x_T.numpy())
    run_binary(args.binary, "sample", folder / "pipeline", "--output", folder / "grid.png", "--num-images", 4,
               "--sampler", "ddim", "--steps", 5, "--eta", 0, "--save-npy", folder / "images.npy",
               "--init-noise", folder / "x_T.npy", "--device", args.device)

    ddim = DDIMScheduler.from_config(scheduler.config)
    ddim.set_timesteps(5)
    x = x_T
    with torch.no_grad():
        for t in ddim.timesteps:
            x = ddim.step(unet(x, t).sample, t, x, eta=0.0, use_clipped_model_output=True).prev_sample
    expected = x.clamp(-1, 1).numpy()
    images = np.load(folder / "images.npy")
    check(images.shape == expected.shape, f"images.npy has shape {images.shape}")
    inside = (np.abs(expected) < 0.999).mean()
    check(inside > 0.2, f"{inside:.0%} of the expected pixels are not saturated")
    difference = np.abs(images - expected).max()
    check(bool(difference < args.limit), f"DDIM: max|difference| = {difference:.2e}, limit {args.limit:.0e}")
    check((folder / "grid.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n", "grid.png is a PNG")


def schedulers_and_back(args, folder):
    unet = make_unet(CONFIG, seed=args.seed)
    for name, (_, choices) in CASES.items():
        # Any but the usual choices, of those that ddpm-gpu has for networks that predict v.
        scheduler = getattr(diffusers, name)(**choices[-2] | V)
        saved, exported = folder / name, folder / f"{name}-exported"
        DDPMPipeline(unet, scheduler).save_pretrained(saved)
        run_binary(args.binary, "export", saved, "--output", exported)
        loaded = DDPMPipeline.from_pretrained(exported).scheduler
        check(type(loaded) is type(scheduler), f"the exported pipeline has a {type(loaded).__name__}")
        own = lambda config: {k: v for k, v in config.items() if not k.startswith("_")}
        wrong = {k: (v, own(loaded.config).get(k)) for k, v in own(scheduler.config).items() if own(loaded.config).get(k) != v}
        check(not wrong and len(own(loaded.config)) == len(own(scheduler.config)), f"{name}: the same configuration {wrong or ''}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, required=True, help="the ddpm-gpu executable")
    parser.add_argument("--device", default="cpu", help="passed on to ddpm-gpu (default: cpu)")
    parser.add_argument("--train-steps", type=int, default=20)
    parser.add_argument("--limit", type=float, default=1e-3, help="for the images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ours_to_diffusers(args, Path(folder))
        diffusers_to_ours(args, Path(folder))
        schedulers_and_back(args, Path(folder))


if __name__ == "__main__":
    main()
