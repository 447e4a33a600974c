"""What it costs on the CPU to give memory back to the system after every step, and what keeping it costs in memory.

    python benchmarks/allocator.py [--sides 32 48 64] [--steps 10]

Steps of a small U-Net (8 to 64 features, two crops), each way in a process of its own, three times in turn; medians.
Prints a table and a JSON line a row.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from statistics import median
from typing import Any

TURNS = 3
STEPS = """
import json, resource, time
import torch
from nnssl.engine.memory import keep_freed_memory
from nnssl.nnunet import build_network
from nnssl.testing_world import small_architecture
if {keep}:
    assert keep_freed_memory(), "this C library has no such switch"
torch.set_num_threads(1)
network = build_network(small_architecture(features=(8, 16, 32, 64)), channels=1, classes=6)
image = torch.randn(2, 1, {side}, {side}, {side})
for step in range({steps} + 3):
    if step == 3:
        before = resource.getrusage(resource.RUSAGE_SELF)
    network(image).square().mean().backward()
after = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({{"user": (after.ru_utime - before.ru_utime) / {steps},
    "system": (after.ru_stime - before.ru_stime) / {steps}, "peak_mib": after.ru_maxrss / 1024}}))
"""


def measure(*, keep: bool, side: int, steps: int) -> dict[str, float]:
    """Seconds of processor time a step, and peak memory, of a fresh process."""
    program = [sys.executable, "-c", STEPS.format(keep=keep, side=side, steps=steps)]
    found: dict[str, float] = json.loads(subprocess.run(program, check=True, capture_output=True, text=True).stdout)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 48, 64])
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    print("| side | given back: s a step (system's share) | kept | time, kept of given back | peak memory, MiB |")
    print("|---|---|---|---|---|")
    for side in arguments.sides:
        turns: dict[bool, list[dict[str, float]]] = {False: [], True: []}
        for _ in range(TURNS):
            for keep, found in turns.items():
                found.append(measure(keep=keep, side=side, steps=arguments.steps))
        row: dict[str, Any] = {"side": side}
        for keep, name in ((False, "given_back"), (True, "kept")):
            row[f"{name}_s"] = median(one["user"] + one["system"] for one in turns[keep])
            row[f"{name}_system"] = median(one["system"] / (one["user"] + one["system"]) for one in turns[keep])
            row[f"{name}_mib"] = median(one["peak_mib"] for one in turns[keep])
        print(
            "| {side} | {given_back_s:.3f} ({given_back_system:.0%}) | {kept_s:.3f} ({kept_system:.0%}) | ".format(
                **row
            )
            + f"{row['kept_s'] / row['given_back_s']:.2f} | {row['given_back_mib']:.0f} to {row['kept_mib']:.0f} |"
        )
        print(json.dumps(row), file=sys.stderr)


if __name__ == "__main__":
    main()
