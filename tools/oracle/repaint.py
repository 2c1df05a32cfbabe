#!/usr/bin/env python3
"""Golden file: inpainting with diffusers' RePaintScheduler.

tests/golden/repaint.safetensors:
  x_T, image, mask [n, c, h, w]              mask: 1 where pixels are to be painted (diffusers' own is the reverse)
  noise [rows, n, c, h, w]                   a row for each move, the same for all cases
  <case>.trajectory [moves, n, c, h, w]      x after each step and after each step back
Metadata: cases (JSON): {case: {config, eta, steps, jump_length, jump_n_sample}}.

The network is a closed form: model_output(x, t) = tanh(0.7 x + 0.1 t). Where x_0 is clipped, the scheduler is given the eps
that belongs to the clipped x_0: DDIMScheduler's use_clipped_model_output, which this one does not have. Steps back are compared only where every training
timestep is visited: undo_step(x, t) then adds the noise of beta_t, which is what leads from t - 1 to t. With n timesteps to
a step it adds that of t to t + n - 1, though x is at t - n.
"""

from unittest import mock

import torch
from diffusers import RePaintScheduler

from common import randn, save_golden

SHAPE = (1, 2, 3, 2)
TIMESTEPS = 20
ROWS = 90


def model_output(scheduler, x, t):
    output = torch.tanh(0.7 * x + 0.1 * t)
    if not scheduler.config.clip_sample:
        return output
    alpha, sigma = scheduler.alphas_cumprod[t] ** 0.5, (1 - scheduler.alphas_cumprod[t]) ** 0.5
    x_0 = ((x - sigma * output) / alpha).clamp(-1, 1)
    return (x - alpha * x_0) / sigma


def run(config, eta, steps, jump_length, jump_n_sample, x, image, mask, noise):
    scheduler = RePaintScheduler(**config, eta=eta)
    scheduler.set_timesteps(steps, jump_length, jump_n_sample)
    rows = iter(noise)
    trajectory, t_last = [], int(scheduler.timesteps[0]) + 1
    with mock.patch("diffusers.schedulers.scheduling_repaint.randn_tensor", lambda *a, **k: next(rows)):
        for t in scheduler.timesteps.tolist():  # as RePaintPipeline does
            if t < t_last:
                x = scheduler.step(model_output(scheduler, x, t), t, x, image, 1 - mask).prev_sample
            else:
                x = scheduler.undo_step(x, t_last)
            t_last = t
            trajectory.append(x)
    return torch.stack(trajectory)


def main():
    x, image = randn(7001, *SHAPE), randn(7002, *SHAPE).clamp(-1, 1)
    noise = randn(7003, ROWS, *SHAPE)
    mask = torch.tensor([1.0, 0.0, 0.3]).repeat(4).reshape(SHAPE)
    tensors, cases = {"x_T": x, "image": image, "mask": mask, "noise": noise}, {}
    base = {"num_train_timesteps": TIMESTEPS, "beta_start": 0.01, "beta_end": 0.3}
    for eta in (0.0, 0.5, 1.0):
        for jump_length, jump_n_sample in ((3, 2), (5, 3)):
            for clip in (False, True):
                config = base | {"clip_sample": clip}
                name = f"eta{eta:g}_{jump_length}x{jump_n_sample}_{'clip' if clip else 'noclip'}"
                cases[name] = {"config": config, "eta": eta, "steps": TIMESTEPS, "jump_length": jump_length,
                               "jump_n_sample": jump_n_sample}
    for steps in (5, 10):
        cases[f"steps{steps}"] = {"config": base | {"beta_schedule": "squaredcos_cap_v2"}, "eta": 1.0, "steps": steps,
                                  "jump_length": 2, "jump_n_sample": 1}
    for name, case in cases.items():
        arguments = [case[key] for key in ("config", "eta", "steps", "jump_length", "jump_n_sample")]
        tensors[f"{name}.trajectory"] = run(*arguments, x, image, mask, noise)
        assert tensors[f"{name}.trajectory"].isfinite().all(), name
    save_golden("repaint", tensors, {"cases": cases})


if __name__ == "__main__":
    main()
