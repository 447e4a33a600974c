"""Fine-tuning that measures itself: Dice of held-out cases on the way and at the end, the same for all arms.

Dice on whole held-out cases after every epoch (`curve.json`) and at the end (`final.json`), in this process: nnU-Net's
validation starts worker processes that take longer than a small network does. Nothing is selected by these numbers.
A training that was stopped and continued (`--c`) ends with the very weights of one that was not, on the CPU at least:
every epoch begins with a seed of its own.
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnssl.atomic import whole_file
from nnssl.engine.memory import keep_freed_memory
from nnssl.evaluate.finetune.schedule import MeasuredSchedule
from nnssl.evaluate.finetune.trainer import NnsslFinetuneWarmup

CURVE, FINAL, TIMING = "curve.json", "final.json", "timing.json"


class _InPairs(torch.nn.Module):
    """Computes every window twice: torch 2.15 convolves a batch of one on the CPU 8 times slower than one of two."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The network's answer to (1, C, D, H, W)."""
        answers: torch.Tensor = self.network(torch.cat((x, x)))
        return answers[:1]


class NnsslMeasuredFinetune(NnsslFinetuneWarmup):
    """A short, seeded fine-tuning with any schedule."""

    DEFAULTS = MeasuredSchedule()
    ANY_SCHEDULE = True

    def on_train_start(self) -> None:
        """Begin, and measure where the training stands unless that is on record already."""
        if self.device.type == "cpu":
            keep_freed_memory()
        super().on_train_start()
        points = self._points()
        if not points or points[-1]["iteration"] < self.iteration:  # a kill between checkpoint and measurement
            self._record()

    def on_train_epoch_start(self) -> None:
        """Seed all generators anew, so that a training that was continued draws what it would have drawn."""
        super().on_train_epoch_start()
        if self.iteration:
            self._seed_epoch()
        self._epoch_began = time.monotonic()

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Add the epoch's iterations and seconds to the file of times, which a continued training goes on with."""
        super().on_train_epoch_end(train_outputs)
        path = Path(self.output_folder) / TIMING
        before = json.loads(path.read_text()) if self.current_epoch and path.is_file() else {}
        _write_json(
            path,
            {
                "iterations": before.get("iterations", 0) + self.num_iterations_per_epoch,
                "seconds": before.get("seconds", 0.0) + time.monotonic() - self._epoch_began,
            },
        )

    def _seed_epoch(self) -> None:
        """Seed all generators by seed and iteration, so that what was drawn before does not matter."""
        seed = int(np.random.SeedSequence([self.schedule.seed, self.iteration]).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)

    def save_checkpoint(self, filename: str) -> None:
        """Whole or not at all: a training that was killed while saving goes on from the checkpoint before."""
        if self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        with whole_file(filename) as temporary:
            super().save_checkpoint(str(temporary))

    def on_epoch_end(self) -> None:
        """Measure after every epoch, once its checkpoint is there."""
        super().on_epoch_end()
        self._record()

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

    def measured(self) -> MeasuredSchedule:
        """The schedule, by its own type."""
        schedule: MeasuredSchedule = self.schedule  # type: ignore[assignment]  # DEFAULTS decides it
        return schedule

    def do_split(self) -> tuple[list[str], list[str]]:
        """The cases of the schedule's split; nnU-Net's fold where it names none."""
        split: tuple[list[str], list[str]]
        name = self.measured().split
        if name is None:
            split = super().do_split()
        else:
            content = json.loads(Path(name).read_text())
            split = content["train"], content["val"]
        return split

    def held_out(self) -> list[str]:
        """The validation cases of this fold; in the demonstration, the test subjects."""
        return sorted(self.do_split()[1])

    def _record(self) -> None:
        """Append one measurement to `curve.json`: Dice per case and organ on the preprocessed grid."""
        iteration = self.iteration
        path, points = Path(self.output_folder) / CURVE, self._points()
        state = (random.getstate(), np.random.get_state(), torch.get_rng_state())
        chosen = self.held_out()[: self.measured().curve_cases]
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

    def _points(self) -> list[dict[str, Any]]:
        """What `curve.json` holds of this training so far."""
        path = Path(self.output_folder) / CURVE
        points: list[dict[str, Any]] = json.loads(path.read_text()) if self.iteration and path.is_file() else []
        return [point for point in points if point["iteration"] <= self.iteration]

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
