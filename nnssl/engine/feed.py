"""The data side of a run: its cases, what a method may know of them, the stream of views, the health probe's boxes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nnssl.blocks.collectives import rank, world_size
from nnssl.data.collection import Collection
from nnssl.data.loader import Slicing, ViewStream
from nnssl.data.requirements import small_cases
from nnssl.data.tables import table_file
from nnssl.engine.health import HealthProbe
from nnssl.engine.probe_set import held_out_probe
from nnssl.engine.recipe import Recipe
from nnssl.errors import PlanError
from nnssl.method import DataInfo, Needs, PlanInfo
from nnssl.planning.orientation import most_common
from nnssl.views.spec import ViewSpec


class Feed:
    """What a run is trained on.

    Attributes:
        info: what the method may know.
        identity: data sets, mix, number of cases, hashes of them and of match tables: a continued run must have the
            same.
        orientation: how most of the stored cases lie in the patient, as `nnssl.planning.orientation.codes` says it.
        matchers: {"DATASET": who made the rows of its match table, and how many}; empty without a table.
        sources: {"DATASET/CASE": hash of the scan's content}, for a later check that no test scan was pretrained on.
        sentences: what the log should say about the data.
    """

    def __init__(
        self, folders: Sequence[Path], *, mix: Sequence[float], needs: Needs, recipe: Recipe, trainer: str
    ) -> None:
        """Read the indices of preprocessed folders.

        Args:
            folders: nnUNet_preprocessed/DatasetXXX_Name/PLANS_CONFIGURATION, one a data set.
            mix: weight of each data set; empty: by number of cases.
            needs: the method's.
            recipe: the run's.
            trainer: class name and what else `--for` needs to hear ("DeSDTrainer --preset paper"), for messages.

        Raises:
            DataError: no data, data sets that do not agree, or something the method needs is missing.
        """
        self._needs, self._recipe = needs, recipe
        self.collection = Collection.from_datasets(
            folders, needs=needs, trainer=trainer, mix=[float(weight) for weight in mix] or None
        )
        self.info: DataInfo = self.collection.data_info(
            batch_size=recipe.batch_size, steps_per_epoch=recipe.steps_per_epoch
        )
        self.sentences = list(self.collection.notes)
        entries = [*self.collection.training, *self.collection.held_out]
        self.sources = {f"{e.dataset}/{e.case_id}": e.source_hash for e in entries if e.source_hash}
        self.matchers = self.collection.matchers()
        self.orientation = most_common([entry.to_world for entry in entries])
        cases = sorted((e.dataset, e.case_id, e.shape, e.source_hash) for e in self.collection.training)
        self.identity: Mapping[str, Any] = {
            "datasets": [folder.parent.name for folder in folders],
            "mix": [float(weight) for weight in mix],
            "cases": len(cases),
            "hash": hashlib.sha256(repr(cases).encode()).hexdigest()[:16],
            **self._tables(folders),
        }

    def _tables(self, folders: Sequence[Path]) -> dict[str, str]:
        """{"tables": hash of the match tables}, where the method needs some."""
        files = [table_file(folder, table) for folder in folders for table in self._needs.tables]
        digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
        return {"tables": digest} if files else {}

    def describe(self, views: ViewSpec, plan: PlanInfo) -> None:
        """Take the method's views, and say how they fit the cases.

        Raises:
            DataError: a case would be mostly padding.
        """
        self._views = views
        # the probe's boxes are for the same network
        self._plan = plan if views.stride is None else replace(plan, strides=(views.stride,))
        sizes = ", ".join(f"{group.count} {group.name} of {group.size}" for group in views.groups)
        self.sentences.append(f"Views of a sample: {sizes} voxels.")
        small = small_cases(self.collection.training, views)
        if small:
            names = ", ".join(entry.case_id for entry in small[:5]) + (" ..." if len(small) > 5 else "")
            self.sentences.append(
                f"{len(small)} of {self.info.cases} cases are smaller than a view on some axis and will be padded "
                f"({names}); the padding counts in no loss."
            )

    def stream(self, device: torch.device, *, workers: int | None) -> ViewStream:
        """This rank's batches, read ahead by `workers` threads."""
        recipe = self._recipe
        return ViewStream(
            self.collection,
            self._views,
            self._needs,
            seed=recipe.seed,
            slicing=Slicing(batch_size=recipe.batch_size, micros=recipe.accumulate, rank=rank(), world=world_size()),
            device=device,
            dtype=self._dtype,
            workers=workers,
            end=recipe.total_steps,
        )

    def probe(self, device: torch.device) -> HealthProbe | None:
        """The health probe on held-out cases; None, with a sentence, where the cases are too small for its views."""
        recipe = self._recipe
        try:
            boxes = held_out_probe(self.collection, self._plan, self._needs, seed=recipe.seed)
        except PlanError as error:
            self.sentences.append(f"Health is not measured: {error}")
            return None
        return HealthProbe(boxes, total_steps=recipe.total_steps, steps_per_epoch=recipe.steps_per_epoch, device=device)

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float64 if self._recipe.precision == "fp64" else torch.float32
