"""`nnssl_estimate`: hours, memory and disk of a pretraining, before it starts."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from nnssl.cli import _common, _request
from nnssl.errors import UsageError

if TYPE_CHECKING:
    from nnssl.estimate import Estimate

PROG = "nnssl_estimate"
_MUCH_WAITING = 0.1  # of the time: worth a word


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    arguments = _parser().parse_args(argv)
    return _common.run(partial(_estimate, arguments), prog=PROG)


def _parser() -> argparse.ArgumentParser:
    made = _common.parser(
        PROG,
        "Takes a few steps of a pretraining, as nnssl_pretrain with the same words would, and throws them away: "
        "seconds a step, hours of the run, memory, arithmetic and disk on one device. Writes nothing.",
        examples=[
            "nnssl_estimate 745 3d_fullres -tr DeSDTrainer",
            "nnssl_estimate 745 3d_fullres -tr DeSDTrainer --preset paper --set batch_size=16 -device cuda",
            "nnssl_estimate 745 3d_fullres -tr MAETrainer --steps 50 --json",
        ],
    )
    _request.add_request(made)
    made.add_argument("--steps", type=int, default=10, metavar="N", help="steps to measure (default 10)")
    made.add_argument("--json", action="store_true", help="print one line of JSON in place of the table")
    return made


def _estimate(arguments: argparse.Namespace) -> None:
    _common.apply_workspace(arguments)
    if arguments.steps < 1:
        raise UsageError(f"--steps must be at least 1; it is {arguments.steps}.")
    from nnssl.estimate import estimate

    with redirect_stdout(sys.stderr):  # nnU-Net's trainer greets
        found = estimate(_request.request_of(arguments), steps=arguments.steps)
    if arguments.json:
        derived = {"hours": found.hours, "tflops": found.tflops, "disk": found.disk}
        print(json.dumps({**asdict(found), **derived}))
        return
    for name, value in rows(found):
        print(f"{name:10} {value}")
    if found.waiting > _MUCH_WAITING:
        print("Steps wait for data: more -num_workers, a faster disk, or more CPU cores would shorten the run.")


def rows(found: Estimate) -> list[tuple[str, str]]:
    """What the table says, name and words."""
    memory = "not known on this platform" if found.memory is None else gib(found.memory)
    whose = "of the GPU" if found.device == "cuda" else "of this process"
    return [
        ("run", f"{found.trainer}, {found.total_steps} steps of {found.batch_size} samples"),
        ("device", f"{found.device}, {found.precision}"),
        ("a step", f"{found.seconds:.3g} s (median of {found.measured}), {found.waiting:.0%} of it waiting for data"),
        ("in all", f"{found.hours:.3g} h, without health probes and saving"),
        ("memory", f"{memory} {whose}"),
        ("arithmetic", f"{found.tflops:.3g} TFLOP/s"),
        ("disk", f"{gib(found.disk)} for two training states; weights files come on top and are smaller"),
    ]


def gib(size: int) -> str:
    """Bytes as GiB."""
    return f"{size / 2**30:.2f} GiB"
