#!/usr/bin/env python3
"""Golden file: losses, schedules and timestep sampling, from the papers in plain PyTorch (f64).

tests/golden/objectives.safetensors:
  zero_snr.<schedule> [T]         betas of diffusers' DDPMScheduler with rescale_betas_zero_snr=True (f32 tables)
  x_start, eps [n, c, h, w]       images in 8 bits, edges included, and noise
  output [n, 2 c, h, w]           what the network says, v of the variance in the second half
  timesteps [n]                   of each image, 0 and T - 1 included
  <case>.loss [n]                 loss of each image; terms of the bound in bits per dimension
  <case>.d_output [n, C, h, w]    gradient of their sum; C is c or 2 c
  sampler.timesteps, sampler.losses [steps, n]    what importance sampling is told
  sampler.probabilities [steps, T]                what it makes of it after each step
Cases: vlb_<schedule>_<prediction>_<variance>, hybrid_... (the term that teaches the variance alone), l1, huber.
The discrete decoder uses the exact normal distribution function, not the approximation of Ho et al.'s code.
"""

import argparse
import math

import torch
from diffusers import DDPMScheduler

from common import randn, save_golden

T = 50
SCHEDULES = ("linear", "squaredcos_cap_v2")


def betas_of(schedule):
    if schedule == "linear":
        return torch.linspace(1e-3, 0.2, T, dtype=torch.float64)
    f = torch.cos((torch.arange(T + 1, dtype=torch.float64) / T + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - f[1:] / f[:-1]).clamp(max=0.999)


class Process:
    """Ho et al. 2020, section 2, by the names of improved-diffusion's GaussianDiffusion."""

    def __init__(self, betas):
        self.betas = betas
        self.abar = torch.cumprod(1 - betas, 0)
        before = torch.cat([torch.ones(1, dtype=torch.float64), self.abar[:-1]])
        self.posterior_variance = betas * (1 - before) / (1 - self.abar)
        clipped = torch.cat([self.posterior_variance[1:2], self.posterior_variance[1:]])
        self.posterior_log_variance = clipped.log()
        self.mean_of_x_start = betas * before.sqrt() / (1 - self.abar)
        self.mean_of_x_t = (1 - before) * (1 - betas).sqrt() / (1 - self.abar)

    def at(self, table, t):
        return table[t][:, None, None, None]

    def x_t(self, x_start, eps, t):
        abar = self.at(self.abar, t)
        return abar.sqrt() * x_start + (1 - abar).sqrt() * eps

    def x_start_of(self, kind, x_t, output, t):
        abar = self.at(self.abar, t)
        if kind == "epsilon":
            return (x_t - (1 - abar).sqrt() * output) / abar.sqrt()
        return output if kind == "sample" else abar.sqrt() * x_t - (1 - abar).sqrt() * output

    def log_variance_of(self, kind, v, t):
        if kind == "learned_range":
            fraction = (v + 1) / 2
            return fraction * self.at(self.betas.log(), t) + (1 - fraction) * self.at(self.posterior_log_variance, t)
        if kind == "fixed_large":
            large = torch.cat([self.posterior_variance[1:2], self.betas[1:]])
            return self.at(large.log(), t).expand_as(v)
        return self.at(self.posterior_log_variance, t).expand_as(v)

    def vlb_terms(self, prediction, variance, x_start, eps, output, t, freeze_mean):
        c = x_start.shape[1]
        x_t = self.x_t(x_start, eps, t)
        says, v = output[:, :c], output[:, c:] if output.shape[1] > c else torch.zeros_like(x_start)
        if freeze_mean:
            says = says.detach()
        mean_of = lambda x: self.at(self.mean_of_x_start, t) * x + self.at(self.mean_of_x_t, t) * x_t
        true_mean, mean = mean_of(x_start), mean_of(self.x_start_of(prediction, x_t, says, t))
        true_log, log = self.at(self.posterior_log_variance, t), self.log_variance_of(variance, v, t)
        kl = 0.5 * (-1 + log - true_log + (true_log - log).exp() + (true_mean - mean) ** 2 * (-log).exp())
        decoder = -discretised(x_start, mean, log)
        bits = torch.where((t == 0)[:, None, None, None], decoder, kl) / math.log(2)
        return bits.mean(dim=(1, 2, 3))


def discretised(x, mean, log_variance):
    """Ho et al. 2020, equation 13, in logarithms."""
    inverse = (-0.5 * log_variance).exp()
    cdf = torch.special.log_ndtr
    upper, lower = (x - mean + 1 / 255) * inverse, (x - mean - 1 / 255) * inverse
    right = upper + lower > 0
    near, far = torch.where(right, -lower, upper), torch.where(right, -upper, lower)
    between = cdf(near) + torch.log(-torch.expm1(cdf(far) - cdf(near)))
    return torch.where(x < -0.999, cdf(upper), torch.where(x > 0.999, cdf(-lower), between))


class LossSecondMomentResampler:
    """Nichol and Dhariwal 2021, equation 18, with improved-diffusion's constants."""

    def __init__(self, history=10, uniform=0.001):
        self.size, self.uniform = history, uniform
        self.history = torch.zeros(T, history, dtype=torch.float64)
        self.counts = torch.zeros(T, dtype=torch.int64)

    def probabilities(self):
        if (self.counts < self.size).any():
            return torch.full((T,), 1 / T, dtype=torch.float64)
        p = self.history.square().mean(dim=1).sqrt()
        return p / p.sum() * (1 - self.uniform) + self.uniform / T

    def update(self, timesteps, losses):
        for t, loss in zip(timesteps.tolist(), losses.tolist()):
            if self.counts[t] == self.size:
                self.history[t] = torch.cat([self.history[t, 1:], torch.tensor([loss], dtype=torch.float64)])
            else:
                self.history[t, self.counts[t]] = loss
                self.counts[t] += 1


def main():
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    tensors = {}
    for schedule in ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"):
        scheduler = DDPMScheduler(beta_schedule=schedule, rescale_betas_zero_snr=True, prediction_type="v_prediction")
        tensors[f"zero_snr.{schedule}"] = scheduler.betas

    n, c, h, w = 5, 3, 4, 6
    levels = torch.randint(0, 256, (n, c, h, w), generator=torch.Generator().manual_seed(40))
    levels[:, :, 0, 0], levels[:, :, 1, 1] = 0, 255
    x_start = (levels.double() / 127.5 - 1).float()
    eps, output = randn(41, n, c, h, w), randn(42, n, 2 * c, h, w)
    # Near the truth, as a trained network is, so that the decoder is not in its tails only.
    output[:, :c] = eps + 0.1 * output[:, :c]
    timesteps = torch.tensor([0, 1, 7, 30, T - 1])
    tensors |= {"x_start": x_start, "eps": eps, "output": output, "timesteps": timesteps}

    def record(name, loss_of, channels):
        says = output[:, :channels].double().requires_grad_()
        loss = loss_of(says)
        (gradient,) = torch.autograd.grad(loss.sum(), says)
        assert loss.isfinite().all() and gradient.isfinite().all(), name
        tensors[f"{name}.loss"], tensors[f"{name}.d_output"] = loss.float(), gradient.float()

    for schedule in SCHEDULES:
        process = Process(betas_of(schedule))
        tensors[f"betas.{schedule}"] = process.betas
        for prediction in ("epsilon", "sample", "v_prediction"):
            for variance in ("fixed_small", "fixed_large", "learned_range"):
                for kind in ("vlb", "hybrid") if variance == "learned_range" else ("vlb",):
                    record(
                        f"{kind}_{schedule}_{prediction}_{variance}",
                        lambda says: process.vlb_terms(
                            prediction, variance, x_start.double(), eps.double(), says, timesteps, kind == "hybrid"
                        ),
                        2 * c if variance == "learned_range" else c,
                    )
    functional = torch.nn.functional
    for name, loss in (
        ("l1", lambda says: functional.l1_loss(says, eps.double(), reduction="none")),
        ("huber", lambda says: functional.huber_loss(says, eps.double(), reduction="none", delta=0.1)),
    ):
        record(name, lambda says: loss(says).mean(dim=(1, 2, 3)), c)

    generator = torch.Generator().manual_seed(43)
    steps, batch = 40, 24
    # Every timestep in turn: the first ten rounds warm it up.
    drawn = torch.arange(steps * batch).reshape(steps, batch) % T
    losses = (1 + drawn.double() / 5) * torch.rand(steps, batch, generator=generator, dtype=torch.float64)
    losses = losses.float()
    sampler, probabilities = LossSecondMomentResampler(), []
    for t, loss in zip(drawn, losses):
        sampler.update(t, loss)
        probabilities.append(sampler.probabilities())
    tensors |= {"sampler.timesteps": drawn, "sampler.losses": losses,
                "sampler.probabilities": torch.stack(probabilities)}
    save_golden("objectives", tensors, {"num_train_timesteps": T, "huber_delta": 0.1})


if __name__ == "__main__":
    main()
