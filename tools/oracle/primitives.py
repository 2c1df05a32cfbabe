#!/usr/bin/env python3
"""Golden file: single operations of networks, forward and with every gradient, by PyTorch and diffusers.

Writes tests/golden/primitives.safetensors, for each case NAME with
  NAME.in.<i>     operands in the order in which ddpm-gpu's op takes them
  NAME.out        the result
  NAME.d_out      the gradient of the result that the gradients below are for
  NAME.grad.<i>   gradients of the operands (none for a mask)
Images are [N, H, W, C] and convolution weights [O, KH, KW, I] here, as in ddpm-gpu; tokens are [N, T, C].
Metadata: f64_max_abs_diff: how far PyTorch's f32 is from its f64, relative to the largest number of the tensor.
"""

import argparse

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.downsampling import KDownsample2D, downsample_2d
from diffusers.models.upsampling import KUpsample2D, upsample_2d

from common import randn, save_golden

SEED = 9000


def nchw(x):
    return x.permute(0, 3, 1, 2)


def nhwc(x):
    return x.permute(0, 2, 3, 1)


def conv(stride, pad):
    """pad: left, right, top, bottom"""
    def call(x, weight, bias):
        return nhwc(F.conv2d(F.pad(nchw(x), pad), nchw(weight), bias, stride=stride))
    return call


def diffusers_geglu(x, weight, bias):
    module = GEGLU(weight.shape[1], weight.shape[0] // 2).to(x.dtype)
    return torch.func.functional_call(module, {"proj.weight": weight, "proj.bias": bias}, (x,))


def attention(heads, causal=False, boolean=False):
    def call(q, k, v, mask=None):
        split = lambda x: x.unflatten(-1, (heads, -1)).transpose(1, 2)
        allowed = None
        if mask is not None:
            # [N, keys], for all heads and queries
            allowed = (mask == 0 if boolean else mask)[:, None, None, :].expand(-1, heads, q.shape[1], -1)
            if causal:
                sees = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool).tril()
                allowed = allowed & sees if boolean else allowed.masked_fill(~sees, float("-inf"))
        is_causal = causal and mask is None
        y = F.scaled_dot_product_attention(split(q), split(k), split(v), attn_mask=allowed, is_causal=is_causal)
        return y.transpose(1, 2).flatten(2)
    return call


def boolean_mask(samples, keys):
    hidden = torch.rand(samples, keys, generator=torch.Generator().manual_seed(SEED)) < 0.4
    hidden[:, 0] = False
    return torch.where(hidden, -1e4, 0.0)


def cases():
    image = (2, 7, 6, 3)
    yield "gelu_erf", F.gelu, [5 * randn(1, 5, 13)]
    yield "gelu_tanh", lambda x: F.gelu(x, approximate="tanh"), [5 * randn(2, 5, 13)]
    yield "gelu_quick", lambda x: x * torch.sigmoid(1.702 * x), [5 * randn(3, 5, 13)]
    yield "geglu", diffusers_geglu, [randn(4, 2, 5, 6), randn(5, 24, 6), randn(6, 24)]
    yield "multiply", torch.mul, [randn(7, 3, 7), randn(8, 3, 7)]
    yield "gate", lambda x, gate: x * gate[:, None, None, :], [randn(9, *image), randn(10, 2, 3)]
    yield "layer_norm", lambda x: F.layer_norm(x, x.shape[-1:], eps=1e-5), [3 + 2 * randn(11, 2, 5, 12)]
    affine = lambda x, weight, bias: F.layer_norm(x, x.shape[-1:], weight, bias, eps=1e-6)
    yield "layer_norm_affine", affine, [3 + 2 * randn(12, 2, 5, 13), 1 + 0.3 * randn(13, 13), randn(14, 13)]
    yield "reshape", lambda x: x.reshape(2, 42, 3), [randn(15, *image)]
    yield "transpose", lambda x: x.permute(2, 0, 3, 1), [randn(16, 2, 3, 4, 5)]
    pool = lambda x: nhwc(F.max_pool2d(nchw(x), 3, stride=2))
    yield "max_pool", pool, [randn(17, *image)]
    pool = lambda x: nhwc(F.max_pool2d(nchw(x), (3, 2), stride=(1, 3), padding=(1, 1)))
    yield "max_pool_padded", pool, [randn(18, *image)]
    for included in (True, False):
        pool = lambda x: nhwc(F.avg_pool2d(nchw(x), 3, stride=1, padding=1, count_include_pad=included))
        yield f"average_pool_{'padding' if included else 'inside'}", pool, [randn(19, *image)]
    yield "average_pool_strides", lambda x: nhwc(F.avg_pool2d(nchw(x), (2, 3), stride=(3, 2))), [randn(20, *image)]
    yield "linear_without_bias", F.linear, [randn(21, 2, 5, 12), randn(22, 8, 12)]
    for name, (kh, kw), stride, pad in [
        ("conv_1x7", (1, 7), 1, (3, 3, 0, 0)),
        ("conv_7x1", (7, 1), 1, (0, 0, 3, 3)),
        ("conv_5x5", (5, 5), 1, (2, 2, 2, 2)),
        ("conv_3x3_valid", (3, 3), 2, (0, 0, 0, 0)),
        ("conv_2x3_strides", (2, 3), (3, 2), (2, 0, 1, 3)),
    ]:
        operands = [randn(23, 2, 8, 9, 4), 0.2 * randn(24, 4, kh, kw, 4), randn(25, 4)]
        yield name, conv(stride, pad), operands
    tokens = lambda seed, count, channels: randn(seed, 2, count, channels)
    yield "attention_cross", attention(2), [tokens(26, 9, 24), tokens(27, 5, 24), tokens(28, 5, 24)]
    yield "attention_causal", attention(3, causal=True), [tokens(29, 11, 24), tokens(30, 11, 24), tokens(31, 11, 24)]
    yield "attention_causal_cross", attention(1, causal=True), [tokens(32, 4, 6), tokens(33, 9, 6), tokens(34, 9, 6)]
    operands = [tokens(35, 9, 10), tokens(36, 12, 10), tokens(37, 12, 10)]
    yield "attention_boolean_mask", attention(2, boolean=True), operands + [boolean_mask(2, 12)]
    yield "attention_additive_mask", attention(2), operands + [randn(38, 2, 12)]
    operands = [tokens(39, 10, 16), tokens(40, 10, 16), tokens(41, 10, 16)]
    yield "attention_causal_mask", attention(2, causal=True, boolean=True), operands + [boolean_mask(2, 10)]
    yield "attention_head_160", attention(1), [tokens(42, 3, 160), tokens(43, 4, 160), tokens(44, 4, 160)]
    yield "relu", F.relu, [randn(45, 5, 13)]
    yield "mish", F.mish, [5 * randn(46, 5, 13)]
    yield "affine", lambda x: 2 * x - 1, [randn(47, 3, 7)]
    fir = (1, 3, 3, 1)
    yield "fir_downsample", lambda x: nhwc(downsample_2d(nchw(x), fir)), [randn(48, 2, 6, 10, 3)]
    yield "fir_downsample_mirror", lambda x: nhwc(KDownsample2D().to(x.dtype)(nchw(x))), [randn(50, 2, 8, 6, 3)]
    yield "fir_upsample_mirror", lambda x: nhwc(KUpsample2D().to(x.dtype)(nchw(x))), [randn(51, 2, 4, 3, 4)]
    yield "fir_upsample", lambda x: nhwc(upsample_2d(nchw(x), fir)), [randn(49, 2, 3, 5, 4)]


def differentiate(call, operands, d_out, dtype):
    operands = [x.to(dtype) for x in operands]
    # A mask is the fourth operand of attention, and has no gradient.
    wanted = [x.requires_grad_() for x in operands[:3]]
    out = call(*operands)
    if d_out is None:
        d_out = randn(SEED, *out.shape)
    return out, d_out, torch.autograd.grad(out, wanted, d_out.to(dtype))


def main():
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    tensors, worst = {}, 0.0
    for name, call, operands in cases():
        out, d_out, grads = differentiate(call, operands, None, torch.float32)
        exact_out, _, exact_grads = differentiate(call, operands, d_out, torch.float64)
        for found, exact in zip((out, *grads), (exact_out, *exact_grads)):
            difference = (found.double() - exact).abs().max() / exact.abs().max()
            worst = max(worst, difference.item())
        tensors |= {f"{name}.in.{i}": x for i, x in enumerate(operands)}
        tensors |= {f"{name}.out": out, f"{name}.d_out": d_out}
        tensors |= {f"{name}.grad.{i}": x for i, x in enumerate(grads)}
    save_golden("primitives", tensors, {"f64_max_abs_diff": worst})
    print(f"  to f64: {worst:.1e}")


if __name__ == "__main__":
    main()
