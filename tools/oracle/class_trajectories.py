#!/usr/bin/env python3
"""Golden file: reverse trajectories of diffusers' scheduler classes, each with many choices of its keys.

tests/golden/class_trajectories.safetensors:
  x_T [n, c, h, w], noise [rows, n, c, h, w]     the same for all cases
  <case>.timesteps [evaluations]                 what the network is told
  <case>.trajectory [steps, n, c, h, w]          x after each step, divided by sqrt(1 + sigma^2) where diffusers' own is x / alpha,
                                                 so that image and noise always have variance 1 together; where a scheduler scales
                                                 x_T by another number than that, the first row is x_T so scaled
Metadata: cases (JSON): {case: {config, steps, f32_max_abs_diff}}, the config as in a file that has no other keys. The schedulers
run with betas and network in f64, as in samplers.py, whose network is used too; the last number is how far diffusers' own f32 is
from that.
"""

import argparse
import contextlib
import math
from unittest import mock

import diffusers
import numpy as np
import torch

from common import max_abs_diff, randn, save_golden
from schedulers import model_output

SHAPE = (1, 2, 3, 2)
ROWS = 20
EPS, V, X0 = {"prediction_type": "epsilon"}, {"prediction_type": "v_prediction"}, {"prediction_type": "sample"}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
LEADING = {"timestep_spacing": "leading", "steps_offset": 1}
TRAILING = {"timestep_spacing": "trailing"}
LINSPACE = {"timestep_spacing": "linspace"}
KARRAS, EXPONENTIAL, BETA, LU = (
    {f"use_{name}": True} for name in ("karras_sigmas", "exponential_sigmas", "beta_sigmas", "lu_lambdas")
)
THRESHOLD = {"thresholding": True, "dynamic_thresholding_ratio": 0.8, "sample_max_value": 1.5}
SIGMA_MIN = {"final_sigmas_type": "sigma_min"}
ZERO_SNR = {"rescale_betas_zero_snr": True} | TRAILING
NOT_LOWER = {"lower_order_final": False}
DPM = {"algorithm_type": "dpmsolver"} | SIGMA_MIN
SDE = {"algorithm_type": "sde-dpmsolver++"}
HEUN = {"solver_type": "heun"}
# With zero at the end its B(h) is infinite there, and diffusers gives NaN.
BH1 = {"solver_type": "bh1"} | SIGMA_MIN


def order(number):
    return {"solver_order": number}


SPACED = [{}, LEADING, TRAILING, COSINE, LATENT]
CASES = {
    "DDIMScheduler": ([EPS, V, X0], [*SPACED, {"clip_sample": False}, {"set_alpha_to_one": False}, ZERO_SNR]),
    "DDIMInverseScheduler": ([EPS, V], [{}, LEADING, TRAILING, COSINE, {"clip_sample": False}, {"set_alpha_to_one": False}]),
    "PNDMScheduler": ([EPS, V], [
        {}, LEADING, LATENT, {"set_alpha_to_one": True}, {"skip_prk_steps": True}, {"skip_prk_steps": True} | LEADING,
        {"skip_prk_steps": True, "set_alpha_to_one": True} | COSINE,
    ]),
    "DPMSolverMultistepScheduler": ([EPS, V, X0], [
        *SPACED, order(1), order(3), order(3) | NOT_LOWER, HEUN, HEUN | order(3), KARRAS, KARRAS | COSINE, EXPONENTIAL, BETA, LU,
        LU | COSINE, SIGMA_MIN, SIGMA_MIN | NOT_LOWER, SIGMA_MIN | KARRAS, SIGMA_MIN | NOT_LOWER | {"euler_at_final": True},
        COSINE | {"lambda_min_clipped": -5.1}, COSINE | {"lambda_min_clipped": -4.0} | LEADING,
        COSINE | {"lambda_min_clipped": -4.0} | TRAILING, THRESHOLD, ZERO_SNR, DPM, DPM | order(1), DPM | order(3), DPM | HEUN,
        DPM | THRESHOLD, DPM | KARRAS, SDE, SDE | HEUN, SDE | order(1), SDE | KARRAS, SDE | SIGMA_MIN,
    ]),
    "DPMSolverSinglestepScheduler": ([EPS, V, X0], [
        {}, order(1), order(3), HEUN, HEUN | order(3), COSINE, LATENT, KARRAS, EXPONENTIAL, BETA, SIGMA_MIN, SIGMA_MIN | order(3),
        SIGMA_MIN | {"lower_order_final": True}, COSINE | {"lambda_min_clipped": -4.0}, THRESHOLD, DPM, DPM | HEUN, DPM | order(3),
        DPM | HEUN | order(3),
    ]),
    "DEISMultistepScheduler": ([EPS, V, X0], [
        *SPACED, order(1), order(3), order(3) | NOT_LOWER, NOT_LOWER, KARRAS, EXPONENTIAL, BETA, THRESHOLD,
    ]),
    "UniPCMultistepScheduler": ([EPS, V, X0], [
        *SPACED, order(1), order(3), BH1, BH1 | order(3), KARRAS, EXPONENTIAL, BETA,
        SIGMA_MIN, SIGMA_MIN | NOT_LOWER, SIGMA_MIN | NOT_LOWER | order(3), {"disable_corrector": [0]},
        {"disable_corrector": [0, 2]} | order(3), THRESHOLD, ZERO_SNR,
    ]),
    "EulerDiscreteScheduler": ([EPS, V, X0], [
        *SPACED, KARRAS, KARRAS | LEADING, EXPONENTIAL, BETA, SIGMA_MIN, KARRAS | {"sigma_min": 0.05, "sigma_max": 50.0}, ZERO_SNR,
        {"timestep_type": "continuous"},
    ]),
    "EulerAncestralDiscreteScheduler": ([EPS, V], [*SPACED, ZERO_SNR]),
    "HeunDiscreteScheduler": ([EPS, V, X0], [
        *SPACED, KARRAS, EXPONENTIAL, BETA, KARRAS | COSINE, {"clip_sample": True},
        {"clip_sample": True, "clip_sample_range": 0.7} | TRAILING,
    ]),
}
ON_LEVELS = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler")


def betas_f64(scheduler):
    """The class's betas, before it rescales them."""
    config = scheduler.config
    T, start, end = config.num_train_timesteps, config.beta_start, config.beta_end
    if config.beta_schedule == "linear":
        return np.linspace(start, end, T)
    if config.beta_schedule == "scaled_linear":
        return np.linspace(math.sqrt(start), math.sqrt(end), T) ** 2
    f = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.minimum(1 - f[1:] / f[:-1], 0.999)


def make(name, config, dtype):
    """The scheduler; in f64 its tables are made of f64 betas."""
    cls = getattr(diffusers, name)
    scheduler = cls(**config)
    if dtype == torch.float64:
        betas = torch.from_numpy(betas_f64(scheduler))
        with mock.patch("torch.tensor", lambda data, **_: betas if data == "betas" else torch.as_tensor(data)):
            scheduler = cls(**config, trained_betas="betas")
        scheduler.register_to_config(trained_betas=None)
    return scheduler


@contextlib.contextmanager
def in_f64():
    """The schedulers cast levels, and some of them x, to 32 bits: here to 64."""
    with mock.patch.object(torch, "float32", torch.float64), mock.patch.object(np, "float32", np.float64):
        yield


def run(scheduler, network, steps, x, noise):
    """Timesteps, and x after each step; `noise` is handed out row by row instead of what the scheduler would draw."""
    name, dtype = type(scheduler).__name__, x.dtype
    rows = iter(noise.to(dtype))
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "set_begin_index"):
        # Without it, the first step is taken for the second where both have the same timestep.
        scheduler.set_begin_index(0)
    sigmas = scheduler.sigmas.to(dtype) if name in ON_LEVELS else torch.zeros(3 * steps, dtype=dtype)
    scale = (1 + sigmas**2) ** 0.5
    timesteps, trajectory = [], []
    x = x * torch.as_tensor(scheduler.init_noise_sigma).to(dtype)
    if name in ON_LEVELS and scheduler.config.timestep_spacing != "leading":
        trajectory.append(x / scale[0])
    arguments = {"use_clipped_model_output": True} if name == "DDIMScheduler" else {}
    for i, t in enumerate(scheduler.timesteps):
        t = t if name in ON_LEVELS else t.item()
        output = network(scheduler.scale_model_input(x, t).to(dtype), float(t))
        if scheduler.config.get("algorithm_type") == "sde-dpmsolver++":
            arguments["variance_noise"] = next(rows)
        module = f"{type(scheduler).__module__}.randn_tensor"
        ancestral = name == "EulerAncestralDiscreteScheduler"
        with mock.patch(module, lambda *a, **k: next(rows)) if ancestral else mock.MagicMock():
            x = scheduler.step(output, t, x, **arguments).prev_sample.to(dtype)
        timesteps.append(float(t))
        trajectory.append(x / scale[i + 1])
    return torch.tensor(timesteps, dtype=torch.float64), torch.stack(trajectory)


def all_cases():
    """(case, class, config, steps)"""
    for name, (predictions, choices) in CASES.items():
        for number, choice in enumerate(choices):
            for prediction in predictions:
                if choice.get("rescale_betas_zero_snr") and prediction == EPS:
                    continue
                if choice.get("timestep_type") == "continuous" and prediction == V:
                    continue
                # 16 steps are as many as `lower_order_final` asks for to do nothing; of 5 and 7 neither divides 1000 - 1.
                steps = (5, 7, 16)[(number + predictions.index(prediction)) % 3]
                case = f"{name}_{number}_{prediction['prediction_type']}_{steps}"
                yield case, name, choice | prediction, steps


def main():
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    tensors = {"x_T": randn(6000, *SHAPE), "noise": randn(6001, ROWS, *SHAPE)}
    cases, worst = {}, {}
    for case, name, config, steps in all_cases():
        x, noise = tensors["x_T"], tensors["noise"]
        _, trajectory = run(make(name, config, torch.float32), model_output, steps, x, noise)
        with in_f64():
            timesteps, exact = run(make(name, config, torch.float64), model_output, steps, x.double(), noise)
        assert exact.isfinite().all(), (case, config)
        diff = max_abs_diff(trajectory, exact)
        worst[name] = max(worst.get(name, 0), diff)
        tensors |= {f"{case}.timesteps": timesteps.float(), f"{case}.trajectory": exact.float()}
        cases[case] = {"config": {"_class_name": name} | config, "steps": steps, "f32_max_abs_diff": diff}
    for name, diff in worst.items():
        print(f"  {name}: {sum(name in case['config']['_class_name'] for case in cases.values())} cases, to f64 {diff:.1e}")
    save_golden("class_trajectories", tensors, {"cases": cases})


if __name__ == "__main__":
    main()
