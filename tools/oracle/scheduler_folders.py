#!/usr/bin/env python3
"""Golden files: images that diffusers draws with a small U-Net and each scheduler class, from pipelines that it saved.

tests/golden/scheduler_folders/unet/     the network, as save_pretrained writes it
tests/golden/scheduler_folders.safetensors:
  x_T [n, c, h, w]          the noise of all cases, of variance 1
  <case>.images [n, c, h, w]
Metadata: cases (JSON): {case: {model_index, scheduler_config, steps, f32_max_abs_diff}}, the first two being the texts of the files
that save_pretrained wrote. Images are computed in f64; the last number says how far diffusers' own in f32 are from them.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import diffusers
import torch
from class_trajectories import DPM, EPS, KARRAS, LEADING, SDE, SIGMA_MIN, THRESHOLD, V, in_f64, make, run
from common import GOLDEN, make_unet, max_abs_diff, randn, save_golden

UNET = {
    "sample_size": [6, 8], "in_channels": 3, "out_channels": 3, "block_out_channels": [8, 12], "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "norm_num_groups": 4, "attention_head_dim": 6,
}
CASES = {
    "ddpm": ("DDPMScheduler", {}, 6),
    "ddim": ("DDIMScheduler", {"set_alpha_to_one": False}, 7),
    "pndm": ("PNDMScheduler", LEADING, 9),
    "plms": ("PNDMScheduler", {"skip_prk_steps": True} | V, 7),
    "dpm_multistep": ("DPMSolverMultistepScheduler", {}, 7),
    "dpm_multistep_third": ("DPMSolverMultistepScheduler", {"solver_order": 3} | KARRAS | V, 9),
    "dpm_noise": ("DPMSolverMultistepScheduler", DPM | {"solver_type": "heun"}, 5),
    "dpm_singlestep": ("DPMSolverSinglestepScheduler", {"solver_order": 3} | THRESHOLD, 7),
    "deis": ("DEISMultistepScheduler", {"solver_order": 3}, 11),
    "unipc": ("UniPCMultistepScheduler", {"solver_order": 3, "disable_corrector": [0]} | KARRAS, 7),
    "euler": ("EulerDiscreteScheduler", {}, 9),
    "euler_karras": ("EulerDiscreteScheduler", KARRAS | SIGMA_MIN | V, 7),
    "heun": ("HeunDiscreteScheduler", {"clip_sample": True}, 5),
}
# Their noise is their own: files of these are read, and written again, but nothing that they draw is compared here.
WITH_NOISE = {
    "dpm_multistep_sde": ("DPMSolverMultistepScheduler", SDE, 5),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", EPS, 5),
    "ddim_inverse": ("DDIMInverseScheduler", {}, 5),
}


def main():
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    unet = make_unet(UNET, seed=7000)
    x = randn(7001, 2, 3, 6, 8)
    tensors, cases = {"x_T": x}, {}
    for case, (name, config, steps) in (CASES | WITH_NOISE).items():
        scheduler = make(name, config, torch.float32)
        with tempfile.TemporaryDirectory() as folder:
            diffusers.DDPMPipeline(unet, scheduler).save_pretrained(folder)
            texts = {
                "model_index": (Path(folder) / "model_index.json").read_text(),
                "scheduler_config": (Path(folder) / "scheduler" / "scheduler_config.json").read_text(),
            }
            if not cases:
                to = GOLDEN / "scheduler_folders" / "unet"
                shutil.rmtree(to, ignore_errors=True)
                shutil.copytree(Path(folder) / "unet", to)
        cases[case] = texts | {"steps": steps}
        if case in WITH_NOISE:
            continue
        # ddpm-gpu draws by ddim with files of the class that training writes.
        drawn = "DDIMScheduler" if name == "DDPMScheduler" else name
        network = lambda x, t: unet(x.to(unet.dtype), torch.tensor([t], dtype=unet.dtype)).sample
        with torch.no_grad():
            _, found = run(make(drawn, config, torch.float32), network, steps, x, x[None])
            with in_f64():
                unet.double()
                _, exact = run(make(drawn, config, torch.float64), network, steps, x.double(), x[None])
                unet.float()
        images = exact[-1]
        diff = max_abs_diff(found[-1], images)
        tensors[f"{case}.images"] = images.float()
        cases[case]["f32_max_abs_diff"] = diff
        print(f"  {case}: {steps} steps, |x| <= {images.abs().max():.2f}, to f64 {diff:.1e}")
    save_golden("scheduler_folders", tensors, {"cases": cases})


if __name__ == "__main__":
    main()
