"""Holds our event files against TensorBoard's Python package (pip install tensorboard).

Without arguments: writes tests/golden/events.out.tfevents.golden by TensorBoard's own messages and record writer.
With the output folder of a run, or a folder of event files: reads them as TensorBoard does, and prints what it finds;
fails unless there are scalars at increasing steps.
"""

import argparse
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden" / "events.out.tfevents.golden"


def write():
    def scalars(**values):
        return Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])

    rest = {"learning_rate": 2e-4, "images_per_second": 41.5}
    quartiles = {f"loss_by_timestep/quartile_{i}": loss for i, loss in [(1, 2.0), (3, 0.5), (4, 0.25)]}
    start = 1_700_000_000.0
    events = [
        Event(wall_time=start, file_version="brain.Event:2"),
        Event(wall_time=start, step=21, session_log=SessionLog(status=SessionLog.START)),
        Event(wall_time=start + 1.5, step=30, summary=scalars(loss=0.75, **quartiles, gradient_norm=3.5, **rest)),
        Event(wall_time=start + 2.5, step=40, summary=scalars(loss=0.75, **rest)),
    ]
    with open(GOLDEN, "wb") as file:
        writer = RecordWriter(file)
        for event in events:
            writer.write(event.SerializeToString())
    print(f"{GOLDEN.name}: {GOLDEN.stat().st_size} bytes")


def read(folder):
    folder = folder / "tensorboard" if (folder / "tensorboard").is_dir() else folder
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    accumulator.Reload()
    tags = accumulator.Tags()
    for tag in sorted(tags["scalars"]):
        events = accumulator.Scalars(tag)
        steps = [event.step for event in events]
        if steps != sorted(set(steps)):
            sys.exit(f"{tag}: steps are not increasing: {steps}")
        print(f"{tag}: {len(events)} values, steps {steps[0]} to {steps[-1]}, the last {events[-1].value:.6g}")
    for tag in sorted(tags["images"]):
        images = accumulator.Images(tag)
        print(f"{tag}: {len(images)} images, the last {images[-1].width}x{images[-1].height} at step {images[-1].step}")
    if "loss" not in tags["scalars"]:
        sys.exit(f"{folder}: no loss")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path)
    arguments = parser.parse_args()
    read(arguments.run) if arguments.run else write()
