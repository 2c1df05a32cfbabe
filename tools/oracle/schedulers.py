#!/usr/bin/env python3
"""Golden files: noise schedules in f64, and reverse trajectories of diffusers' DDPMScheduler and DDIMScheduler.

tests/golden/schedules.safetensors (f64, T = 1000, straight from the papers' formulas):
  betas.<schedule>, alphas_cumprod.<schedule>           for linear, scaled_linear, squaredcos_cap_v2, sigmoid
tests/golden/scheduler_ddpm.safetensors and scheduler_ddim.safetensors, for each case:
  <case>.timesteps [steps], <case>.x_T [n, c, h, w], <case>.trajectory [steps + 1, n, c, h, w] (x_T first),
  <case>.noise [steps, n, c, h, w]    row i is the normal noise of step i; absent where none is drawn (DDIM with eta 0);
                                      DDPM draws none in a step at t = 0, and that row is to be ignored
Metadata: cases (JSON): {case: {scheduler, config, steps, eta, f64_max_abs_diff}}, the last being how far diffusers'
f32 trajectory is from the same computed in f64 with the f64 schedule.

The network is a closed form: model_output(x, t) = tanh(0.7 x + 0.001 t).
"""

import argparse
import math
from unittest import mock

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from common import max_abs_diff, randn, save_golden

T = 1000


def betas_f64(schedule):
    t = np.arange(T, dtype=np.float64)
    if schedule == "linear":  # Ho et al. 2020
        return np.linspace(1e-4, 0.02, T, dtype=np.float64)
    if schedule == "scaled_linear":  # latent diffusion
        return np.linspace(math.sqrt(1e-4), math.sqrt(0.02), T, dtype=np.float64) ** 2
    if schedule == "squaredcos_cap_v2":  # Nichol and Dhariwal 2021, cosine
        def f(u):
            return np.cos((u / T + 0.008) / 1.008 * math.pi / 2) ** 2
        return np.minimum(1 - f(t + 1) / f(t), 0.999)
    if schedule == "sigmoid":  # GeoDiff, as diffusers has it
        return 1 / (1 + np.exp(-np.linspace(-6, 6, T, dtype=np.float64))) * (0.02 - 1e-4) + 1e-4
    raise ValueError(schedule)


def model_output(x, t):
    return torch.tanh(0.7 * x + 0.001 * t)


def use_f64(scheduler, schedule):
    """Replaces a scheduler's f32 tables by the f64 schedule."""
    scheduler.betas = torch.from_numpy(betas_f64(schedule))
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = torch.cumprod(scheduler.alphas, 0)
    scheduler.one = torch.tensor(1.0, dtype=torch.float64)
    if isinstance(scheduler, DDIMScheduler):
        scheduler.final_alpha_cumprod = (
            scheduler.one if scheduler.config.set_alpha_to_one else scheduler.alphas_cumprod[0]
        )


def run(scheduler, x, noise, eta):
    """The whole reverse trajectory; `noise` is handed out row by row instead of what the scheduler would draw."""
    trajectory = [x]
    for i, t in enumerate(scheduler.timesteps):
        eps = model_output(x, t.item())
        row = noise[i].to(x.dtype)
        if isinstance(scheduler, DDIMScheduler):
            arguments = {"eta": eta, "use_clipped_model_output": True}
            x = scheduler.step(eps, t.item(), x, variance_noise=row if eta > 0 else None, **arguments).prev_sample
        else:
            with mock.patch("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, **k: row):
                x = scheduler.step(eps, t.item(), x).prev_sample
        trajectory.append(x)
    return torch.stack(trajectory)


def all_cases():
    """(name, scheduler class, its arguments, steps, eta)"""
    for schedule, short in (("linear", "linear"), ("squaredcos_cap_v2", "cosine")):
        for clip in (True, False):
            for steps in (5, 10, 50):
                base = {"beta_schedule": schedule, "clip_sample": clip}
                tail = f"{'clip' if clip else 'noclip'}_{steps}"
                for variance in ("fixed_small", "fixed_large"):
                    yield (f"ddpm_{short}_{variance}_{tail}", DDPMScheduler,
                           base | {"variance_type": variance}, steps, 0.0)
                for eta in (0.0, 0.5, 1.0):
                    yield f"ddim_{short}_eta{eta:g}_{tail}", DDIMScheduler, base, steps, eta
    linear = {"beta_schedule": "linear"}
    for cls, short, eta in ((DDPMScheduler, "ddpm", 0.0), (DDIMScheduler, "ddim", 0.5)):
        for spacing in ("trailing", "linspace"):
            yield f"{short}_{spacing}", cls, linear | {"timestep_spacing": spacing}, 10, eta
        yield f"{short}_seven_steps", cls, linear, 7, eta  # does not divide 1000
        yield f"{short}_steps_offset", cls, linear | {"steps_offset": 1}, 10, eta
        yield f"{short}_clip_range", cls, linear | {"clip_sample_range": 0.6}, 10, eta
        for prediction in ("v_prediction", "sample"):
            yield f"{short}_{prediction}", cls, linear | {"prediction_type": prediction}, 10, eta
        yield f"{short}_scaled_linear", cls, {"beta_schedule": "scaled_linear"}, 10, eta
    yield "ddim_final_alpha", DDIMScheduler, linear | {"set_alpha_to_one": False}, 10, 0.5


def main():
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()

    tensors = {}
    for schedule in ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"):
        betas = betas_f64(schedule)
        tensors[f"betas.{schedule}"] = torch.from_numpy(betas)
        tensors[f"alphas_cumprod.{schedule}"] = torch.from_numpy(np.cumprod(1 - betas))
        ours = max_abs_diff(torch.from_numpy(betas), DDPMScheduler(beta_schedule=schedule).betas)
        assert ours < 1e-6, f"{schedule}: diffusers has other betas ({ours})"
    save_golden("schedules", tensors, {"num_train_timesteps": T})

    files = {"ddpm": ({}, {}), "ddim": ({}, {})}
    for index, (name, cls, arguments, steps, eta) in enumerate(all_cases()):
        shape = (1, 1, 4, 6) if steps == 50 else (2, 3, 4, 6)
        x, noise = randn(3000 + 2 * index, *shape), randn(3001 + 2 * index, steps, *shape)
        scheduler, exact = cls(**arguments), cls(**arguments)
        use_f64(exact, arguments["beta_schedule"])
        scheduler.set_timesteps(steps)
        exact.set_timesteps(steps)
        trajectory = run(scheduler, x, noise, eta)
        diff = max_abs_diff(trajectory, run(exact, x.double(), noise, eta))
        assert trajectory.isfinite().all(), name

        tensors, cases = files[name[:4]]
        tensors |= {f"{name}.timesteps": scheduler.timesteps, f"{name}.x_T": x, f"{name}.trajectory": trajectory}
        if cls is DDPMScheduler or eta > 0:
            tensors[f"{name}.noise"] = noise
        config = {k: v for k, v in scheduler.config.items() if not k.startswith("_")}
        cases[name] = {"scheduler": cls.__name__, "config": config, "steps": steps, "eta": eta,
                       "f64_max_abs_diff": diff}
        print(f"  {name}: |x_0| <= {trajectory[-1].abs().max():.2f}, to f64 {diff:.1e}")
    for kind, (tensors, cases) in files.items():
        save_golden(f"scheduler_{kind}", tensors, {"cases": cases})


if __name__ == "__main__":
    main()
