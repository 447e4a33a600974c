"""A whole classification: vectors of both networks, cross-validated and tested on fixed subjects."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nnssl.atomic import whole_file
from nnssl.errors import DataError
from nnssl.evaluate.classify.finetune import Images, crop_size, finetune, predict
from nnssl.evaluate.classify.frozen import fit_predict
from nnssl.evaluate.classify.items import TEST, Item, check_folds
from nnssl.evaluate.classify.metrics import Floats, Ints, Predicted
from nnssl.evaluate.classify.settings import FinetuneSettings
from nnssl.evaluate.classify.splits import inner_folds, subject_folds
from nnssl.evaluate.classify.vectors import prepared_file, stored_shape, vectors
from nnssl.evaluate.commands import Screen
from nnssl.evaluate.features import preparation
from nnssl.evaluate.leakage import leaks
from nnssl.evaluate.untrained import untrained
from nnssl.export.load import load_encoder

PRETRAINED, UNTRAINED = "pretrained", "untrained"
CROSS_VALIDATION, FIXED_TEST = "cross-validation", "fixed test subjects"
LINEAR, NEAREST, FINETUNED = "linear", "knn", "fine-tuned"


@dataclass(frozen=True, kw_only=True)
class Request:
    """A classification as asked for.

    Attributes:
        weights: the checkpoint.
        items: checked images.
        classes: in order.
        folds: of the cross-validation.
        finetuning: also train the network; None: frozen only.
        untrained: also classify with the untrained network.
        which: "student" or "teacher", where the file has both.
        seed: of folds, the untrained network and intervals.
        device: "cpu", "cuda", ...
        out: folder of the results.
    """

    weights: Path
    items: Sequence[Item]
    classes: Sequence[str]
    folds: int = 5
    finetuning: FinetuneSettings | None = None
    untrained: bool = True
    which: str = "default"
    seed: int = 0
    device: str = "cpu"
    out: Path = Path("nnssl_classify")


@dataclass
class Found:
    """Predictions and choices: {evaluation: {classifier: {network: ..}}}."""

    predictions: dict[str, dict[str, dict[str, Predicted]]] = field(default_factory=dict)
    choices: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def put(self, where: str, classifier: str, network: str, predicted: Predicted, choices: Any) -> None:
        """Note one result."""
        self.predictions.setdefault(where, {}).setdefault(classifier, {})[network] = predicted
        self.choices.setdefault(where, {}).setdefault(classifier, {})[network] = choices


class Classification:
    """A classification in a folder, which keeps vectors and fine-tuned folds, so that a stopped one goes on.

    Attributes:
        request: as given.
        warnings: what the reader must know; complete once the vectors are there.
    """

    def __init__(self, request: Request, screen: Screen) -> None:
        """Check everything that would fail later.

        Raises:
            NnsslError: one of these.
        """
        self.request, self.screen = request, screen
        self.network = load_encoder(request.weights, which=request.which)
        self.plan = preparation(self.network.weights)
        for item in request.items:
            if len(item.files) != self.network.input_channels:
                raise DataError(
                    f"The weights take {self.network.input_channels} channel(s), so as many files an image; "
                    f"{item.name} has {len(item.files)}. Put ; between the channels' files of an image."
                )
        check_folds(request.items, request.folds)
        self.labels: Ints = np.array([request.classes.index(item.label) for item in request.items])
        self.subjects = [item.subject for item in request.items]
        self.rest: Ints = np.array([row for row, item in enumerate(request.items) if item.split != TEST])
        self.test: Ints = np.array(
            [row for row, item in enumerate(request.items) if item.split == TEST], dtype=np.int64
        )
        self.folds = [
            (self.rest[train], self.rest[left_out])
            for train, left_out in subject_folds(
                self.labels[self.rest], self._subjects(self.rest), request.folds, seed=request.seed
            )
        ]
        self.warnings: list[str] = []
        request.out.mkdir(parents=True, exist_ok=True)

    def describe(self) -> str:
        """What will be done, in a sentence."""
        request = self.request
        counts = ", ".join(f"{name} {(self.labels == k).sum()}" for k, name in enumerate(request.classes))
        fixed = f", {len(self.test)} of them of fixed test subjects" if len(self.test) else ""
        return (
            f"{len(request.items)} images of {len(set(self.subjects))} subjects ({counts}){fixed}; {request.folds} "
            f"folds by subject; {sum(self.network.channels)} features an image."
        )

    def run(self) -> Found:
        """Everything; what an earlier call has done is taken over."""
        request, device = self.request, self.request.device
        networks: dict[str, Any] = {PRETRAINED: self.network}
        if request.untrained:
            networks[UNTRAINED] = untrained(self.network, seed=request.seed)
        for network in networks.values():
            network.to(device)
        made, hashes = vectors(
            networks, request.items, self.plan, request.out, key=self._key(*networks),
            largest=self.network.patch_size, keep_images=request.finetuning is not None, device=device,
            progress=self.screen.status,
        )  # fmt: skip
        self.warnings = [
            f"{where}: {sentence}"
            for where, rows in ((CROSS_VALIDATION, self.rest), (FIXED_TEST, self.test))
            if len(rows)
            for sentence in leaks(self.network.weights, {name: hashes[name] for name in self._names(rows)})
        ]
        found = Found()
        for name in networks:
            for kind in (LINEAR, NEAREST):
                self.screen.status(f"{name}: {kind}")
                self._frozen(found, kind, name, made[name])
            if request.finetuning is not None:
                self._finetuned(found, name, networks[name], made[name], request.finetuning)
        return found

    def _frozen(self, found: Found, kind: Any, name: str, made: Floats) -> None:
        pooled, choices = np.zeros((len(self.labels), len(self.request.classes))), []
        for train, left_out in self.folds:
            pooled[left_out], chosen = self._fit(kind, made, train, left_out)
            choices.append(chosen)
        found.put(CROSS_VALIDATION, kind, name, self._predicted(pooled, self.rest), choices)
        if len(self.test):
            probabilities, chosen = self._fit(kind, made, self.rest, self.test)
            pooled[self.test] = probabilities
            found.put(FIXED_TEST, kind, name, self._predicted(pooled, self.test), chosen)

    def _fit(self, kind: Any, made: Floats, train: Ints, wanted: Ints) -> tuple[Floats, float]:
        return fit_predict(
            kind, made[train], self.labels[train], self._subjects(train), made[wanted],
            folds=self.request.folds, seed=self.request.seed,
        )  # fmt: skip

    def _finetuned(self, found: Found, name: str, network: Any, made: Floats, settings: FinetuneSettings) -> None:
        """Every fold's model predicts the fold; with fixed test subjects, other models, one a validation fold, do."""
        pooled, choices = np.zeros((len(self.labels), len(self.request.classes))), []
        for number, (train, left_out) in enumerate(self.folds):
            inner = inner_folds(self.labels[train], self._subjects(train), self.request.folds, seed=self.request.seed)
            if inner is None:
                raise DataError(
                    f"Fold {number} trains on one subject of a class; fine-tuning needs another one to stop by. Add "
                    f"subjects, or leave --finetune away."
                )
            kept, validation = train[inner[0][0]], train[inner[0][1]]
            pooled[left_out], about = self._model(
                f"{name}_fold{number}", network, made, kept, validation, left_out, settings
            )
            choices.append(about)
        found.put(CROSS_VALIDATION, FINETUNED, name, self._predicted(pooled, self.rest), choices)
        if len(self.test):
            sums, abouts = np.zeros((len(self.test), len(self.request.classes))), []
            for number, (train, validation) in enumerate(self.folds):
                part, about = self._model(f"{name}_test{number}", network, made, train, validation, self.test, settings)
                sums += part / len(self.folds)
                abouts.append(about)
            pooled[self.test] = sums
            found.put(FIXED_TEST, FINETUNED, name, self._predicted(pooled, self.test), abouts)

    def _model(
        self,
        name: str,
        network: Any,
        made: Floats,
        train: Ints,
        validation: Ints,
        wanted: Ints,
        settings: FinetuneSettings,
    ) -> tuple[Floats, dict[str, Any]]:
        """Probabilities of the rows `wanted` by one fine-tuned model, and its choices; kept in a file."""
        rows = [train.tolist(), validation.tolist(), wanted.tolist()]
        items = [(item.name, item.label, item.subject) for item in self.request.items]
        text = json.dumps([self._key(name), asdict(settings), rows, items])
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        file = self.request.out / f"finetuned_{name}.json"
        if file.is_file():
            before = json.loads(file.read_text())
            if before["key"] == key:
                return np.array(before["probabilities"]), before["about"]
        files = [prepared_file(self.request.out, item) for item in self.request.items]
        shapes = [stored_shape(one)[1:] for one in files]
        images = Images(
            files=files,
            labels=self.labels,
            crop=crop_size(shapes, self.network.strides[-1], self.network.patch_size),
            window=self.network.patch_size,
        )
        model, about = finetune(
            network, images, made, train, validation, settings=settings, device=self.request.device,
            progress=partial(self._status, name),
        )  # fmt: skip
        probabilities = predict(model, images, wanted, device=self.request.device)
        self.screen.say(
            f"{name}: epoch {about['epoch']} at learning rate {about['lr']:g}, validation loss "
            f"{about['validation_loss']:.3f}"
        )
        with whole_file(file) as temporary:
            temporary.write_text(json.dumps({"key": key, "about": about, "probabilities": probabilities.tolist()}))
        return probabilities, about

    def _status(self, name: str, text: str) -> None:
        self.screen.status(f"{name}: {text}")

    def _predicted(self, pooled: Floats, rows: Ints) -> Predicted:
        return Predicted(probabilities=pooled[rows], labels=self.labels[rows], subjects=self._subjects(rows))

    def _subjects(self, rows: Ints) -> list[str]:
        return [self.subjects[row] for row in rows]

    def _names(self, rows: Ints) -> list[str]:
        return [self.request.items[row].name for row in rows]

    def _key(self, *more: str) -> str:
        """Changes with the weights file and what is taken from it."""
        request = self.request
        about = request.weights.stat()
        text = json.dumps([str(request.weights), about.st_size, about.st_mtime_ns, request.which, request.seed, *more])
        return hashlib.sha256(text.encode()).hexdigest()[:16]
