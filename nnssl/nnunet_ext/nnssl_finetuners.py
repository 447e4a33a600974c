"""Shim for `nnUNet_extTrainer`: stock nnU-Net finds our fine-tuning trainers here.

nnU-Net imports this file as a top-level module and forgets it afterwards; the classes live in the installed package.
"""

from nnssl.evaluate.finetune.measured import NnsslMeasuredFinetune
from nnssl.evaluate.finetune.trainer import (
    NnsslFinetuneFrozen,
    NnsslFinetuneFrozenThenThawed,
    NnsslFinetuneSawtooth,
    NnsslFinetuneWarmup,
)

__all__ = [
    "NnsslFinetuneFrozen",
    "NnsslFinetuneFrozenThenThawed",
    "NnsslFinetuneSawtooth",
    "NnsslFinetuneWarmup",
    "NnsslMeasuredFinetune",
]
