#!/usr/bin/env python3
"""Golden files: forward passes of small UNet2DModels, and for some of them every parameter's gradient.

Writes tests/golden/unet_<name>.safetensors with
  input.sample, input.timesteps, input.class_labels (where the model has classes), output.sample,
  weights.<tensor name>
and, in those with gradients, of loss = mean((output - target)^2):
  target.sample, loss, grad.<tensor name>
Metadata: config (JSON); f64_max_abs_diff (JSON): how far PyTorch's own f32 results are from the same in f64.
"""

import argparse
import copy

import torch
from torch.nn.functional import mse_loss

from common import make_unet, max_abs_diff, randn, save_golden, unet_config

DOWN, DOWN_ATTN = "DownBlock2D", "AttnDownBlock2D"
UP, UP_ATTN = "UpBlock2D", "AttnUpBlock2D"


def config(channels, attention, **rest):
    """`attention` holds the levels that have it; level 0 is the one with the full resolution."""
    levels = range(len(channels))
    return {
        "block_out_channels": list(channels),
        "down_block_types": [DOWN_ATTN if i in attention else DOWN for i in levels],
        "up_block_types": [UP_ATTN if i in attention else UP for i in reversed(levels)],
        **rest,
    }


# name -> (config, (batch, height, width), timesteps, class labels, with gradients)
CASES = {
    # the smallest: two levels, attention in the mid block only, diffusers' defaults elsewhere
    "plain": (
        config([8, 16], {}, sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=4,
               attention_head_dim=None, downsample_padding=1, flip_sin_to_cos=True, freq_shift=0),
        (2, 8, 8), [3, 977], None, False,
    ),
    # the shape of google/ddpm-cifar10-32, thinner
    "ddpm_cifar": (
        config([8, 8, 8, 12], {1}, sample_size=16, in_channels=3, out_channels=3, layers_per_block=2,
               norm_num_groups=4, norm_eps=1e-6, attention_head_dim=None, downsample_padding=0,
               flip_sin_to_cos=False, freq_shift=1),
        (2, 16, 16), [0, 500], None, True,
    ),
    # classes, scale and shift, attention everywhere with several heads, a batch of three
    "class_scale_shift": (
        config([8, 16], {0, 1}, sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=4,
               attention_head_dim=4, downsample_padding=1, flip_sin_to_cos=True, freq_shift=0,
               num_class_embeds=10, resnet_time_scale_shift="scale_shift"),
        (3, 8, 8), [1, 250, 999], [0, 9, 4], True,
    ),
    # no attention at all, three levels, height twice the width, a large epsilon, another number of outputs
    "no_attention": (
        config([8, 16, 24], {}, sample_size=[16, 8], in_channels=3, out_channels=6, layers_per_block=1,
               norm_num_groups=8, norm_eps=1e-3, add_attention=False, attention_head_dim=8, downsample_padding=0,
               flip_sin_to_cos=True, freq_shift=1),
        (2, 16, 8), [10, 700], None, False,
    ),
    # channel counts that are no multiples of 8 or 16, attention at full resolution, width twice the height
    "ragged": (
        config([12, 28], {0}, sample_size=[8, 16], in_channels=1, out_channels=1, layers_per_block=1,
               norm_num_groups=4, norm_eps=1e-6, attention_head_dim=None, downsample_padding=0,
               flip_sin_to_cos=False, freq_shift=0),
        (3, 8, 16), [42, 0, 998], None, False,
    ),
    # attention tensors under their old names; 12x20 halves to 6x10 and 3x5
    "old_attention_names": (
        config([8, 8, 16], {0, 1, 2}, sample_size=[12, 20], in_channels=3, out_channels=3, layers_per_block=1,
               norm_num_groups=2, attention_head_dim=8, downsample_padding=1, flip_sin_to_cos=False, freq_shift=1),
        (2, 12, 20), [123, 456], None, False,
    ),
    # four levels down to 2x2, two layers a block, attention on the two lowest, classes without scale and shift
    "deep_classes": (
        config([8, 8, 12, 16], {2, 3}, sample_size=16, in_channels=3, out_channels=3, layers_per_block=2,
               norm_num_groups=4, norm_eps=1e-5, attention_head_dim=4, downsample_padding=1,
               flip_sin_to_cos=True, freq_shift=1, num_class_embeds=7),
        (3, 16, 16), [5, 5, 800], [6, 0, 3], False,
    ),
    # one channel more than a tile of 32 holds; one group, so that the norm is over everything
    "wide": (
        config([8, 33], {}, sample_size=8, in_channels=3, out_channels=3, layers_per_block=1, norm_num_groups=1,
               add_attention=False, downsample_padding=1, flip_sin_to_cos=True, freq_shift=0),
        (2, 8, 8), [77, 654], None, False,
    ),
    # a time embedding narrower than usual, with classes; its gradients too
    "time_embedding_dim": (
        config([8, 12], {}, sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=4,
               add_attention=False, time_embedding_dim=20, num_class_embeds=3, downsample_padding=1,
               flip_sin_to_cos=True, freq_shift=0),
        (2, 8, 8), [12, 888], [2, 0], True,
    ),
}

OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def old_name(name):
    for new, old in OLD_NAMES.items():
        name = name.replace(f".{new}.", f".{old}.")
    return name


def forward_backward(model, sample, timesteps, labels, target):
    output = model(sample, timesteps, class_labels=labels).sample
    loss = mse_loss(output, target)
    model.zero_grad()
    loss.backward()
    return output.detach(), loss.detach(), {name: p.grad for name, p in model.named_parameters()}


def generate(name, seed):
    settings, (batch, height, width), timesteps, labels, with_gradients = CASES[name]
    model = make_unet(settings, seed)
    sample = randn(seed + 1, batch, settings["in_channels"], height, width)
    target = randn(seed + 2, batch, settings["out_channels"], height, width)
    timesteps = torch.tensor(timesteps)
    labels = None if labels is None else torch.tensor(labels)

    output, loss, gradients = forward_backward(model, sample, timesteps, labels, target)
    exact = forward_backward(copy.deepcopy(model).double(), sample.double(), timesteps, labels, target.double())
    diff = {"output.sample": max_abs_diff(output, exact[0])}

    rename = old_name if name == "old_attention_names" else lambda n: n
    tensors = {"input.sample": sample, "input.timesteps": timesteps, "output.sample": output}
    if labels is not None:
        tensors["input.class_labels"] = labels
    tensors |= {f"weights.{rename(n)}": p for n, p in model.named_parameters()}
    if with_gradients:
        tensors |= {"target.sample": target, "loss": loss}
        tensors |= {f"grad.{n}": g for n, g in gradients.items()}
        diff["grad"] = max(max_abs_diff(g, exact[2][n]) for n, g in gradients.items())

    for n, p in model.named_parameters():
        assert p.numel() == 1 or p.std() > 0, f"{name}: {n} is constant"
    save_golden(f"unet_{name}", tensors, {"config": unet_config(model), "f64_max_abs_diff": diff})
    print(f"  {sum(p.numel() for p in model.parameters()):,} parameters, output std {output.std():.3f}, to f64: {diff}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"only these of: {', '.join(CASES)}")
    names = parser.parse_args().names
    for index, name in enumerate(CASES):
        if not names or name in names:
            generate(name, seed=1000 + 10 * index)


if __name__ == "__main__":
    main()
