"""Run identity: what a folder holds, who may write to it, and whether a run may be continued there.

A run is known by its `recipe.json`. A folder that holds a run is never started over; it is continued (`--c`) with the
very recipe it has, or another `--name` starts beside it. One process at a time writes to a folder.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch

from nnssl.atomic import whole_file
from nnssl.engine.checkpoint import LATEST, PREVIOUS
from nnssl.engine.precision import settled
from nnssl.engine.recipe import Recipe, differences, leaves, resolve
from nnssl.errors import RecipeError, StateError, UsageError

RECIPE = "recipe.json"
PLANS = "plans.json"
LOCK = ".lock"
FINAL = "checkpoint_final.pth"
NEWEST = "pretrained_latest.pth"
VARIABLE = "NNSSL_RECIPE"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run was asked for, besides its recipe. Plain values: sent to spawned ranks.

    Attributes:
        preset: one of the trainer's presets; None: default, or what the continued run has.
        overrides: {dotted key: text or value} over the preset.
        continue_run: go on with the run in the folder.
        weights: start from the networks in this file.
        datasets: data sets besides the plan's own.
        mix: how often each data set is drawn, the plan's own first; empty: by number of cases.
        workers: processes or threads that make views; None: the loader's choice.
        deterministic: ask the device for repeatable sums.
    """

    preset: str | None = None
    overrides: Mapping[str, object] = field(default_factory=dict)
    continue_run: bool = False
    weights: str | None = None
    datasets: Sequence[str] = ()
    mix: Sequence[float] = ()
    workers: int | None = None
    deterministic: bool = False

    @staticmethod
    def from_environment(*, continue_run: bool) -> RunOptions:
        """Options of a run started by stock nnU-Net: the recipe file in NNSSL_RECIPE, if there is one.

        The file is a run's recipe.json, or any part of one.

        Raises:
            UsageError: the file is missing or is no JSON object.
        """
        file = os.environ.get(VARIABLE)
        if not file:
            return RunOptions(continue_run=continue_run)
        try:
            content = json.loads(Path(file).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{VARIABLE}={file} must be a JSON file with recipe keys; it cannot be read ({error})."
            ) from None
        if not isinstance(content, dict):
            raise UsageError(f"{VARIABLE}={file} must hold a JSON object with recipe keys.")
        return RunOptions(
            preset=content.get("preset"), overrides=content.get("recipe", content), continue_run=continue_run
        )


class RunFolder:
    """The folder of one run, held by this process while it lives.

    Attributes:
        path: the folder.
        stored: recipe.json of the run that is there, or None.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None
        self._held_as = ""
        self._seen = self._signs_of_life()
        file = path / RECIPE
        self.stored: dict[str, Any] | None = None
        if file.is_file():
            self.stored = _json_object(file)
            if not isinstance(self.stored.get("recipe"), dict):
                raise StateError(f"{file} holds no run's recipe. Restore it, or start under another --name.")

    def hold(self) -> None:
        """Lock the folder and clear away what killed processes left half-written.

        Raises:
            UsageError: another process holds it, or held it since this one looked at what is in it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        file = (self.path / LOCK).open("a+", encoding="utf-8")
        if not lock(file):
            file.seek(0)
            holder = file.read().partition(", token ")[0].strip()
            file.close()
            raise UsageError(
                f"Another process ({holder or 'unknown'}) is training in {self.path}. Wait for it or stop "
                f"it; or start beside it with another --name."
            )
        if self._signs_of_life() != self._seen:
            file.close()
            raise UsageError(
                f"Another process trained in {self.path} while this one was starting. Look at what it did; then go on "
                f"with --c, or start beside it with another --name. Nothing was changed."
            )
        machine = os.uname().nodename if hasattr(os, "uname") else "this machine"
        self._held_as = f"process {os.getpid()} on {machine}, token {secrets.token_hex(8)}"
        file.truncate(0)
        file.write(self._held_as)
        file.flush()
        self._lock = file  # the lock lasts as long as the file is open, and no longer than the process
        for leftover in self.path.glob(".*.partial"):
            leftover.unlink(missing_ok=True)

    def check_held(self) -> None:
        """Look whether the folder is still ours: not every shared disk knows locks, and a lock file can be deleted.

        Raises:
            StateError: another process has taken the folder; nothing more is written by this one.
        """
        try:
            found = (self.path / LOCK).read_text(encoding="utf-8")
        except FileNotFoundError:
            found = ""
        except PermissionError:  # Windows lets nobody read what is locked, and there the lock is real
            return
        if found != self._held_as:
            who = found.partition(", token ")[0] or "somebody who emptied or deleted its lock file"
            raise StateError(
                f"{self.path} was taken over by {who} while this process was training there. This one stops without "
                f"saving; what the other saves stays. Let one process train in a folder; start others with --name."
            )

    def release(self) -> None:
        """Give the folder free."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _signs_of_life(self) -> list[tuple[str, int, int]]:
        """Name, time and inode of the files by which a run is known."""
        known = [self.path / name for name in (RECIPE, LATEST, PREVIOUS, FINAL)]
        return [(file.name, file.stat().st_mtime_ns, file.stat().st_ino) for file in known if file.is_file()]

    def recipe_for(self, trainer: Any, options: RunOptions, device: torch.device) -> Recipe:
        """The recipe of the run to be started or continued, with what `precision=auto` means on `device`.

        Continuing without a preset and without overrides takes the run's own recipe; a key given again must agree,
        but for `epochs` and `save_every_minutes`.

        Raises:
            UsageError: a new run was asked for where one is already.
            RecipeError: the recipe differs from that of the run to be continued; the differing keys are named.
        """
        used = [name for name in (LATEST, PREVIOUS, FINAL) if (self.path / name).exists()]
        if not options.continue_run and used:
            raise UsageError(
                f"{self.path} holds a run already ({', '.join(used)}). Continue it with --c, or start another beside "
                f"it with --name NAME. Nothing was changed."
            )
        if not options.continue_run or self.stored is None:
            return settled(resolve(trainer, options.preset or "default", options.overrides), device)
        known = self.stored["recipe"]
        own = resolve(trainer, self.stored.get("preset") or "default", known)
        if options.preset is None:
            asked = resolve(trainer, self.stored.get("preset") or "default", {**known, **_nested(options.overrides)})
        else:
            same_length = {"epochs": own.epochs, "threads": own.threads}
            asked = resolve(trainer, options.preset, {**same_length, **options.overrides})
        own, asked = settled(own, device), settled(asked, device)
        changed = differences(own.to_json(), asked)
        if changed:
            raise RecipeError(
                f"The run in {self.path} has another recipe: {'; '.join(changed)}. Continue it without these changes "
                f"(only epochs and save_every_minutes may change), or start beside it with --name NAME."
            )
        return asked

    def check_data(self, data: Mapping[str, Any]) -> None:
        """Compare the data sets and their mix with those of the run to be continued.

        Raises:
            RecipeError: they differ.
        """
        if self.stored is not None and self.stored.get("data", data) != dict(data):
            raise RecipeError(
                f"The run in {self.path} was trained on {self.stored['data']}; it cannot be continued on {dict(data)}. "
                f"Give the same data sets and --mix, or start beside it with --name NAME."
            )

    def check_plans(self, plans: Mapping[str, Any]) -> None:
        """Compare the plans with those that the run to be continued began with.

        Raises:
            RecipeError: they differ; the differing keys are named.
        """
        file = self.path / PLANS
        if self.stored is None or not file.is_file():
            return
        before, now = leaves(_json_object(file)), leaves(json.loads(json.dumps(plans)))
        changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        if changed:
            shown = "; ".join(f"{key}: {before.get(key, 'absent')} -> {now.get(key, 'absent')}" for key in changed[:4])
            more = f"; and {len(changed) - 4} more" if len(changed) > 4 else ""
            raise RecipeError(
                f"The run in {self.path} was trained with other plans: {shown}{more}. Restore the plans file (the run "
                f"keeps its own in {file}), or start beside it with --name NAME."
            )

    def write_identity(
        self, *, trainer: str, preset: str, recipe: Recipe, data: Mapping[str, Any], weights: str | None
    ) -> None:
        """Write recipe.json."""
        before = self.stored or {}
        content = {
            "trainer": trainer,
            "preset": before.get("preset", preset),
            "hash": recipe.digest(),
            "data": dict(data),
            "pretrained_weights": before.get("pretrained_weights", weights),
            "recipe": recipe.to_json(),
        }
        self.write_json(RECIPE, content)
        self.stored = content

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file into the folder, whole or not at all."""
        with whole_file(self.path / name) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _json_object(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StateError(f"{file} cannot be read ({error}). Restore it, or start under another --name.") from None
    if not isinstance(content, dict):
        raise StateError(f"{file} holds no JSON object. Restore it, or start under another --name.")
    return content


def _nested(overrides: Mapping[str, object]) -> dict[str, object]:
    """Top-level keys that would replace a whole stored branch ("method") are kept apart key by key."""
    flat: dict[str, object] = {}
    for name, value in overrides.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}.{inner}": v for inner, v in _nested(value).items() if inner != "kind"})
        else:
            flat[name] = value
    return flat


def lock(file: IO[str]) -> bool:
    """Take an exclusive lock that the system drops when the process ends; False where another holds it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # A file system that knows no locks must not stop a run; one that says "taken" must.
        return not isinstance(error, (BlockingIOError, PermissionError))
    return True
