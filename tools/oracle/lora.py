#!/usr/bin/env python3
"""Golden file: low-rank adapters of a small UNet2DModel by peft: forward pass, gradients, steps of AdamW, the merged model.

Writes tests/golden/lora.safetensors with
  weights.<tensor>: the base, and adapters.<module>.lora_A.weight, ...lora_B.weight, neither of them zero,
  input.sample, input.timesteps, input.class_labels, target.sample,
  output.sample, loss = mean((output - target)^2), grad.<adapter's tensor>,
  final.<adapter's tensor>: after three steps of AdamW on the same batch, with the norm of all gradients clipped to 1,
  merged.<module>.weight: base and adapter in one, by peft's merge_and_unload
Metadata: config, rank, alpha, layers, adamw (JSON); f64_max_abs_diff: how far PyTorch's f32 results are from f64.
"""

import copy

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import mse_loss

from common import make_unet, max_abs_diff, randn, save_golden, unet_config

CONFIG = {
    "sample_size": [8, 12],
    "in_channels": 2,
    "out_channels": 2,
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 8,
    "downsample_padding": 0,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "num_class_embeds": 3,
}
RANK, ALPHA = 3, 5.0
# attention, convolutions of 3x3 with stride 1 and 2 and of 1x1, and fully connected layers
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv_shortcut", "downsamplers.0.conv", "time_emb_proj", "linear_2"]
ADAMW = {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2}
PREFIX = "base_model.model."


def adapters(model):
    """The adapters' parameters by the names that peft's files have."""
    found = {n: p for n, p in model.named_parameters() if p.requires_grad}
    return {n.removeprefix(PREFIX).replace(".default.", "."): p for n, p in found.items()}


def forward_backward(model, sample, timesteps, labels, target):
    output = model(sample, timesteps, class_labels=labels).sample
    loss = mse_loss(output, target)
    model.zero_grad()
    loss.backward()
    return output.detach(), loss.detach(), {n: p.grad.clone() for n, p in adapters(model).items()}


def main():
    base = make_unet(CONFIG, seed=1)
    tensors = {f"weights.{n}": p.detach().clone() for n, p in base.named_parameters()}
    config = unet_config(base)
    model = get_peft_model(base, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in adapters(model).items():
            fan_in = parameter[0].numel()
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan_in**0.5)
            tensors[f"adapters.{name}"] = parameter.detach().clone()
    sample, target = randn(3, 3, 2, 8, 12), randn(4, 3, 2, 8, 12)
    timesteps, labels = torch.tensor([3, 500, 977]), torch.tensor([2, 0, 1])
    batch = (sample, timesteps, labels, target)
    output, loss, gradients = forward_backward(model, *batch)
    exact = forward_backward(copy.deepcopy(model).double(), sample.double(), timesteps, labels, target.double())
    merged = copy.deepcopy(model).merge_and_unload()
    layers = sorted({name.rpartition(".lora_")[0] for name in gradients})
    tensors |= {
        "input.sample": sample,
        "input.timesteps": timesteps,
        "input.class_labels": labels,
        "target.sample": target,
        "output.sample": output,
        "loss": loss,
        **{f"grad.{n}": g for n, g in gradients.items()},
        **{f"merged.{layer}.weight": merged.get_submodule(layer).weight for layer in layers},
    }
    diff = {
        "output.sample": max_abs_diff(output, exact[0]),
        "grad": max(max_abs_diff(g, exact[2][n]) for n, g in gradients.items()),
        "merged": max_abs_diff(output, merged(sample, timesteps, class_labels=labels).sample.detach()),
    }
    optimizer = torch.optim.AdamW(adapters(model).values(), **ADAMW)
    for _ in range(3):
        forward_backward(model, *batch)
        torch.nn.utils.clip_grad_norm_(adapters(model).values(), 1.0)
        optimizer.step()
    tensors |= {f"final.{n}": p for n, p in adapters(model).items()}
    save_golden("lora", tensors, {
        "config": config, "rank": RANK, "alpha": ALPHA, "layers": layers, "adamw": ADAMW, "f64_max_abs_diff": diff,
    })
    print(f"  {len(layers)} layers, {sum(g.numel() for g in gradients.values())} of "
          f"{sum(p.numel() for p in model.parameters())} parameters, to f64: {diff}")


if __name__ == "__main__":
    main()
