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

# block types of a level without and with attention
PLAIN = {"down": ("DownBlock2D", "AttnDownBlock2D"), "up": ("UpBlock2D", "AttnUpBlock2D")}
RESNET = {"down": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"), "up": ("ResnetUpsampleBlock2D", "AttnUpBlock2D")}
SKIP = {"down": ("SkipDownBlock2D", "AttnSkipDownBlock2D"), "up": ("SkipUpBlock2D", "AttnSkipUpBlock2D")}
K = {"down": ("KDownBlock2D",), "up": ("KUpBlock2D",)}
# how the oldest files on the hub name the plain ones
FORMER = {way: tuple("UNetRes" + name for name in names) for way, names in PLAIN.items()}


def config(channels, attention, blocks=PLAIN, **rest):
    """`attention` holds the levels that have it; level 0 is the one with the full resolution."""
    levels = range(len(channels))
    return {
        "block_out_channels": list(channels),
        "down_block_types": [blocks["down"][i in attention] for i in levels],
        "up_block_types": [blocks["up"][i in attention] for i in reversed(levels)],
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
    # residual blocks that resample, as openai/diffusers-cd_* and ct_* have them
    "resnet_resample": (
        config([8, 12], {}, RESNET, sample_size=[8, 12], in_channels=3, out_channels=3, layers_per_block=1,
               norm_num_groups=4, attention_head_dim=4, num_class_embeds=5, resnet_time_scale_shift="scale_shift"),
        (2, 8, 12), [3, 812], [4, 1], True,
    ),
    # the same at the end of attention blocks, between levels with and without it
    "attention_resnet_resample": (
        config([8, 8, 16], {1}, RESNET, sample_size=[16, 8], in_channels=1, out_channels=2, layers_per_block=1,
               norm_num_groups=4, attention_head_dim=4, downsample_type="resnet", upsample_type="resnet"),
        (2, 16, 8), [77, 500], None, True,
    ),
    # google/ncsnpp-*, smaller: the image beside the features, noise levels, sums over sqrt 2, groups of the class's own
    "skip_fourier": (
        config([8, 8, 16], {}, SKIP, sample_size=[16, 8], in_channels=3, out_channels=3, layers_per_block=1,
               norm_num_groups=None, norm_eps=1e-6, attention_head_dim=None, time_embedding_type="fourier",
               mid_block_scale_factor=2**0.5),
        (3, 16, 8), [0.4, 1.7, 12.5], None, True,
    ),
    # the same blocks with attention, and with the usual time embedding; their norms have 32 groups at least
    "skip_attention": (
        config([32, 32], {1}, SKIP, sample_size=8, in_channels=3, out_channels=3, layers_per_block=1,
               norm_num_groups=None, attention_head_dim=8, mid_block_scale_factor=2**0.5),
        (2, 8, 8), [20, 640], None, False,
    ),
    # a Skip block where nothing is resampled, behind plain ones on the way down and on the way up
    "skip_last": (
        {**config([8, 12], {}, sample_size=[8, 12], in_channels=1, out_channels=1, layers_per_block=1,
                  norm_num_groups=4, attention_head_dim=4),
         "down_block_types": ["DownBlock2D", "SkipDownBlock2D"], "up_block_types": ["UpBlock2D", "SkipUpBlock2D"]},
        (2, 8, 12), [1, 333], None, False,
    ),
    # no mid block, GELU, and a class that is embedded as timesteps are
    "no_mid_gelu": (
        config([8, 12], {1}, sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=4,
               attention_head_dim=4, mid_block_type=None, act_fn="gelu", class_embed_type="timestep"),
        (3, 8, 8), [9, 400, 990], [0, 7, 3], True,
    ),
    # a class that is a vector already, images from 0 to 1, ReLU
    "identity_relu": (
        config([8, 12], {}, sample_size=[8, 16], in_channels=2, out_channels=2, layers_per_block=1, norm_num_groups=4,
               add_attention=False, act_fn="relu", class_embed_type="identity", center_input_sample=True),
        (2, 8, 16), [60, 700], "vectors", True,
    ),
    # a table of timesteps, Mish
    "learned_mish": (
        config([8, 12], {}, sample_size=8, in_channels=1, out_channels=1, layers_per_block=2, norm_num_groups=4,
               attention_head_dim=None, time_embedding_type="learned", num_train_timesteps=20, act_fn="mish"),
        (3, 8, 8), [0, 19, 7], None, True,
    ),
    # noise levels for the class as well, Mish with scale and shift
    "fourier_timestep": (
        config([8, 12], {}, sample_size=8, in_channels=3, out_channels=3, layers_per_block=1, norm_num_groups=4,
               attention_head_dim=4, time_embedding_type="fourier", class_embed_type="timestep", act_fn="mish",
               resnet_time_scale_shift="scale_shift"),
        (2, 8, 8), [0.25, 3.0], [2, 5], False,
    ),
    # a table of timesteps for the class as well
    "learned_timestep": (
        config([8, 12], {}, RESNET, sample_size=8, in_channels=1, out_channels=1, layers_per_block=1,
               norm_num_groups=4, add_attention=False, time_embedding_type="learned", num_train_timesteps=12,
               class_embed_type="timestep"),
        (2, 8, 8), [11, 3], [4, 0], False,
    ),
    # names of blocks as the oldest files have them; groups of the mid block's attention, and its sums over 2
    "former_block_names": (
        config([8, 12], {0}, FORMER, sample_size=[8, 12], in_channels=3, out_channels=3, layers_per_block=1,
               norm_num_groups=4, attn_norm_num_groups=3, attention_head_dim=4, act_fn="SiLU",
               mid_block_scale_factor=2),
        (2, 8, 12), [5, 900], None, False,
    ),
    # attention whose resampling is null in the file, which is a convolution
    "null_resampling": (
        config([8, 12], {0, 1}, sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=4,
               attention_head_dim=4, downsample_type=None, upsample_type=None, downsample_padding=0),
        (2, 8, 8), [250, 750], None, False,
    ),
    # residual blocks after k-diffusion, whose norms the time embedding scales and shifts; two levels of other widths
    "k_blocks": (
        config([32, 64], {}, K, sample_size=[8, 12], in_channels=1, out_channels=1, layers_per_block=1,
               norm_num_groups=8, mid_block_type=None, act_fn="gelu", num_class_embeds=3),
        (2, 8, 12), [30, 707], [1, 2], False,
    ),
    # one level of them, and its gradients
    "k_block": (
        config([32], {}, K, sample_size=[4, 6], in_channels=1, out_channels=1, layers_per_block=2, norm_num_groups=8,
               mid_block_type=None, time_embedding_dim=24),
        (2, 4, 6), [90, 550], None, True,
    ),
    # x_t and a condition image of two channels, which diffusers is given as one
    "condition_image": (
        config([8, 12], {}, sample_size=[8, 12], in_channels=5, out_channels=3, layers_per_block=1, norm_num_groups=4,
               attention_head_dim=4, _condition_channels=2),
        (2, 8, 12), [50, 810], None, True,
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
    # the frequencies of a Fourier embedding are not trained
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return output.detach(), loss.detach(), gradients


def generate(name, seed):
    settings, (batch, height, width), timesteps, labels, with_gradients = CASES[name]
    # what diffusers does not know, and keeps in the file
    own = {key: value for key, value in settings.items() if key.startswith("_")}
    model = make_unet({key: value for key, value in settings.items() if key not in own}, seed)
    sample = randn(seed + 1, batch, settings["in_channels"], height, width)
    target = randn(seed + 2, batch, settings["out_channels"], height, width)
    timesteps = torch.tensor(timesteps)
    if labels == "vectors":
        labels = randn(seed + 3, batch, 4 * settings["block_out_channels"][0])
    elif labels is not None:
        labels = torch.tensor(labels)

    output, loss, gradients = forward_backward(model, sample, timesteps, labels, target)
    wide = [x.double() if x is not None and x.is_floating_point() else x for x in (sample, timesteps, labels, target)]
    wide_model = copy.deepcopy(model).double()
    if model.config.class_embed_type == "timestep":
        # diffusers leaves the sinusoids of the class in f32
        wide_model.class_embedding.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    exact = forward_backward(wide_model, *wide)
    diff = {"output.sample": max_abs_diff(output, exact[0])}

    rename = old_name if name == "old_attention_names" else lambda n: n
    tensors = {"input.sample": sample, "input.timesteps": timesteps, "output.sample": output}
    if beside := own.get("_condition_channels"):
        tensors["input.sample"], tensors["input.condition_image"] = sample[:, :-beside], sample[:, -beside:]
    if labels is not None:
        tensors["input.class_labels"] = labels
    tensors |= {f"weights.{rename(n)}": p for n, p in model.named_parameters()}
    if with_gradients:
        tensors |= {"target.sample": target, "loss": loss}
        tensors |= {f"grad.{n}": g for n, g in gradients.items()}
        diff["grad"] = max(max_abs_diff(g, exact[2][n]) for n, g in gradients.items())

    for n, p in model.named_parameters():
        assert p.numel() == 1 or p.std() > 0, f"{name}: {n} is constant"
    save_golden(f"unet_{name}", tensors, {"config": unet_config(model) | own, "f64_max_abs_diff": diff})
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
