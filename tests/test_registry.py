"""Names to trainers: close matches, both places, and a broken plugin that hides nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnssl.errors import PluginError
from nnssl.registry import VARIABLE, find_trainer, trainers

GOOD = """
from nnssl.engine.recipe import Recipe
PAPER = "A paper"
class SSLTrainer: pass
class MyTrainer(SSLTrainer):
    method = object
    recipe = Recipe()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "broken.py").write_text("class Half(")
    (tmp_path / "raises.py").write_text("raise RuntimeError('sad')\nclass SadTrainer(SSLTrainer): pass")
    (tmp_path / "empty.py").write_text("class SSLTrainer: pass\nclass EmptyTrainer(SSLTrainer): pass")
    monkeypatch.setenv(VARIABLE, os.pathsep.join([str(tmp_path), str(tmp_path / "absent")]))
    return tmp_path


def test_installed_and_external_trainers_are_listed_with_their_papers(folder: Path) -> None:
    found = {trainer.name: trainer for trainer in trainers()}
    assert {"DeSDTrainer", "MAETrainer", "MyTrainer"} <= found.keys()
    assert found["MyTrainer"].paper == "A paper"
    assert found["DeSDTrainer"].paper and found["MAETrainer"].paper
    assert "SyntaxError" in found["broken"].problem
    assert "no folder" in found["absent"].problem


def test_only_the_chosen_file_is_imported(folder: Path) -> None:
    assert find_trainer("MyTrainer").__name__ == "MyTrainer"
    assert find_trainer("MyTrainer") is find_trainer("MyTrainer")


def test_broken_ones_say_what_is_wrong_and_where(folder: Path) -> None:
    with pytest.raises(PluginError, match=r"SadTrainer in .*raises\.py cannot be imported \(RuntimeError: sad\)"):
        find_trainer("SadTrainer")
    with pytest.raises(PluginError, match=r"must be a subclass of nnssl\.trainer\.SSLTrainer"):
        find_trainer("EmptyTrainer")
    with pytest.raises(PluginError, match="cannot be used: SyntaxError"):
        find_trainer("broken")


def test_unknown_name_gets_close_matches_the_list_and_both_places(folder: Path) -> None:
    with pytest.raises(PluginError, match=r"Did you mean MyTrainer.*Trainers: .*DeSDTrainer.*entry points.*") as caught:
        find_trainer("MyTrainr")
    assert str(folder) in str(caught.value)


def test_package_may_use_relative_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "my_ssl_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "numbers_of_mine.py").write_text("from nnssl.engine.recipe import Recipe\nRECIPE = Recipe(epochs=3)")
    (package / "trainer.py").write_text(
        "from .numbers_of_mine import RECIPE\nclass SSLTrainer: pass\n"
        "class PackagedTrainer(SSLTrainer):\n    method = object\n    recipe = RECIPE"
    )
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert find_trainer("PackagedTrainer").recipe.epochs == 3


def test_listing_imports_neither_torch_nor_nnunet() -> None:
    code = (
        "import sys; from nnssl.cli.trainers import main; main([]); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'nnunetv2')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "DeSDTrainer" in done.stdout and "MAETrainer" in done.stdout


@pytest.mark.parametrize("command", ["pretrain", "trainers", "ext_path"])
def test_help_answers_within_a_second(command: str) -> None:
    code = f"import sys; from nnssl.cli.{command} import main; sys.exit(main(['-h']))"
    seconds = []
    for _ in range(3):  # the fastest of three: other work on the machine is not ours
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        seconds.append(time.perf_counter() - started)
        assert done.returncode == 0 and "examples:" in done.stdout
    assert min(seconds) < 1.0


def test_misspelt_flags_are_refused() -> None:
    words = ["745", "3d_fullres", "-tr", "X", "--continu"]
    code = f"import sys; from nnssl.cli.pretrain import main; sys.exit(main({words}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "--continu" in done.stderr
