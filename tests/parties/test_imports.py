"""The house rules that no linter knows: who may import whom, no pickle, no assert as a guard."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAY_IMPORT = {"parties": {"parties"}, "psi": {"psi", "parties"}, "vfl": {"vfl", "psi", "parties"}}
PACKAGES = set(MAY_IMPORT)
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SCENARIOS = sorted((ROOT / "scenarios").rglob("*.py"))


def imported(source):
    """Modules that a file imports, at its top or anywhere inside; relative imports as ``.``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield "."
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(path, source):
    """Imports that point the wrong way: scenarios -> vfl -> psi -> parties."""
    package = path.parts[0]
    allowed = MAY_IMPORT.get(package, PACKAGES)
    ours = [
        name for name in imported(source) if name.split(".")[0] in PACKAGES | {"", "tests", "scenarios", "benchmarks"}
    ]
    wrong = [name for name in ours if name.split(".")[0] not in allowed]
    if path.parts[:2] == ("vfl", "paillier"):
        wrong += [name for name in ours if not name.startswith(("vfl.paillier", "parties.errors"))]
    return wrong


def unsafe(source):
    """What library code may not hold: ``assert`` (gone under -O) and readers that run what they read."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assert):
            yield f"assert in line {node.lineno}"
    refused = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
    yield from (name for name in imported(source) if name.split(".")[0] in refused)


@pytest.mark.parametrize("path", SOURCES + SCENARIOS, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    assert violations(path.relative_to(ROOT), path.read_text()) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_library_code_holds_no_assert_and_no_pickle(path):
    assert list(unsafe(path.read_text())) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("parties/x.py", "import vfl.job"),
        ("parties/x.py", "def f():\n    from psi import align"),
        ("psi/x.py", "from vfl.glm import Fit"),
        ("parties/x.py", "from . import wire"),
        ("vfl/x.py", "import tests.glm"),
        ("vfl/paillier/x.py", "from parties.wire import Masked"),
        ("vfl/paillier/x.py", "from vfl.job import Job"),
    ],
)
def test_a_wrong_direction_is_seen(path, source):
    assert violations(Path(path), source)


@pytest.mark.parametrize("source", ["import pickle", "def f(x):\n    assert x > 0", "from pickle import loads"])
def test_unsafe_code_is_seen(source):
    assert list(unsafe(source))


def test_there_is_something_to_look_at():
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == PACKAGES
