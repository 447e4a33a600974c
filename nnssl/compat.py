"""Notices what should not be there: MIC-DKFZ's package `nnssl`, which owns the same import name, and an old torch."""

from __future__ import annotations

import re
import warnings
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from nnssl.errors import UsageError

THEIRS, OURS = "nnssl", "nnssl-plugins"
SAFE_TORCH = (2, 10)  # the first whose torch.load(weights_only=True) has no hole that was known when this was written


def warn_of_old_torch(path: Path) -> None:
    """Say that a torch file of a stranger is read with a torch whose reader has known holes.

    Args:
        path: the file that is about to be read.
    """
    found = version("torch")
    numbers = tuple(int(part) for part in re.findall(r"\d+", found)[:2])
    if numbers < SAFE_TORCH:
        warnings.warn(
            f"{path} is read without running code from it (weights_only=True), but torch {found} has known holes there "
            f"and may run it all the same. Read only files whose maker you trust, take their .safetensors, or install "
            f"torch {'.'.join(map(str, SAFE_TORCH))} or newer.",
            stacklevel=3,
        )


def refuse_other_nnssl() -> None:
    """Called by every command before it works.

    Raises:
        UsageError: a distribution called `nnssl` is installed beside ours. Whichever was installed last has overwritten
            files of the other, so that neither can be trusted.
    """
    try:
        found = distribution(THEIRS)
    except PackageNotFoundError:
        return
    raise UsageError(
        f"This environment also holds the package {THEIRS} {found.version} ({Path(str(found.locate_file('')))}), of "
        f"MIC-DKFZ. Both packages own the import name nnssl and the command nnssl_plan_and_preprocess, so they cannot "
        f"share an environment. Make a new one for {OURS}, or run: pip uninstall {THEIRS} && pip install "
        f"--force-reinstall --no-deps {OURS}"
    )
