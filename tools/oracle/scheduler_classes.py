#!/usr/bin/env python3
"""Golden file: the keys and defaults of diffusers' scheduler classes, which `src/diffusion/scheduler_class.rs` has too.

tests/golden/scheduler_classes.json: {class: {key: default}}, by the signatures of the constructors; -Infinity as Python writes
it.
"""

import argparse
import inspect
import json

import diffusers

from common import GOLDEN

CLASSES = (
    "DDPMScheduler",
    "DDIMScheduler",
    "DDIMInverseScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
)


def main():
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    classes = {}
    for name in CLASSES:
        parameters = inspect.signature(getattr(diffusers, name).__init__).parameters.values()
        kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        classes[name] = {p.name: p.default for p in parameters if p.name != "self" and p.kind not in kinds}
    path = GOLDEN / "scheduler_classes.json"
    path.write_text(json.dumps(classes, indent=1, sort_keys=True) + "\n")
    print(f"{path.name}: {len(classes)} classes, diffusers {diffusers.__version__}")


if __name__ == "__main__":
    main()
