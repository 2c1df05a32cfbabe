#!/usr/bin/env python3
"""Golden folders: one small UNet2DModel in every layout of files that diffusers, accelerate and PyTorch write.

Writes tests/golden/layouts/<name>/, and tests/golden/layouts.safetensors with
  input.sample, input.timesteps, output.sample, and output.other of the folder's other weights, where it has some.
All weights are multiples of 1/64 below 2 that 16-bit floats of both kinds hold, so that every layout gives the same.
"""

import argparse
import copy
import json
import shutil
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline, UNet2DModel
from diffusers.training_utils import EMAModel

from common import GOLDEN, make_unet, randn, save_golden

FOLDER = GOLDEN / "layouts"

CONFIG = {
    "sample_size": [8, 4],
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [2, 4],
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "attention_head_dim": 2,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}

CUSTOM = '''
from diffusers import DDPMPipeline


class TwoStepPipeline(DDPMPipeline):
    """A pipeline of one's own, as from_pretrained(custom_pipeline=...) takes it."""
'''


def make_model(seed):
    model = make_unet(CONFIG, seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((parameter * 64).round().clamp(-127, 127) / 64)
            assert torch.equal(parameter, parameter.half().float()) and torch.equal(parameter, parameter.bfloat16().float())
    return model


def pipeline(model):
    # Not the default of DDPMScheduler, so that a scheduler that is not found shows.
    return DDPMPipeline(model, DDPMScheduler(num_train_timesteps=50, beta_schedule="squaredcos_cap_v2"))


def with_config(folder, state, name):
    """A state dict written by torch.save, beside the network's config."""
    folder.mkdir()
    torch.save(state, folder / name)
    make_model(1).save_config(folder)


def plain(folder, model, other):
    pipeline(model).save_pretrained(folder)


def variant_alone(folder, model, other):
    pipeline(copy.deepcopy(model).half()).save_pretrained(folder, variant="fp16")


def variants_beside_the_plain(folder, model, other):
    """The variant has other weights, so that it shows which are read."""
    pipeline(other).save_pretrained(folder, variant="ema")
    pipeline(model).save_pretrained(folder)


def shards(folder, model, other):
    pipeline(model).save_pretrained(folder, max_shard_size="10KB")


def shards_of_a_variant(folder, model, other):
    pipeline(copy.deepcopy(model).to(torch.bfloat16)).save_pretrained(folder, max_shard_size="5KB", variant="bf16")


def bin_file(folder, model, other):
    pipeline(model).save_pretrained(folder, safe_serialization=False)


def bin_variant(folder, model, other):
    pipeline(copy.deepcopy(model).half()).save_pretrained(folder, safe_serialization=False, variant="fp16")


def bin_shards(folder, model, other):
    pipeline(model).save_pretrained(folder, safe_serialization=False, max_shard_size="10KB")


def network_alone(folder, model, other):
    model.save_pretrained(folder)


def accelerate_with_hooks(folder, model, other):
    """What diffusers' examples/unconditional_image_generation/train_unconditional.py writes: its pipeline, and checkpoint-2."""
    accelerator = Accelerator(cpu=True)
    ema = EMAModel(other.parameters(), model_cls=UNet2DModel, model_config=model.config)

    def save_model_hook(models, weights, output_dir):
        ema.save_pretrained(Path(output_dir) / "unet_ema")
        for model in models:
            model.save_pretrained(Path(output_dir) / "unet")
            weights.pop()

    accelerator.register_save_state_pre_hook(save_model_hook)
    save_state(accelerator, model, folder / "checkpoint-2")
    whole = folder / "whole"
    pipeline(model).save_pretrained(whole)
    shutil.move(whole / "model_index.json", folder)
    shutil.move(whole / "scheduler", folder)
    shutil.rmtree(whole)


def save_state(accelerator, model, folder, **settings):
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    accelerator.prepare(model, optimizer, schedule)
    accelerator.save_state(folder, **settings)


def averaged_alone(folder, model, other):
    model.save_pretrained(folder / "unet_ema")


def accelerate_without_hooks(folder, model, other):
    save_state(Accelerator(cpu=True), model, folder)
    model.save_config(folder)


def accelerate_without_hooks_bin(folder, model, other):
    save_state(Accelerator(cpu=True), model, folder, safe_serialization=False)
    model.save_config(folder)


def data_parallel(folder, model, other):
    with_config(folder, torch.nn.DataParallel(model).state_dict(), "diffusion_pytorch_model.bin")


def compiled(folder, model, other):
    with_config(folder, torch.compile(model).state_dict(), "diffusion_pytorch_model.pt")


def before_torch_1_6(folder, model, other):
    folder.mkdir()
    name = folder / "diffusion_pytorch_model.bin"
    torch.save(model.state_dict(), name, _use_new_zipfile_serialization=False)
    model.save_config(folder)


def nested(folder, model, other):
    """A trainer's file: weights, an average, the optimiser's state and more."""
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9)
    state = {
        "step": torch.tensor(7),
        "model": model.state_dict(),
        "ema": other.state_dict(),
        "optimizer": optimizer.state_dict(),
        "args": {"lr": 1e-4, "name": "nested"},
    }
    with_config(folder, state, "model.pt")


def doubles_as_parameters(folder, model, other):
    """64-bit floats, and parameters rather than tensors."""
    with_config(folder, dict(copy.deepcopy(model).double().named_parameters()), "pytorch_model.pth")


def views_of_one_storage(folder, model, other):
    """All tensors in one storage, one after the other; those of two axes as transposed views, with strides."""
    state = model.state_dict()
    buffer = torch.zeros(sum(tensor.numel() for tensor in state.values()) + 3)
    at = 3
    for name, tensor in state.items():
        place = buffer[at : at + tensor.numel()]
        view = place.view(tensor.shape[::-1]).permute(*reversed(range(tensor.ndim)))
        state[name] = view.copy_(tensor)
        assert tensor.ndim < 2 or 1 in tensor.shape or not view.is_contiguous()
        at += tensor.numel()
    with_config(folder, state, "diffusion_pytorch_model.bin")


def custom_pipeline(folder, model, other):
    source = folder.with_name("custom_source")
    source.mkdir()
    (source / "pipeline.py").write_text(CUSTOM)
    pipeline(model).save_pretrained(folder)
    custom = DiffusionPipeline.from_pretrained(folder, custom_pipeline=str(source), trust_remote_code=True)
    shutil.rmtree(folder)
    custom.save_pretrained(folder)
    shutil.rmtree(source)
    for file in folder.rglob("*.json"):
        config = json.loads(file.read_text())
        config.pop("_name_or_path", None)
        # As pipelines on the hub have it that bring their pipeline.py.
        if file.name == "model_index.json" and isinstance(config["_class_name"], str):
            config["_class_name"] = ["pipeline", config["_class_name"]]
        file.write_text(json.dumps(config, indent=2) + "\n")


LAYOUTS = [
    plain, variant_alone, variants_beside_the_plain, shards, shards_of_a_variant, bin_file, bin_variant, bin_shards,
    network_alone, accelerate_with_hooks, averaged_alone, accelerate_without_hooks, accelerate_without_hooks_bin,
    data_parallel, compiled, before_torch_1_6, nested, doubles_as_parameters, views_of_one_storage, custom_pipeline,
]  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    model, other = make_model(1), make_model(2)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    for layout in LAYOUTS:
        folder = FOLDER / layout.__name__
        layout(folder, model, other)
        files = [path for path in folder.rglob("*") if path.is_file()]
        print(f"{layout.__name__}: {len(files)} files, {sum(path.stat().st_size for path in files) / 1024:.0f} KiB")
    sample, timesteps = randn(3, 2, 1, 8, 4), torch.tensor([3, 41])
    with torch.no_grad():
        outputs = [network(sample, timesteps).sample for network in (model, other)]
    tensors = {"input.sample": sample, "input.timesteps": timesteps}
    tensors |= {"output.sample": outputs[0], "output.other": outputs[1]}
    save_golden("layouts", tensors, {"config": CONFIG})


if __name__ == "__main__":
    main()
