"""Every equation that a plugin's README maps is tagged in its method, and the other way round."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
FOLDERS = sorted(path.parent.name for path in PLUGINS.glob("nnssl_*/method.py"))


@pytest.mark.parametrize("plugin", FOLDERS)
def test_readme_and_method_name_the_same_equations(plugin: str) -> None:
    method = set(re.findall(r"Eq\. \d+", (PLUGINS / plugin / "method.py").read_text()))
    readme = set(re.findall(r"`(Eq\. \d+)`", (PLUGINS / plugin / "README.md").read_text()))
    assert method
    assert method == readme


@pytest.mark.parametrize("plugin", FOLDERS)
def test_importing_a_plugin_imports_no_torch(plugin: str) -> None:
    code = f"import sys, {plugin}; assert {plugin}.PAPER and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
