"""`comparison.json`: the question a folder belongs to, and what was said before each call."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from nnssl.atomic import whole_file
from nnssl.errors import StateError, UsageError
from nnssl.evaluate.compare.longer import Longer
from nnssl.evaluate.compare.plan import Contender, Request, Target

PLAN = "comparison.json"


class Notes:
    """What a comparison must remember from call to call.

    Attributes:
        longer: {target: its longer schedule}, once settled.
    """

    def __init__(self, request: Request, targets: Sequence[Target], arms: Mapping[str, Contender]) -> None:
        """Read the folder's notes and refuse another question; targets, checkpoints, labels and draws may be added.

        Raises:
            UsageError: plan, checkpoint or settings are others than before.
            StateError: the file cannot be read.
        """
        self._file = request.out / PLAN
        content: dict[str, Any] = {}
        if self._file.is_file():
            try:
                content = json.loads(self._file.read_text())
            except ValueError as error:
                raise StateError(f"{self._file} is not readable ({error}). Restore it, or give another -o.") from error
        mine = {
            "plans": {target.dataset: target.plans_name for target in targets},
            "checkpoints": {arm.name: arm.digest for arm in arms.values() if arm.weights is not None},
            "configuration": {"name": request.configuration},
            "settings": {key: str(value) for key, value in request.settings.items() if key != "threads"},
        }
        before = content.get("question", mine)
        for part, values in mine.items():
            _refuse_change(part, before[part], values, request)
        self._content = {
            "question": {part: {**before[part], **values} for part, values in mine.items()},
            "checkpoint files": {
                **content.get("checkpoint files", {}),
                **{arm.name: str(arm.path) for arm in arms.values() if arm.weights is not None},
            },
            "longer": content.get("longer", {}),
            "said": content.get("said", []),
        }
        self.longer = {name: Longer(**found) for name, found in self._content["longer"].items()}

    def settle(self, dataset: str, longer: Longer) -> None:
        """Remember a target's longer schedule, so that every call uses the same."""
        self.longer[dataset] = longer
        self._content["longer"][dataset] = longer.to_json()
        self._write()

    def say(self, sentences: Sequence[str]) -> None:
        """Write down what is settled now, with the time; what was said before stays."""
        if not self._content["said"] or self._content["said"][-1]["sentences"] != list(sentences):
            self._content["said"].append({"when": time.strftime("%Y-%m-%d %H:%M:%S"), "sentences": list(sentences)})
        self._write()

    @property
    def said(self) -> list[dict[str, Any]]:
        """[{"when": local time, "sentences"}], the first before the first training."""
        found: list[dict[str, Any]] = self._content["said"]
        return found

    def _write(self) -> None:
        with whole_file(self._file) as temporary:
            temporary.write_text(json.dumps(self._content, indent=2) + "\n")


def _refuse_change(part: str, before: Mapping[str, str], now: Mapping[str, str], request: Request) -> None:
    must_agree = set(before) | set(now) if part == "settings" else set(before) & set(now)
    if part == "configuration":
        must_agree = {"name"}
    for key in sorted(must_agree):
        if before.get(key) != now.get(key):
            raise UsageError(
                f"{request.out} holds a comparison of other targets, checkpoints or settings: {part} differ in {key} "
                f"({PLAN}). Give the same ones to go on with it, or another -o."
            )
