"""Trainer names to classes: installed plugins first, then folders of the user's own.

Plugins announce themselves in the entry-point group `nnssl.trainers`. A folder named in `nnssl_extTrainer` (several
with os.pathsep) may hold single files or packages; they are parsed, not run, and only the chosen one is imported. So a
broken plugin never hides the others, and listing needs neither torch nor nnU-Net.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from nnssl.engine.typed import closest
from nnssl.errors import PluginError, UnknownTrainer

GROUP = "nnssl.trainers"
VARIABLE = "nnssl_extTrainer"


@dataclass(frozen=True, kw_only=True)
class Found:
    """A trainer that can be chosen with `-tr`.

    Attributes:
        name: the class's name.
        where: the file or package it lives in.
        paper: one line, or "" where none is given.
        problem: why it cannot be used, or "".
    """

    name: str
    where: str
    paper: str = ""
    problem: str = ""


def trainers() -> list[Found]:
    """Every trainer there is, installed ones first, each kind sorted by name. Imports no torch."""
    return [_described(point) for point in _points()] + [found for found, _ in _external()]


def find_trainer(name: str) -> type[Any]:
    """The trainer class called `name`.

    Raises:
        PluginError: unknown (with close matches, the full list and both places searched), or broken.
    """
    for point in _points():
        if point.name == name:
            return _checked(_load(point.load, name, point.value), name, point.value)
    for found, path in _external():
        if found.name == name:
            if found.problem:
                raise PluginError(f"{name} in {found.where} cannot be used: {found.problem}")
            module = _load(partial(_import_file, path), name, found.where)
            return _checked(getattr(module, name, None), name, found.where)
    raise UnknownTrainer(unknown_trainer(name))


def unknown_trainer(name: str) -> str:
    """The sentence for a name that is not there."""
    found = trainers()
    known = [trainer.name for trainer in found if not trainer.problem]
    broken = [f"{trainer.where}: {trainer.problem}" for trainer in found if trainer.problem]
    unread = f" Could not be read: {'; '.join(broken)}" if broken else ""
    folders = os.environ.get(VARIABLE, "")
    return (
        f"There is no trainer {name!r}.{closest(name, known)} Trainers: {', '.join(known) or 'none'}. Searched the "
        f"installed plugins (entry points {GROUP}) and the folders in {VARIABLE} ({folders or 'not set'}).{unread}"
    )


def _points() -> list[EntryPoint]:
    return sorted(entry_points(group=GROUP), key=lambda point: point.name)


def _described(point: EntryPoint) -> Found:
    """What a plugin's package says of itself; its `__init__` must be light, with lazy names."""
    package = point.module
    try:
        spec = importlib.util.find_spec(package)
        where = spec.origin if spec and spec.origin else package
        paper = str(getattr(importlib.import_module(package), "PAPER", ""))
    except Exception as error:  # anything may go wrong in a stranger's package; it is shown in the list
        return Found(name=point.name, where=package, problem=f"{type(error).__name__}: {error}")
    return Found(name=point.name, where=where, paper=paper)


def _external() -> Iterator[tuple[Found, Path]]:
    """Trainers in the folders of `nnssl_extTrainer`, read from their syntax trees."""
    for folder in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        root = Path(folder).expanduser()
        if not root.is_dir():
            yield Found(name=root.name, where=str(root), problem=f"{VARIABLE} names it, but it is no folder."), root
            continue
        for path in sorted(root.rglob("*.py")):
            yield from _classes(path)


def _classes(path: Path) -> Iterator[tuple[Found, Path]]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        yield Found(name=path.stem, where=str(path), problem=f"{type(error).__name__}: {error}"), path
        return
    paper = ""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            paper = str(node.value.value) if "PAPER" in names else paper
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and any(_last_name(base).endswith("Trainer") for base in node.bases):
            yield Found(name=node.name, where=str(path), paper=paper), path


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _import_file(path: Path) -> ModuleType:
    """Import one file; as part of its package, where it lies in one, so that its relative imports work."""
    path = path.resolve()
    parts, root = [path.stem], path.parent
    while (root / "__init__.py").is_file():
        parts.insert(0, root.name)
        root = root.parent
    if len(parts) > 1:
        if str(root) not in sys.path:
            sys.path.append(str(root))  # last: a user's file must not hide an installed package
        module = importlib.import_module(".".join(parts))
        if Path(str(module.__file__)).resolve() != path:
            raise ImportError(f"{'.'.join(parts)} is {module.__file__} already; rename the package of {path}")
        return module
    name = f"nnssl_ext_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _load(load: Callable[[], Any], name: str, where: str) -> Any:
    try:
        return load()
    except (Exception, SystemExit) as error:  # a stranger's code; the cause is chained for who needs the traceback
        raise PluginError(
            f"{name} in {where} cannot be imported ({type(error).__name__}: {error}). The other trainers are not "
            f"affected; nnssl_trainers lists them."
        ) from error


def _checked(found: Any, name: str, where: str) -> type[Any]:
    if not isinstance(found, type) or not all(hasattr(found, needed) for needed in ("method", "recipe")):
        raise PluginError(
            f"{name} in {where} is no trainer: it must be a subclass of nnssl.trainer.SSLTrainer with class "
            f"attributes `method` and `recipe`."
        )
    return found
