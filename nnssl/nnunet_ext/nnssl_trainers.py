"""Shim for `nnUNet_extTrainer`: stock nnU-Net finds every nnssl trainer here, by name.

nnU-Net imports this file as a top-level module, asks it for the name, and forgets it afterwards; the classes live in
installed packages, so nothing depends on this module staying loaded.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    from nnssl.registry import find_trainer, trainers

    if name not in {found.name for found in trainers()}:
        raise AttributeError(name)
    return find_trainer(name)
