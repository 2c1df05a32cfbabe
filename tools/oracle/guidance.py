#!/usr/bin/env python3
"""Golden file: ancestral sampling towards a class, as OpenAI's guided-diffusion does it.

tests/golden/guidance.safetensors:
  x_T [6], noise [steps, 6]                      the same for all cases
  <case>.trajectory [steps, 6]                   x after each step
Metadata: cases (JSON): {case: {config}}.

This is `GaussianDiffusion.p_sample` (p_mean_variance, then condition_mean) written anew in f64: x_0 is clamped, the
mean of q(x_{t-1} | x_t, x_0) is taken, and the variance times the gradient is added to that mean. At t = 0
guided-diffusion has no noise, but guides by the variance of t = 1 where the variance is beta_t or learned.

The network is a closed form, eps(x, t) = 1.5 sin(3 x + 0.5 t), with v = tanh(1.3 x - 0.02 t) for a learned variance,
and large enough that x_0 is clamped in most steps; the gradient of the classifier is 3 cos(1.3 x + 0.1 t).
"""

import argparse

import torch

from common import randn, save_golden

T = 12
BETAS = (0.01, 0.4)


def trajectory(x, noise, variance_type, clip):
    betas = torch.linspace(*BETAS, T, dtype=torch.float64)
    alphas_cumprod = torch.cumprod(1 - betas, 0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), alphas_cumprod[:-1]])
    posterior_variance = betas * (1 - before) / (1 - alphas_cumprod)
    # The variance at t = 0 is 0; that of t = 1 takes its place in logarithms.
    small_log = torch.cat([posterior_variance[1:2], posterior_variance[1:]]).log()
    large = torch.cat([posterior_variance[1:2], betas[1:]])
    after, clamped = [], 0
    for i, t in enumerate(reversed(range(T))):
        eps = 1.5 * torch.sin(3 * x + 0.5 * t)
        gradient = 3 * torch.cos(1.3 * x + 0.1 * t)
        x_0 = (x - (1 - alphas_cumprod[t]).sqrt() * eps) / alphas_cumprod[t].sqrt()
        clamped += (x_0.abs() > 1).sum().item()
        if clip:
            x_0 = x_0.clamp(-1, 1)
        if variance_type == "learned_range":
            share = (torch.tanh(1.3 * x - 0.02 * t) + 1) / 2
            variance = (share * betas[t].log() + (1 - share) * small_log[t]).exp()
        else:
            variance = (posterior_variance if variance_type == "fixed_small" else large)[t]
        mean = (
            before[t].sqrt() * betas[t] / (1 - alphas_cumprod[t]) * x_0
            + (1 - betas[t]).sqrt() * (1 - before[t]) / (1 - alphas_cumprod[t]) * x
        )
        mean = mean + variance * gradient
        x = mean + variance.sqrt() * noise[i] if t > 0 else mean
        after.append(x)
    return torch.stack(after), clamped


def main():
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    x_t, noise = randn(7001, 6), randn(7002, T, 6)
    tensors, cases = {"x_T": x_t, "noise": noise}, {}
    for variance_type in ("fixed_small", "fixed_large", "learned_range"):
        for clip in (True, False):
            name = f"{variance_type}_{'clip' if clip else 'noclip'}"
            found, clamped = trajectory(x_t.double(), noise.double(), variance_type, clip)
            tensors[f"{name}.trajectory"] = found.float()
            config = {"num_train_timesteps": T, "beta_start": BETAS[0], "beta_end": BETAS[1], "clip_sample": clip,
                      "variance_type": variance_type}
            cases[name] = {"config": config}
            print(f"  {name}: |x| <= {found.abs().max():.2f}, |x_0| > 1 in {clamped} of {found.numel()}")
    save_golden("guidance", tensors, {"cases": cases})


if __name__ == "__main__":
    main()
