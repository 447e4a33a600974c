"""No line of the package unpickles, evaluates, unpacks or hands text to a shell; exceptions are listed with the reason.

The walk is over the syntax tree, so that comments and texts do not count. An exception that is no longer there fails
too: the list says what is, not what once was.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = {  # modules that nobody imports without a reason
    "pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "tarfile", "zipfile",
    "subprocess", "pydoc", "importlib", "runpy", "code", "ctypes", "socket", "http", "urllib", "requests", "ftplib",
    "xmlrpc", "telnetlib",
}  # fmt: skip
CALLS = {  # names of functions, by their last word where an object comes before it
    "eval", "exec", "compile", "__import__", "import_module", "locate", "system", "popen", "extractall", "extract",
    "unpack_archive", "mktemp", "execv", "execve", "execvp", "spawnl", "spawnv", "startfile",
}  # fmt: skip
LOADS = {"np.load", "numpy.load", "torch.load"}
ALLOWED = {  # (file, what): why it does no harm
    ("nnssl/architecture.py", "pydoc"): "resolves names below torch.nn and dynamic_network_architectures only",
    ("nnssl/architecture.py", "locate()"): "the same",
    ("nnssl/compat.py", "importlib"): "importlib.metadata: versions of what is installed",
    ("nnssl/registry.py", "importlib"): "plugins, from entry points and the user's own nnssl_extTrainer folder",
    ("nnssl/registry.py", "import_module()"): "the same",
    ("nnssl/encoders/other.py", "importlib"): "one module of our own, by a table",
    ("nnssl/encoders/other.py", "import_module()"): "the same",
    ("nnssl/engine/distributed.py", "socket"): "asks the system for a free port on localhost",
    ("nnssl/engine/memory.py", "ctypes"): "one switch of the C library that this process already has",
    ("nnssl/engine/checkpoint.py", "pickle"): "the name of the error that torch raises for code in a file",
    ("nnssl/archive.py", "zipfile"): "checks checksums and sizes; unpacks nothing",
    ("nnssl/export/provenance.py", "importlib"): "importlib.metadata: versions of what is installed",
    ("nnssl/testing_source.py", "importlib"): "importlib.metadata: which distribution a module is of",
    ("nnssl/data/sidecar.py", "zipfile"): "the name of the error for a damaged .npz",
    ("nnssl/evaluate/compare/job.py", "zipfile"): "asks whether a file is whole; unpacks nothing",
    ("nnssl/evaluate/commands.py", "subprocess"): "our own and nnU-Net's commands, as lists of words, without a shell",
    ("nnssl/planning/suspects.py", "subprocess"): "this module again, on one case, as a list of words, without a shell",
    ("nnssl/evaluate/finetune/trainer.py", "torch.load"): "what nnU-Net wrote in this very process a moment before",
}


def sources() -> list[Path]:
    """Every file of the framework and the plugins."""
    found = sorted([*ROOT.glob("nnssl/**/*.py"), *ROOT.glob("plugins/**/*.py")])
    assert len(found) > 200
    return found


def dangers(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(what, line) of everything in a file that could run what a file or a text says."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from ((name.split(".")[0], node.lineno) for name in names if name.split(".")[0] in MODULES)
        elif isinstance(node, ast.Call):
            yield from ((what, node.lineno) for what in _of_call(node))


def _of_call(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    last = name.rsplit(".", 1)[-1]
    keywords = {each.arg: each.value for each in node.keywords}
    if last in CALLS and name not in ("torch.compile", "re.compile") and not _is_method(node, last):
        yield f"{last}()"
    if "shell" in keywords and not _is(keywords["shell"], False):
        yield "shell="
    if name == "torch.load" and not _is(keywords.get("weights_only"), True):
        yield "torch.load"
    if "allow_pickle" in keywords and not _is(keywords["allow_pickle"], False):
        yield "allow_pickle="
    if last == "load" and name not in LOADS and name.split(".")[0] in MODULES:
        yield name


def _is_method(node: ast.Call, last: str) -> bool:
    """`module.compile()` of torch and `network.eval()` are no builtins."""
    return last in ("eval", "compile") and isinstance(node.func, ast.Attribute)


def _is(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def found() -> dict[tuple[str, str], list[int]]:
    """{(file, what): lines} of the whole package."""
    lines: dict[tuple[str, str], list[int]] = {}
    for path in sources():
        for what, line in dangers(ast.parse(path.read_text())):
            lines.setdefault((path.relative_to(ROOT).as_posix(), what), []).append(line)
    return lines


def test_nothing_unpickles_evaluates_unpacks_or_calls_a_shell_without_a_reason() -> None:
    assert {key: lines for key, lines in found().items() if key not in ALLOWED} == {}


def test_every_exception_is_still_there() -> None:
    assert sorted(ALLOWED.keys() - found().keys()) == []


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("import pickle", "pickle"),
        ("from joblib import load", "joblib"),
        ("torch.load(path)", "torch.load"),
        ("torch.load(path, weights_only=safe)", "torch.load"),
        ("np.load(path, allow_pickle=True)", "allow_pickle="),
        ("eval(text)", "eval()"),
        ("builtins.exec(text)", "exec()"),
        ("subprocess.run(words, shell=True)", "shell="),
        ("os.system(text)", "system()"),
        ("archive.extractall(folder)", "extractall()"),
        ("pydoc.locate(name)", "locate()"),
    ],
)
def test_the_walk_sees_what_it_is_there_for(line: str, what: str) -> None:
    assert [each for each, _ in dangers(ast.parse(line))] == [what]


@pytest.mark.parametrize(
    "line", ["network.eval()", "torch.load(path, weights_only=True)", "np.load(path)", "re.compile(text)"]
)
def test_the_walk_lets_harmless_lines_pass(line: str) -> None:
    assert not list(dangers(ast.parse(line)))
