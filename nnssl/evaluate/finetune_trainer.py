"""A short, seeded fine-tuning for stock `nnUNetv2_train`: the same for scratch and pretrained arms.

Stock nnU-Net trains 1000 epochs of 250 steps and has no option for less, so the schedule comes with a trainer class,
found through `nnUNet_extTrainer`. Network, loss, augmentation, patch sampling, `-pretrained_weights` and the export of
predictions stay nnU-Net's. What differs, and why:

- AdamW with warm-up and cosine instead of SGD at 1e-2: a pretrained network survives its first steps (Isensee et al.
  2024 and the peers' published recipes: warm-up, peak 1e-3), and scratch is better off with it in a short run, too.
- No mirroring unless asked for: left and right organs are classes of their own.
- Dice on whole held-out cases every few steps (`curve.json`) and at the end (`final.json`), in this process: nnU-Net's
  validation starts worker processes that take longer than a small network does. Nothing is selected by these numbers.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnssl.evaluate.finetune_schedule import FinetuneSchedule, from_environment

CURVE, FINAL = "curve.json", "final.json"


class _Scheduler:
    """What nnU-Net calls once an epoch; the rate itself moves every step."""

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: FinetuneSchedule) -> None:
        self.optimizer, self.schedule = optimizer, schedule

    def step(self, epoch: int) -> None:
        self.at(epoch * self.schedule.evaluate_every)

    def at(self, iteration: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.learning_rate(iteration)


class _InPairs(torch.nn.Module):
    """Computes every window twice: torch 2.15 convolves a batch of one on the CPU 8 times slower than one of two."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The network's answer to (1, C, D, H, W)."""
        answers: torch.Tensor = self.network(torch.cat((x, x)))
        return answers[:1]


class NnsslDemoFinetune(nnUNetTrainer):  # type: ignore[misc]  # nnU-Net ships no types
    """nnU-Net's trainer with the schedule of `NNSSL_FINETUNE`. One "epoch" is `evaluate_every` steps."""

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008  nnU-Net's signature
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.schedule = from_environment()
        self.num_iterations_per_epoch = self.schedule.evaluate_every
        self.num_epochs = self.schedule.iterations // self.schedule.evaluate_every
        self.num_val_iterations_per_epoch = 1  # only feeds nnU-Net's log; the curve below is the measurement
        self.initial_lr, self.weight_decay = self.schedule.peak_lr, self.schedule.weight_decay
        self.iteration = 0
        if self.schedule.threads:
            torch.set_num_threads(self.schedule.threads)
        self.seed()

    def seed(self) -> None:
        """Seed all three generators; before the network is built, and again before the first patch is drawn, so that
        loading weights in between changes nothing else."""
        random.seed(self.schedule.seed)
        np.random.seed(self.schedule.seed)
        torch.manual_seed(self.schedule.seed)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, _Scheduler]:
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, _Scheduler(optimizer, self.schedule)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, ...]:  # noqa: N802
        rotation, dummy_2d, initial_patch_size, axes = (
            super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        if not self.schedule.mirroring:
            axes = self.inference_allowed_mirroring_axes = None
        return rotation, dummy_2d, initial_patch_size, axes

    def on_train_start(self) -> None:
        self.seed()
        super().on_train_start()
        self._record(0)

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        self.lr_scheduler.at(self.iteration)
        self.iteration += 1
        outputs: dict[str, Any] = super().train_step(batch)
        return outputs

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        self._record(self.iteration)

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        super().load_checkpoint(filename_or_checkpoint)
        self.iteration = self.current_epoch * self.schedule.evaluate_every

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Predict all held-out cases into `validation/`; their Dice, on the scans' own grid, goes to `final.json`."""
        folder = Path(self.output_folder) / "validation"
        folder.mkdir(exist_ok=True)
        truth = Path(self.preprocessed_dataset_folder_base) / "gt_segmentations"
        ending, labels = self.dataset_json["file_ending"], self.label_manager.foreground_labels
        cases: dict[str, list[float | None]] = {}
        for case, logits, _, properties in self._predictions(self.held_out()):
            export_prediction_from_logits(
                logits,
                properties,
                self.configuration_manager,
                self.plans_manager,
                self.dataset_json,
                str(folder / case),
            )
            reader = self.plans_manager.image_reader_writer_class()
            found = compute_metrics(str(truth / (case + ending)), str(folder / (case + ending)), reader, labels)
            cases[case] = [_number(found["metrics"][label]["Dice"]) for label in labels]
        _write_json(Path(self.output_folder) / FINAL, {"iteration": self.iteration, "dice": cases})
        self.print_to_log_file(f"Dice of {len(cases)} held-out cases: {_mean(cases):.3f}")

    def held_out(self) -> list[str]:
        """The validation cases of this fold; in the demonstration, the test subjects."""
        return sorted(self.do_split()[1])

    def _record(self, iteration: int) -> None:
        """Append one measurement to `curve.json`: Dice per case and organ on the preprocessed grid."""
        path = Path(self.output_folder) / CURVE
        points = json.loads(path.read_text()) if iteration and path.is_file() else []
        state = (random.getstate(), np.random.get_state(), torch.get_rng_state())
        chosen = self.held_out()[: self.schedule.curve_cases]
        dice = {
            case: self._dice(logits, segmentation)
            for case, logits, segmentation, _ in self._predictions(chosen, tile_step=1.0)
        }
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])
        points = [point for point in points if point["iteration"] < iteration]
        _write_json(path, [*points, {"iteration": iteration, "dice": dice}])
        self.print_to_log_file(f"Held-out Dice after {iteration} iterations: {_mean(dice):.3f}")

    def _dice(self, logits: torch.Tensor, segmentation: np.ndarray[Any, Any]) -> list[float | None]:
        """Dice per foreground label; None where neither the truth nor the prediction has it."""
        predicted = self.label_manager.convert_logits_to_segmentation(logits).numpy()
        values: list[float | None] = []
        for label in self.label_manager.foreground_labels:
            ours, theirs = predicted == label, segmentation == label
            size = int(ours.sum() + theirs.sum())
            values.append(2 * int((ours & theirs).sum()) / size if size else None)
        return values

    def _predictions(self, cases: list[str], *, tile_step: float = 0.5) -> Any:
        """Yield (case, logits, segmentation (D, H, W), properties) by nnU-Net's own sliding window."""
        self.set_deep_supervision_enabled(False)
        self.network.eval()
        predictor = nnUNetPredictor(
            tile_step_size=tile_step, use_mirroring=self.schedule.mirroring, device=self.device, allow_tqdm=False
        )
        network = _InPairs(self.network) if self.device.type == "cpu" else self.network
        predictor.manual_initialization(
            network, self.plans_manager, self.configuration_manager, None, self.dataset_json,
            type(self).__name__, self.inference_allowed_mirroring_axes,
        )  # fmt: skip
        dataset = self.dataset_class(self.preprocessed_dataset_folder, cases)
        for case in cases:
            data, segmentation, _, properties = dataset.load_case(case)
            logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(np.array(data[:]))).cpu()
            yield case, logits, np.asarray(segmentation[:])[0], properties
        self.set_deep_supervision_enabled(self.enable_deep_supervision)


def _number(value: float) -> float | None:
    """JSON has no NaN: nnU-Net's Dice of an organ that is nowhere."""
    return None if np.isnan(value) else float(value)


def _mean(dice: dict[str, list[float | None]]) -> float:
    """Mean over cases and organs, leaving out organs that are nowhere."""
    values = [value for row in dice.values() for value in row if value is not None]
    return float(np.mean(values)) if values else float("nan")


def _write_json(path: Path, content: Any) -> None:
    """Write in full or not at all: an interrupted run must not leave half a file."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content))
    partial.replace(path)
