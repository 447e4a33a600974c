"""Notices MIC-DKFZ's package `nnssl`, which owns the same import name: the two cannot share an environment."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from nnssl.errors import UsageError

THEIRS, OURS = "nnssl", "nnssl-plugins"


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
