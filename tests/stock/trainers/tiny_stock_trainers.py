"""Trainers for stock tests, found by nnU-Net through nnUNet_extTrainer: nnU-Net's own, cut to two iterations.

They also write down what the network held when training began, so that a test can compare it with the weights file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.primus.primus_trainers import nnUNet_Primus_S_Trainer


class Cut:
    """One epoch of two iterations; everything else is nnU-Net's."""

    def __init__(
        self, plans: dict[str, Any], configuration: str, fold: int, dataset_json: dict[str, Any], device: torch.device
    ) -> None:
        """As nnU-Net's own signature: it records its arguments by name."""
        super().__init__(plans, configuration, fold, dataset_json, device)  # type: ignore[call-arg]
        self.num_epochs = 1
        self.num_iterations_per_epoch = 2
        self.num_val_iterations_per_epoch = 1

    def on_train_start(self) -> None:
        """Write the network's tensors as they are right before the first iteration."""
        super().on_train_start()  # type: ignore[misc]
        torch.save(self.network.state_dict(), Path(self.output_folder) / "at_train_start.pth")  # type: ignore[attr-defined]


class TinyStockTrainer(Cut, nnUNetTrainer):  # type: ignore[misc]
    """nnU-Net's trainer, cut."""


class TinyPrimusTrainer(Cut, nnUNet_Primus_S_Trainer):  # type: ignore[misc]
    """nnU-Net's Primus trainer, cut."""
