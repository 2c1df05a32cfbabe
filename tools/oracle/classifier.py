#!/usr/bin/env python3
"""Golden file: a noise-conditional classifier, the encoder of a UNet2DModel with average pooling, by PyTorch's autograd.

Writes tests/golden/classifier.safetensors with
  input.sample, input.timesteps, input.class_labels
  weights.<tensor name>                 diffusers' names; the head is conv_norm_out.*, classifier.*
  output.logits [N, K], loss [1]        the loss is the mean cross-entropy
  grad.<tensor name>                    gradients of the loss
  grad_log_p [N, C, H, W]               gradient of log p(class_labels[n] | sample[n]) with respect to the sample
Metadata: config (JSON, of the UNet2DModel); num_classes.
"""

import argparse

import torch
from torch.nn.functional import cross_entropy, silu

from common import make_unet, randn, save_golden, unet_config

SEED = 5000
CLASSES = 5
CONFIG = {
    "sample_size": 8,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [8, 12],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 2,
    "norm_num_groups": 4,
    "attention_head_dim": None,
    "dropout": 0.0,
}


class Classifier(torch.nn.Module):
    """Dhariwal and Nichol's EncoderUNetModel with pool "adaptive", out of the modules of a UNet2DModel."""

    def __init__(self, unet):
        super().__init__()
        for name in ("conv_in", "time_proj", "time_embedding", "down_blocks", "mid_block"):
            setattr(self, name, getattr(unet, name))
        channels = CONFIG["block_out_channels"][-1]
        self.conv_norm_out = torch.nn.GroupNorm(CONFIG["norm_num_groups"], channels, eps=1e-5)
        self.classifier = torch.nn.Linear(channels, CLASSES)

    def forward(self, sample, timesteps):
        embedding = self.time_embedding(self.time_proj(timesteps))
        h = self.conv_in(sample)
        for block in self.down_blocks:
            h, _ = block(h, embedding)
        h = self.mid_block(h, embedding)
        return self.classifier(silu(self.conv_norm_out(h)).mean(dim=(2, 3)))


def main():
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    unet = make_unet(CONFIG, SEED)
    model = Classifier(unet).eval()
    with torch.no_grad():
        for index, name in enumerate(("conv_norm_out.weight", "conv_norm_out.bias", "classifier.weight", "classifier.bias")):
            parameter = model.get_parameter(name)
            noise = randn(SEED + 10 + index, *parameter.shape)
            parameter.copy_(1 + 0.1 * noise if name == "conv_norm_out.weight" else 0.5 * noise)
    sample = randn(SEED + 1, 3, 3, 8, 8).requires_grad_()
    timesteps = torch.tensor([3.0, 420.0, 999.0])
    labels = torch.tensor([4, 0, 2])
    logits = model(sample, timesteps)
    loss = cross_entropy(logits, labels)
    loss.backward()
    tensors = {
        "input.sample": sample, "input.timesteps": timesteps, "input.class_labels": labels,
        "output.logits": logits, "loss": loss.reshape(1),
    }
    for name, parameter in model.named_parameters():
        tensors[f"weights.{name}"] = parameter
        tensors[f"grad.{name}"] = parameter.grad
    again = sample.detach().requires_grad_()
    log_p = torch.log_softmax(model(again, timesteps), dim=1)[torch.arange(3), labels]
    tensors["grad_log_p"] = torch.autograd.grad(log_p.sum(), again)[0]
    save_golden("classifier", tensors, {"config": unet_config(unet), "num_classes": str(CLASSES)})


if __name__ == "__main__":
    main()
