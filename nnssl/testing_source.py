"""Promises that a method's source shows: what it must not call. Read with `ast`, nothing is run."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

from nnssl.errors import PluginError
from nnssl.method import Method

# what is called -> why not, and what to do instead
FORBIDDEN = {
    ".backward": "the engine runs backward; return the loss",
    ".cuda": "the engine places modules and batches; make tensors with new_zeros or zeros_like",
    ".cpu": "it makes the host wait for the device; leave tensors where they are",
    ".item": "it makes the host wait for the device; leave scalars as tensors",
    ".numpy": "it makes the host wait for the device; leave tensors where they are",
    ".to(device)": "the engine places modules and batches; make tensors with new_zeros or zeros_like",
    "open": "methods read no files; ask for a sidecar or a table (nnssl.needs)",
    "print": "methods do not speak; return numbers in Losses.parts",
    "torch.load": "methods read no files; ask for a sidecar or a table (nnssl.needs)",
    "torch.save": "methods write no files; the engine saves",
    "torch.manual_seed": "randomness is keyed: use step.uniform, step.normal or step.permutation",
    "torch.distributed": "methods do not know ranks; use step.gather or nnssl.blocks.collectives",
    "global": "methods keep no module globals; use a registered buffer or a Deferred module",
}


def check_source(method: type[Method]) -> None:
    """Look through the module of `method` and the modules of its own package that it imports.

    Raises:
        PluginError: naming file, line and what to do instead.
    """
    for path in _files(method):
        for name, line in sorted(set(_findings(ast.parse(path.read_text(encoding="utf-8")))), key=lambda row: row[1]):
            raise PluginError(
                f"{method.__name__} breaks the method contract: {path.name}:{line} uses {name}; {FORBIDDEN[name]}."
            )


def _files(method: type[Method]) -> Iterator[Path]:
    """The method's source file and those of its package that it reaches by imports, trainer files left out."""
    package = method.__module__.split(".")[0]
    waiting, seen = [method.__module__], set[str]()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        path = _file(module)
        if path is None:
            continue
        yield path
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                waiting += [name for name in (node.module,) if name.split(".")[0] == package and "trainer" not in name]


def _file(module: str) -> Path | None:
    loaded = getattr(sys.modules.get(module), "__file__", None)
    if loaded is None and (spec := importlib.util.find_spec(module)) is not None:
        loaded = spec.origin
    return Path(loaded) if loaded is not None and loaded.endswith(".py") else None


def _findings(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            yield "global", node.lineno
        elif isinstance(node, ast.Import | ast.ImportFrom | ast.Attribute) and "torch.distributed" in _named(node):
            yield "torch.distributed", node.lineno
        elif isinstance(node, ast.Call):
            yield from _calls(node)


def _named(node: ast.Import | ast.ImportFrom | ast.Attribute) -> list[str]:
    """The dotted names that an import brings in or an attribute spells."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [ast.unparse(node)]


def _calls(node: ast.Call) -> Iterator[tuple[str, int]]:
    if isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN:
        yield node.func.id, node.lineno
    if isinstance(node.func, ast.Attribute):
        whole, last = ast.unparse(node.func), f".{node.func.attr}"
        if whole in FORBIDDEN:
            yield whole, node.lineno
        elif last in FORBIDDEN:
            yield last, node.lineno
        elif last == ".to" and _names_a_device(node):
            yield ".to(device)", node.lineno


def _names_a_device(call: ast.Call) -> bool:
    """`.to("cuda")`, `.to(device)`, `.to(self.device)`, `.to(device=...)`, `.to(x.device)`."""
    if any(keyword.arg == "device" for keyword in call.keywords):
        return True
    return any(
        (isinstance(argument, ast.Constant) and isinstance(argument.value, str))
        or ast.unparse(argument).split(".")[-1] == "device"
        for argument in call.args
    )
