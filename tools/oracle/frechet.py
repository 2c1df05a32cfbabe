#!/usr/bin/env python3
"""Golden file: the Frechet distance by scipy's matrix square root, and improved precision and recall by NumPy.

tests/golden/frechet.safetensors, f64, for the cases `many` (more images than features) and `few` (fewer):
  <case>.real [n, d], <case>.generated [m, d]     correlated features
  <case>.frechet_distance [1]                     Heusel et al. 2017, as pytorch-fid computes it
  <case>.precision_and_recall [2]                 Kynkaanniemi et al. 2019, k = 3
"""

import numpy as np
import scipy.linalg
import torch

from common import save_golden


def frechet_distance(real, generated):
    mu1, mu2 = real.mean(0), generated.mean(0)
    s1, s2 = np.cov(real, rowvar=False), np.cov(generated, rowvar=False)
    return ((mu1 - mu2) ** 2).sum() + np.trace(s1 + s2 - 2 * scipy.linalg.sqrtm(s1 @ s2).real)


def distances(a, b):
    return np.linalg.norm(a[:, None] - b[None], axis=2)


def share_within(features, others):
    radii = np.sort(distances(others, others), axis=1)[:, 3]  # column 0 is the distance to itself
    return (distances(features, others) <= radii).any(1).mean()


def main():
    random = np.random.default_rng(17)
    tensors = {}
    for case, (n, m, d) in {"many": (90, 70, 7), "few": (11, 13, 17)}.items():
        mix = random.normal(size=(d, d))
        real = random.normal(size=(n, d)) @ mix + random.normal(size=d)
        generated = 0.6 * random.normal(size=(m, d)) @ (mix + 0.3 * random.normal(size=(d, d)))
        found = frechet_distance(real, generated)
        shares = [share_within(generated, real), share_within(real, generated)]
        print(f"{case}: Frechet distance {found:.6f}, precision and recall {shares}")
        tensors |= {f"{case}.real": real, f"{case}.generated": generated,
                    f"{case}.frechet_distance": np.array([found]), f"{case}.precision_and_recall": np.array(shares)}
    save_golden("frechet", {name: torch.from_numpy(array) for name, array in tensors.items()}, {})


if __name__ == "__main__":
    main()
