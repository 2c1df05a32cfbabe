#!/usr/bin/env python3
"""Checks that low-rank adapters go both ways: what ddpm-gpu trains, peft and diffusers load; what these save, it draws with.

1. ddpm-gpu trains a tiny model, then adapters of it (attention, convolutions, fully connected layers). The adapters are loaded
   by peft's PeftModel.from_pretrained and by diffusers' load_lora_adapter, and the merged export by DDPMPipeline; all four
   predict the same.
2. peft saves adapters (save_pretrained, with other ranks and alphas of some layers), and diffusers does (save_lora_weights).
   `ddpm-gpu predict --lora` and PyTorch predict the same.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler, StableDiffusionPipeline, UNet2DModel
from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict

from common import make_unet, max_abs_diff, randn, run_binary
from pipeline_roundtrip import CONFIG, check

LIMIT = 2e-5  # of numbers of about 1
ALL = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "downsamplers.0.conv", "time_emb_proj"]


class AdaptableUNet(UNet2DModel, PeftAdapterMixin):
    """UNet2DModel has no load_lora_adapter of its own; this is diffusers' own for other models."""


def randomise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5)


def predict_in_python(model, x, timesteps):
    with torch.no_grad():
        return model(x, torch.tensor(timesteps)).sample


class Predictions:
    """What models predict of the same images."""

    def __init__(self, args, folder):
        self.args, self.folder = args, folder
        self.x, self.timesteps = randn(args.seed + 1, 3, 1, 8, 8), [10, 500, 900]
        np.save(folder / "x.npy", self.x.numpy())

    def ours(self, model, *more):
        run_binary(self.args.binary, "predict", model, "--input", self.folder / "x.npy", "--timesteps",
                   ",".join(map(str, self.timesteps)), "--output", self.folder / "y.npy", "--device", self.args.device, *more)
        return torch.from_numpy(np.load(self.folder / "y.npy"))

    def of(self, model):
        return predict_in_python(model.eval(), self.x, self.timesteps)


def alike(one, other, what):
    difference = max_abs_diff(one, other)
    check(difference < LIMIT, f"{what}: largest difference {difference:.1e} of {one.abs().max():.2f}")


def ours_to_others(args, folder, predictions):
    (folder / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel", **CONFIG}))
    # Steps large enough for the model, which begins by predicting nothing, to predict something.
    common = ["--dataset", "digits", "--batch-size", 8, "--device", args.device, "--sample-every", 0, "--learning-rate", 1e-2,
              "--warmup-steps", 0, "--ema-decay", 0.5]
    run_binary(args.binary, "train", *common, "--model", folder / "config.json", "--steps", args.train_steps, "--output",
               folder / "base", "--unconditional")
    targets = [word for target in ALL for word in ("--lora-target", target)]
    run_binary(args.binary, "train", *common, "--init-from", folder / "base", "--unconditional", "--lora-rank", 4, "--lora-alpha",
               6, *targets, "--steps", args.train_steps, "--output", folder / "lora")
    base = folder / "base" / f"checkpoint-{args.train_steps:06}"
    lora = folder / "lora" / f"checkpoint-{args.train_steps:06}"
    expected = predictions.ours(folder / "lora")
    bare = DDPMPipeline.from_pretrained(base).unet
    check(max_abs_diff(expected, predictions.of(bare)) > 1e-2, "the adapters do something")

    of_peft = PeftModel.from_pretrained(UNet2DModel.from_pretrained(base / "unet"), lora)
    alike(expected, predictions.of(of_peft), "PeftModel.from_pretrained")
    of_diffusers = AdaptableUNet.from_pretrained(base / "unet")
    # diffusers reads a file's settings, alpha among them, where it is told the file's name
    of_diffusers.load_lora_adapter(str(lora), weight_name="pytorch_lora_weights.safetensors", prefix="unet")
    alike(expected, predictions.of(of_diffusers), "load_lora_adapter, its settings from the file")
    config = of_diffusers.peft_config["default_0"]
    check((config.r, config.lora_alpha) == (4, 6), f"rank {config.r} and alpha {config.lora_alpha} are in the file")
    state, metadata = StableDiffusionPipeline.lora_state_dict(str(lora), return_lora_metadata=True)[0::2]
    check(all(key.startswith("unet.") for key in state) and metadata["unet.r"] == 4, f"lora_state_dict: {len(state)} tensors")
    run_binary(args.binary, "export", folder / "lora", "--output", folder / "merged")
    alike(expected, predictions.of(DDPMPipeline.from_pretrained(folder / "merged").unet), "export, in DDPMPipeline")
    alike(expected, predictions.of(of_peft.merge_and_unload()), "merge_and_unload of peft")
    alike(expected, predictions.ours(base, "--lora", lora), "predict BASE --lora CHECKPOINT")


def others_to_ours(args, folder, predictions):
    unet = make_unet(CONFIG, seed=args.seed)
    base = folder / "theirs"
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(base)
    for name, config in {
        "plain": LoraConfig(r=4, lora_alpha=8, target_modules=ALL),
        "patterns": LoraConfig(r=4, lora_alpha=8, target_modules=ALL, rank_pattern={"to_q": 2}, alpha_pattern={"conv1": 3}),
        "rslora": LoraConfig(r=4, lora_alpha=3, target_modules=["to_v", "conv1"], use_rslora=True),
    }.items():
        model = get_peft_model(UNet2DModel.from_pretrained(base / "unet"), config)
        randomise(model, args.seed + 2)
        model.save_pretrained(folder / name)
        alike(predictions.of(model), predictions.ours(base, "--lora", folder / name), f"save_pretrained of peft, {name}")

    model = UNet2DModel.from_pretrained(base / "unet")
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=2, init_lora_weights="gaussian", target_modules=ALL[:4]), model)
    model.peft_config = {"default": LoraConfig(r=4, lora_alpha=2, target_modules=ALL[:4])}
    randomise(model, args.seed + 3)
    # as diffusers' training scripts do
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(model))
    metadata = _collate_lora_metadata({"unet": model})
    for name, more in {"script": metadata, "no_metadata": {}}.items():
        StableDiffusionPipeline.save_lora_weights(folder / name, unet_lora_layers=layers, **more)
        expected = predictions.of(model)
        if not more:
            # Then alpha counts as the rank.
            bare = AdaptableUNet.from_pretrained(base / "unet")
            bare.load_lora_adapter(str(folder / name / "pytorch_lora_weights.safetensors"), prefix="unet")
            expected = predictions.of(bare)
        alike(expected, predictions.ours(base, "--lora", folder / name), f"save_lora_weights, {name}")
    alike(
        predictions.of(UNet2DModel.from_pretrained(base / "unet")),
        predictions.ours(base),
        "the model without adapters, for comparison",
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, required=True, help="the ddpm-gpu executable")
    parser.add_argument("--device", default="cpu", help="passed on to ddpm-gpu (default: cpu)")
    parser.add_argument("--train-steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        predictions = Predictions(args, Path(folder))
        ours_to_others(args, Path(folder), predictions)
        others_to_ours(args, Path(folder), predictions)


if __name__ == "__main__":
    main()
