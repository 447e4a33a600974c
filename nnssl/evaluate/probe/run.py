"""A whole probe: pretrained and untrained network, fold by fold, each result kept so that a stopped probe goes on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from nnssl.atomic import whole_file
from nnssl.encoders.pyramid import PlanEncoder
from nnssl.engine.randomness import numpy_generator
from nnssl.errors import DataError, UsageError
from nnssl.evaluate.commands import Screen
from nnssl.evaluate.probe.cases import Case, read_case
from nnssl.evaluate.probe.target import Network, Request, load, patch_size, settle_target
from nnssl.evaluate.probe.train import HEADS, fit_heads, score
from nnssl.evaluate.subsets import Fold
from nnssl.evaluate.untrained import untrained
from nnssl.paths import Folders

PRETRAINED, UNTRAINED = "pretrained", "untrained"
QUESTION = "probe.json"


class Probe:
    """A probe in a folder of its own. A second call goes on behind the last finished fold.

    Attributes:
        request: as given.
        network: the pretrained pyramid.
        target: the labelled data set.
        patch_size: voxels D H W that the network sees at once.
    """

    def __init__(self, request: Request, where: Folders, screen: Screen) -> None:
        """Settle and check everything; trains nothing.

        Raises:
            NnsslError: whatever would fail later.
        """
        self.request, self.screen = request, screen
        self.network = load(request)
        self.patch_size = patch_size(self.network, request.settings)
        self.target = settle_target(request, self.network, where)
        self._cases: dict[str, Case] = {}
        for number, fold in self.target.folds.items():
            self._parts(fold, number)  # what a fold lacks is said before the first training, not hours later
        self._own_folder()

    @property
    def arms(self) -> tuple[str, ...]:
        """The networks that are probed."""
        return (PRETRAINED, UNTRAINED) if self.request.untrained else (PRETRAINED,)

    def describe(self) -> str:
        """What will be done, in a sentence."""
        target, settings = self.target, self.request.settings
        subjects = len({target.subject_of[case] for case in target.test_cases})
        return (
            f"{target.dataset}, {target.plans_name}: heads on the maps of {_maps(self.network)} "
            f"({sum(self.network.channels)} features a voxel), {' and '.join(self.arms)} network, "
            f"{len(target.folds)} fold(s), {settings.steps} steps each; {len(target.test_cases)} test cases of "
            f"{subjects} subjects."
        )

    def run(self) -> dict[str, dict[str, Any]]:
        """{network: {"folds": .., "cases": {case: {head: {class: Dice or None}}}}}; no finished fold is done again."""
        results: dict[str, dict[str, Any]] = {arm: {"folds": {}, "cases": {}} for arm in self.arms}
        for number, fold in self.target.folds.items():
            for arm in self.arms:
                found = self._fold(arm, number, fold)
                results[arm]["folds"][str(number)] = found["heads"]
                results[arm]["cases"].update(found["cases"])
        return results

    def _fold(self, arm: str, number: int, fold: Fold) -> dict[str, Any]:
        file = self.request.out / f"{arm}_fold{number}.json"
        if file.is_file():
            done: dict[str, Any] = json.loads(file.read_text())
            return done
        request, device = self.request, self.request.device
        network = (self.network if arm == PRETRAINED else untrained(self.network, seed=request.settings.seed)).to(
            device
        )
        train, validation = self._parts(fold, number)
        heads, fitted = fit_heads(
            network, train, validation, self.target.labels, settings=request.settings, patch_size=self.patch_size,
            fold=number, device=device, progress=partial(self._progress, arm, number),
        )  # fmt: skip
        cases = {}
        for name in fold.test:
            self.screen.status(f"{arm}, fold {number}: testing {name}")
            found = score(
                network, heads, self._case(name), self.target.labels, patch_size=self.patch_size, device=device
            )
            cases[name] = {head: self._plain(scores) for head, scores in found.items()}
        about = {
            name: {"best_step": fitted[name].step, "validation_dice": fitted[name].dice, "curve": fitted[name].curve}
            for name in HEADS
        }
        with whole_file(self.request.out / f"{arm}_fold{number}_heads.pth") as temporary:
            torch.save({name: fitted[name].state for name in HEADS}, temporary)
        result = {"heads": about, "validation": [case.name for case in validation], "cases": cases}
        with whole_file(file) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n")
        best = ", ".join(f"{name} {fitted[name].dice:.3f} at step {fitted[name].step}" for name in HEADS)
        self.screen.say(f"{arm}, fold {number}: validation Dice {best}")
        return result

    def _parts(self, fold: Fold, number: int) -> tuple[list[Case], list[Case]]:
        """Cases to train on, and cases of other subjects that choose the step."""
        subject_of, name = self.target.subject_of, f"fold {number} of {self.target.dataset}"
        subjects = sorted({subject_of[case] for case in fold.train})
        if len(subjects) < 2:
            raise DataError(
                f"{name[:1].upper()}{name[1:]} trains on 1 subject; 2 are needed: one trains the heads, another one "
                f"chooses their step."
            )
        count = min(max(1, round(self.request.settings.validation_share * len(subjects))), len(subjects) - 1)
        order = numpy_generator(self.request.settings.seed, number, "probe validation").permutation(len(subjects))
        chosen = {subjects[index] for index in order[:count]}
        cases = [self._case(case) for case in fold.train]
        validation = [case for case in cases if subject_of[case.name] in chosen]
        train = [case for case in cases if subject_of[case.name] not in chosen]
        absent = [
            label.name
            for index, label in enumerate(self.target.labels.classes)
            if not any(len(c.anchors[index]) for c in train)
        ]
        if absent:
            raise DataError(
                f"No training case of {name} has the class {absent[0]}, so that a head cannot learn it. Use a split in "
                f"which every class is trained on, or take the class out of dataset.json."
            )
        return train, validation

    def _case(self, name: str) -> Case:
        if name not in self._cases:
            self._cases[name] = read_case(self.target.folder, name, self.target.labels, seed=self.request.settings.seed)
        return self._cases[name]

    def _plain(self, scores: Mapping[int, float]) -> dict[str, float | None]:
        names = [label.name for label in self.target.labels.classes]
        return {names[index]: None if math.isnan(value) else value for index, value in scores.items()}

    def _progress(self, arm: str, number: int, step: int) -> None:
        self.screen.status(f"{arm}, fold {number}: step {step}/{self.request.settings.steps}")

    def _own_folder(self) -> None:
        """A folder belongs to one question; folds may be added."""
        out, file = self.request.out, self.request.out / QUESTION
        out.mkdir(parents=True, exist_ok=True)
        mine = self._question()
        if file.is_file():
            before = json.loads(file.read_text())
            folds = {**before["folds"], **mine["folds"]}
            if {**before, "folds": folds} != {**mine, "folds": {**folds, **before["folds"]}}:
                raise UsageError(
                    f"{out} holds a probe of another checkpoint, data set or setting ({file}). Give the same ones to "
                    f"go on with it, or another -o."
                )
            mine["folds"] = folds
        with whole_file(file) as temporary:
            temporary.write_text(json.dumps(mine, indent=1) + "\n")

    def _question(self) -> dict[str, Any]:
        """All that a result depends on, as JSON values."""
        request, target = self.request, self.target
        about = request.weights.stat()
        question = {
            "weights": str(request.weights),
            "stamp": hashlib.sha256(f"{about.st_size} {about.st_mtime_ns}".encode()).hexdigest()[:12],
            "which": request.which,
            "maps": _maps(self.network),
            "dataset": target.dataset,
            "plans": target.plans_name,
            "configuration": request.configuration,
            "settings": dataclasses.asdict(request.settings),
            "folds": {str(number): dataclasses.asdict(fold) for number, fold in target.folds.items()},
        }
        plain: dict[str, Any] = json.loads(json.dumps(question))
        return plain


def _maps(network: Network) -> str:
    """Which parts of a network its maps come from."""
    return "the encoder" if isinstance(network, PlanEncoder) else "encoder and decoder"
