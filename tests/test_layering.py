"""Imports point down, only the named doors import nnU-Net, and nothing imports a plugin."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NNUNET_DOORS = ("nnssl/nnunet.py", "nnssl/trainer.py", "nnssl/export/", "nnssl/evaluate/finetun", "nnssl/nnunet_ext/")
PLUGIN_MAY = (
    "nnssl.method", "nnssl.needs", "nnssl.blocks", "nnssl.encoders", "nnssl.views.spec", "nnssl.views.intensity",
    "nnssl.views.published", "nnssl.views.parent_crop", "nnssl.errors",
)  # fmt: skip
TRAINER_FILE_MAY = (*PLUGIN_MAY, "nnssl.engine.recipe", "nnssl.trainer")
LOW = ("nnssl/planning/", "nnssl/views/", "nnssl/blocks/", "nnssl/encoders/", "nnssl/data/", "nnssl/engine/")
HIGH = (
    "nnssl.cli",
    "nnssl.trainer",
    "nnssl.launch",
    "nnssl.demo",
    "nnssl.evaluate",
    "nnssl.ingest",
    "nnssl.match",
    "nnssl.report",
    "nnssl.testing",
)


def imports() -> Iterator[tuple[str, str]]:
    """(file, imported module) of the framework and the plugins; `from a import b` counts as a.b and as a."""
    for path in sorted([*ROOT.glob("nnssl/**/*.py"), *ROOT.glob("plugins/**/*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            yield from ((path.relative_to(ROOT).as_posix(), name) for name in names)


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def test_only_the_doors_import_nnunet() -> None:
    assert [row for row in imports() if within(row[1], ("nnunetv2",)) and not row[0].startswith(NNUNET_DOORS)] == []


def test_nothing_imports_a_plugin_but_the_plugin() -> None:
    for file, name in imports():
        if name.startswith("nnssl_"):
            assert file.startswith(f"plugins/{name.split('.')[0]}/"), (file, name)


def test_plugins_use_nothing_a_strangers_could_not() -> None:
    for file, name in imports():
        if file.startswith("plugins/") and within(name, ("nnssl",)):
            allowed = TRAINER_FILE_MAY if file.endswith("/trainer.py") else PLUGIN_MAY
            assert within(name, allowed), (file, name)


def test_imports_point_down() -> None:
    assert [row for row in imports() if row[0].startswith(LOW) and within(row[1], HIGH)] == []


def test_the_contract_imports_torch_only() -> None:
    allowed = (
        "torch",
        "nnssl.errors",
        "nnssl.needs",
        "nnssl.views.spec",
        "__future__",
        "abc",
        "collections",
        "dataclasses",
        "math",
        "typing",
    )
    assert [row for row in imports() if row[0] == "nnssl/method.py" and not within(row[1], allowed)] == []


def test_ingest_stands_on_planning_alone() -> None:
    allowed = ("nnssl.ingest", "nnssl.planning", "nnssl.errors", "nnssl.atomic", "nnssl.paths")
    for file, name in imports():
        if file.startswith("nnssl/ingest/") and within(name, ("nnssl", "torch")):
            assert within(name, allowed), (file, name)
