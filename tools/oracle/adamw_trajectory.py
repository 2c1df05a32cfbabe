#!/usr/bin/env python3
"""Golden files: ten steps of AdamW, and of Adam, of a small UNet2DModel, with gradient clipping and EMA.

Writes tests/golden/adamw_trajectory.safetensors and tests/golden/adam_trajectory.safetensors with
  step.<i>.x_t, step.<i>.timesteps, step.<i>.target     (i = 0..9; the loss is the mean squared error to the target)
  losses [10], grad_norms [10]                          (before clipping)
  initial.<tensor name>, final.<tensor name>, ema.<tensor name>
Metadata: config (JSON); optimizer (JSON); f64_max_abs_diff (JSON): how far this f32 run is from the same in f64; and
noise_driven (JSON list): tensors whose true gradient is zero (softmax does not see a constant added to the keys), so
that Adam makes steps out of rounding noise and their values cannot be compared.
"""

import argparse
import copy

import torch
from torch.nn.functional import mse_loss
from torch.nn.utils import clip_grad_norm_

from common import make_unet, max_abs_diff, randn, save_golden, unet_config

SEED = 2000
STEPS = 10
BATCH = 2
OPTIMIZER = {"learning_rate": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 1e-2,
             "max_grad_norm": 1.0, "ema_decay": 0.9}
CONFIG = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [8, 12],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": None,
    "dropout": 0.0,
}


def named(prefix, model):
    return {f"{prefix}.{name}": p.detach().clone() for name, p in model.named_parameters()}


def train(optimizer, model, inputs):
    """Returns the losses, the gradient norms, the EMA model and, for each tensor, its largest gradient."""
    optimizer = optimizer(
        model.parameters(), lr=OPTIMIZER["learning_rate"], betas=OPTIMIZER["betas"], eps=OPTIMIZER["eps"],
        weight_decay=OPTIMIZER["weight_decay"], foreach=False,
    )
    decay = OPTIMIZER["ema_decay"]
    ema = copy.deepcopy(model)
    losses, norms, largest = [], [], {name: 0.0 for name, _ in model.named_parameters()}
    for x_t, timesteps, target in inputs:
        loss = mse_loss(model(x_t.to(model.dtype), timesteps).sample, target.to(model.dtype))
        optimizer.zero_grad()
        loss.backward()
        for name, p in model.named_parameters():
            largest[name] = max(largest[name], p.grad.abs().max().item())
        norms.append(clip_grad_norm_(model.parameters(), OPTIMIZER["max_grad_norm"]).detach())
        optimizer.step()
        with torch.no_grad():
            for average, p in zip(ema.parameters(), model.parameters()):
                average.copy_(decay * average + (1 - decay) * p)
        losses.append(loss.detach())
    return torch.stack(losses), torch.stack(norms), ema, largest


def main():
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    write("adamw_trajectory", torch.optim.AdamW)
    write("adam_trajectory", torch.optim.Adam)


def write(file, optimizer):
    model = make_unet(CONFIG, SEED)
    tensors = named("initial", model)
    timesteps = torch.Generator().manual_seed(SEED)
    inputs = [
        (randn(SEED + 3 * i + 1, BATCH, 1, 8, 8), torch.randint(0, 1000, (BATCH,), generator=timesteps),
         (0.3, 1.5)[i % 2] * randn(SEED + 3 * i + 2, BATCH, 1, 8, 8))  # some steps are clipped and some are not
        for i in range(STEPS)
    ]
    for i, (x_t, t, target) in enumerate(inputs):
        tensors |= {f"step.{i}.x_t": x_t, f"step.{i}.timesteps": t, f"step.{i}.target": target}

    exact = copy.deepcopy(model).double()
    losses, norms, ema, _ = train(optimizer, model, inputs)
    exact_losses, exact_norms, exact_ema, largest = train(optimizer, exact, inputs)
    tensors |= {"losses": losses, "grad_norms": norms, **named("final", model), **named("ema", ema)}

    noise_driven = sorted(name for name, g in largest.items() if g < 1e-12)
    exact_tensors = {"losses": exact_losses, "grad_norms": exact_norms,
                     **named("final", exact), **named("ema", exact_ema)}
    diff = {"losses": 0.0, "grad_norms": 0.0, "final": 0.0, "ema": 0.0}
    for name, value in exact_tensors.items():
        kind, _, rest = name.partition(".")
        if rest not in noise_driven:
            diff[kind] = max(diff[kind], max_abs_diff(tensors[name], value))

    save_golden(file, tensors, {
        "config": unet_config(model), "optimizer": OPTIMIZER, "f64_max_abs_diff": diff, "noise_driven": noise_driven,
    })
    print(f"  losses {[round(x, 3) for x in losses.tolist()]}")
    print(f"  gradient norms {[round(x, 3) for x in norms.tolist()]}")
    print(f"  to f64: {diff}; driven by noise: {noise_driven}")


if __name__ == "__main__":
    main()
