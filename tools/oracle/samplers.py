#!/usr/bin/env python3
"""Golden files: reverse trajectories of diffusers' other schedulers, and of a small predictor-corrector after the paper.

tests/golden/sampler_<name>.safetensors, for ddim_inverse, pndm, plms, dpmpp_2m, dpmpp_2m_sde, unipc, euler, heun, pc,
threshold (dynamic thresholding, with several of them) and learned_range (DDPM with learned variance):
  x_T [n, c, h, w], noise [rows, n, c, h, w]     the same for all cases of a file
  <case>.timesteps [evaluations]                 what the network is told
  <case>.trajectory [evaluations, n, c, h, w]    x after each step, divided by sqrt(1 + sigma^2) where diffusers' own is
                                                 x / alpha, so that image and noise always have variance 1 together
Metadata: cases (JSON): {case: {sampler, config, steps, f32_max_abs_diff}}. The schedulers run in f64 here: where hardly
anything of the image is left, their f32 loses up to three digits, and the last number says how far that takes them.

The network is a closed form: model_output(x, t) = tanh(0.7 x + 0.001 t), and with learned variance a second half
v = tanh(1.3 x - 0.002 t). The trajectory therefore shows at which x and t it was called, and how often.
"""

import argparse
import itertools
from unittest import mock

import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from common import max_abs_diff, randn, save_golden
from schedulers import betas_f64, model_output

SHAPE = (1, 2, 3, 2)
ROWS = 40
PREDICTIONS = ("epsilon", "sample", "v_prediction")
SPACINGS = ("leading", "trailing", "linspace")

CLASSES = {
    "ddim": (DDIMScheduler, {}),
    "ddpm": (DDPMScheduler, {}),
    "ddim_inverse": (DDIMInverseScheduler, {}),
    "pndm": (PNDMScheduler, {}),
    "plms": (PNDMScheduler, {"skip_prk_steps": True}),
    "dpmpp_2m": (DPMSolverMultistepScheduler, {}),
    "dpmpp_2m_sde": (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": (UniPCMultistepScheduler, {}),
    "euler": (EulerDiscreteScheduler, {"use_karras_sigmas": True}),
    "heun": (HeunDiscreteScheduler, {"use_karras_sigmas": True}),
}


def run_diffusers(sampler, config, steps, x, noise, dtype):
    """Timesteps and trajectory of diffusers' scheduler; in f64 with the betas in f64."""
    cls, extra = CLASSES[sampler]
    if dtype == torch.float64:
        # The classes build all tables from these, in their dtype; `astype(np.float32)` of sigmas remains.
        betas = torch.from_numpy(betas_f64(config["beta_schedule"]))
        with mock.patch("torch.tensor", lambda data, **_: betas if data == "betas" else torch.as_tensor(data)):
            scheduler = cls(**config, **extra, trained_betas="betas")
    else:
        scheduler = cls(**config, **extra)
    scheduler.set_timesteps(steps)
    rows = iter(noise.to(dtype))
    sigmas = getattr(scheduler, "sigmas", None) if sampler in ("euler", "heun") else None
    scale = (lambda i: (1 + sigmas[i].to(dtype) ** 2) ** 0.5) if sigmas is not None else lambda i: 1.0
    x = x.to(dtype) * scale(0)
    timesteps, trajectory = [], []
    for i, t in enumerate(scheduler.timesteps):
        t = t if sigmas is not None else t.item()
        seen = scheduler.scale_model_input(x, t).to(dtype)
        output = model_output(seen, float(t))
        if config.get("variance_type") == "learned_range":
            output = torch.cat([output, torch.tanh(1.3 * seen - 0.002 * float(t))], dim=1)
        arguments = {"use_clipped_model_output": True} if sampler == "ddim" else {}
        if sampler == "dpmpp_2m_sde":
            arguments["variance_noise"] = next(rows)
        with mock.patch("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, **k: next(rows)):
            x = scheduler.step(output, t, x, **arguments).prev_sample.to(dtype)
        timesteps.append(float(t))
        trajectory.append(x / scale(i + 1))
    return torch.tensor(timesteps, dtype=torch.float64), torch.stack(trajectory)


def run_pc(sampler, config, steps, x, noise, dtype):
    """Song et al. 2021, algorithms 3 and 5, with the ancestral sampling of Ho et al. 2020 as predictor."""
    abar = torch.cumprod(1 - torch.from_numpy(betas_f64(config["beta_schedule"])), 0).to(dtype)
    rows = iter(noise.to(dtype))
    x = x.to(dtype)
    ts = [i * (1000 // steps) for i in reversed(range(steps))]
    timesteps, trajectory = [], []

    def eps_and_x0(t):
        output = model_output(x, float(t))
        a, s = abar[t] ** 0.5, (1 - abar[t]) ** 0.5
        timesteps.append(float(t))
        if config["prediction_type"] == "epsilon":
            return output, (x - s * output) / a
        if config["prediction_type"] == "sample":
            return (x - a * output) / s, output
        return a * output + s * x, a * x - s * output

    for i, t in enumerate(ts):
        before = abar[ts[i + 1]] if i + 1 < len(ts) else torch.ones((), dtype=dtype)
        alpha = abar[t] / before
        for _ in range(config["corrector_steps"]):
            eps, _ = eps_and_x0(t)
            score = -eps / (1 - abar[t]) ** 0.5
            z = next(rows)
            step = 2 * alpha * (config["snr"] * z.norm() / score.norm()) ** 2
            trajectory.append(x)
            x = x + step * score + (2 * step) ** 0.5 * z
            trajectory.append(x)
        _, x0 = eps_and_x0(t)
        beta = 1 - alpha
        mean = before**0.5 * beta / (1 - abar[t]) * x0 + alpha**0.5 * (1 - before) / (1 - abar[t]) * x
        x = mean if t == 0 else mean + ((1 - before) / (1 - abar[t]) * beta) ** 0.5 * next(rows)
        trajectory.append(x)
    return torch.tensor(timesteps, dtype=torch.float64), torch.stack(trajectory)


def all_cases():
    """(file, case, sampler, config, steps)"""
    for schedule, short in (("linear", "linear"), ("squaredcos_cap_v2", "cosine")):
        for sampler, prediction, spacing, steps in itertools.product(
            ("ddim_inverse", "pndm", "plms", "dpmpp_2m", "dpmpp_2m_sde", "unipc", "euler", "heun"),
            PREDICTIONS, SPACINGS, (5, 12),
        ):
            # What diffusers does not have.
            if sampler in ("pndm", "plms") and prediction == "sample":
                continue
            if sampler == "ddim_inverse" and spacing == "linspace":
                continue
            config = {"beta_schedule": schedule, "prediction_type": prediction, "timestep_spacing": spacing}
            if sampler == "ddim_inverse":
                # With an alpha of one it divides by zero where the network predicts x_0.
                config |= {"clip_sample": steps == 5, "set_alpha_to_one": prediction == "v_prediction"}
            if sampler in ("pndm", "plms"):
                config |= {"set_alpha_to_one": steps == 5}
            if sampler == "heun":
                config |= {"beta_start": 1e-4, "beta_end": 0.02, "clip_sample": spacing == "leading"}
            yield sampler, f"{short}_{prediction}_{spacing}_{steps}", sampler, config, steps
        for prediction in PREDICTIONS:
            base = {"beta_schedule": schedule, "prediction_type": prediction}
            for steps, corrections, snr in ((5, 1, 0.16), (6, 2, 0.3)):
                config = base | {"corrector_steps": corrections, "snr": snr}
                yield "pc", f"{short}_{prediction}_{steps}", "pc", config, steps
            for sampler in ("ddim", "ddpm", "dpmpp_2m", "unipc"):
                for ratio, most in ((0.9, 1.5), (0.77, 100.0)):
                    config = base | {"thresholding": True, "dynamic_thresholding_ratio": ratio,
                                     "sample_max_value": most, "timestep_spacing": "leading"}
                    yield "threshold", f"{sampler}_{short}_{prediction}_{ratio:g}", sampler, config, 6
            for steps in (5, 20):
                for clip in (True, False):
                    config = base | {"variance_type": "learned_range", "clip_sample": clip}
                    name = f"{short}_{prediction}_{'clip' if clip else 'noclip'}_{steps}"
                    yield "learned_range", name, "ddpm", config, steps


def main():
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    files = {}
    for file, name, sampler, config, steps in all_cases():
        if file not in files:
            number = 5000 + 2 * len(files)
            files[file] = ({"x_T": randn(number, *SHAPE), "noise": randn(number + 1, ROWS, *SHAPE)}, {})
        tensors, cases = files[file]
        run = run_pc if sampler == "pc" else run_diffusers
        arguments = (sampler, config, steps, tensors["x_T"], tensors["noise"])
        timesteps, trajectory = run(*arguments, torch.float32)
        exact_timesteps, exact = run(*arguments, torch.float64)
        assert trajectory.isfinite().all() and exact.isfinite().all(), (file, name)
        diff = max_abs_diff(trajectory, exact)
        tensors |= {f"{name}.timesteps": exact_timesteps.float(), f"{name}.trajectory": exact.float()}
        cases[name] = {"sampler": sampler, "config": config, "steps": steps, "f32_max_abs_diff": diff}
        print(f"  {file} {name}: |x| <= {trajectory.abs().max():.2f}, to f64 {diff:.1e}")
    for file, (tensors, cases) in files.items():
        save_golden(f"sampler_{file}", tensors, {"cases": cases})


if __name__ == "__main__":
    main()
