"""Freed memory is used again instead of asked for anew."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

STEPS = """
import resource
import torch
from nnssl.engine.memory import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
torch.set_num_threads(1)
blocks = lambda: [torch.ones(12 << 20) for _ in range(2)]  # of 48 MiB; up to 32 the allocator may learn by itself
for _ in range(8):
    blocks()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    blocks()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*, keep: bool) -> int:
    """Pages that the system had to provide while the same blocks were made again and again."""
    program = [sys.executable, "-c", STEPS.format(keep=keep)]
    return int(subprocess.run(program, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU allocator has this switch")
def test_blocks_of_the_step_before_are_used_again() -> None:
    asked_anew, kept = faults(keep=False), faults(keep=True)
    assert kept < asked_anew / 4
