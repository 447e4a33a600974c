"""Memory that a step frees stays with the process, for the next step.

A training step on the CPU frees the same large blocks that the next one asks for. The GNU allocator hands each back to
the system, which clears it anew: a fifth of the processor time of a small network (`benchmarks/allocator.py`).
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt(3)
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Ask the allocator to give nothing back before the process ends.

    Only where steps are alike, so that what is kept is used again.

    Returns:
        Whether the C library has such a switch; others are left as they are, and are correct without.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS; Windows has no library without a name
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
