"""What an installed wheel holds: the framework, the plugins and their READMEs, and nothing at top level besides."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import nnssl.compat
from nnssl.errors import UsageError
from tests.cli_reference import ROOT, commands

PLUGINS = {path.parent.name for path in ROOT.glob("plugins/nnssl_*/__init__.py")}
PACKAGES = {"nnssl", *PLUGINS}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from a copy, so that no build folder is left in the checkout; without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "nnssl_demo")
    shutil.copytree(ROOT, source, ignore=ignored)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder)]
    done = subprocess.run([*build, str(source)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return zipfile.ZipFile(next(folder.glob("nnssl_plugins-*.whl")))


def test_the_wheel_has_the_packages_and_nothing_else_at_top_level(wheel: zipfile.ZipFile) -> None:
    top = {name.split("/")[0] for name in wheel.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == PACKAGES


def test_every_module_of_the_checkout_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    for root in (ROOT, ROOT / "plugins"):
        for package in PACKAGES:
            for path in (root / package).rglob("*.py"):
                assert path.relative_to(root).as_posix() in wheel.namelist()


def test_plugins_bring_their_readme_and_types_are_marked(wheel: zipfile.ZipFile) -> None:
    assert len(PLUGINS) >= 3
    assert {"nnssl/py.typed", *(f"{plugin}/README.md" for plugin in PLUGINS)} <= set(wheel.namelist())


def test_the_wheel_offers_every_command_and_trainer(wheel: zipfile.ZipFile) -> None:
    entry_points = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    text = wheel.read(entry_points).decode()
    for command, target in commands().items():
        assert f"{command} = {target}" in text
    assert "[nnssl.trainers]" in text
    assert "DeSDTrainer = nnssl_desd:DeSDTrainer" in text


def test_the_distribution_is_not_called_like_the_other_package(wheel: zipfile.ZipFile) -> None:
    metadata = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    about = Parser().parsestr(wheel.read(metadata).decode())
    assert about["Name"] == "nnssl-plugins"
    assert about["License-Expression"] == "Apache-2.0"


def test_the_other_nnssl_beside_ours_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "nnssl-0.2.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: nnssl\nVersion: 0.2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError, match=r"nnssl 0\.2 .* of MIC-DKFZ.*pip uninstall nnssl"):
        nnssl.compat.refuse_other_nnssl()


def test_ours_alone_is_fine() -> None:
    nnssl.compat.refuse_other_nnssl()
