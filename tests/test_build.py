"""The package builds with a C compiler and without one; what is left out then is the C kernel and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = f"vfl/paillier/_ifma{EXTENSION_SUFFIXES[0]}"
COMPILER = next(filter(shutil.which, ("cc", "gcc", "clang")), None)
NOT_BUILT = "the C kernel is not built"

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler")
pytestmark = pytest.mark.slow


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """What git has of the package."""
    copy = tmp_path / "source"
    copy.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy / name)
    for name in ("vfl", "psi", "parties"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("_ifma*", "__pycache__"))
    return copy


@pytest.fixture
def quick(source: Path) -> Path:
    """The same with a C file that takes no time to compile."""
    (source / "vfl/paillier/ifma.c").write_text("int nothing(void) { return 0; }\n")
    return source


@pytest.fixture
def without_compiler(tmp_path: Path) -> dict[str, str]:
    """An environment in which no program can be found."""
    (tmp_path / "empty").mkdir()
    return {"PATH": str(tmp_path / "empty")}


def build(source: Path, kind: str, env: dict[str, str]) -> Path:
    """Call one of setuptools' hooks, as pip does, without any network; returns what it built."""
    out = source.parent / f"{kind}-{len(os.listdir(source.parent))}"
    out.mkdir()
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(out)!r})"
    call([sys.executable, "-c", code], source, env)
    (built,) = out.iterdir()
    return built


def call(arguments: Sequence[object], cwd: Path, env: dict[str, str]) -> str:
    kept = {name: value for name, value in os.environ.items() if name not in ("CC", "PYTHONPATH", "VFL_KERNEL")}
    arguments = [str(argument) for argument in arguments]
    done = subprocess.run(arguments, cwd=cwd, env=kept | env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def obstacle_in(folder: Path) -> str:
    """Say why the package that lies in a folder can't use the C kernel; its encryption works in any case."""
    code = (
        "import vfl.paillier as p, vfl.paillier.ifma_kernel as k\n"
        f"assert p.__file__.startswith({str(folder)!r}), p.__file__\n"
        "key = p.generate_keypair(512, insecure_test_mode=True)\n"
        "assert p.decrypt(key, p.encrypt(key.public, [3, 4])) == [3, 4]\n"
        "assert p.kernel_name() == ('gmpy2' if k.why_not_ifma() else 'ifma')\n"
        "print(k.why_not_ifma())\n"
    )
    return call([sys.executable, "-c", code], folder, {"PYTHONPATH": str(folder)}).strip()


def unpacked(wheel: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(wheel.parent / "unpacked")  # noqa: S202 - our own
    return wheel.parent / "unpacked"


@needs_compiler
def test_with_a_compiler_the_wheel_has_the_library(source: Path) -> None:
    folder = unpacked(build(source, "wheel", {}))
    assert (folder / LIBRARY).is_file()
    assert not list(folder.rglob("*.c"))
    assert NOT_BUILT not in obstacle_in(folder)
    assert not (source / LIBRARY).exists()


@needs_compiler
def test_any_compiler_will_do(quick: Path, tmp_path: Path) -> None:
    """Where the one that Python was built with has another name."""
    names = tmp_path / "names"
    names.mkdir()
    for tool in ("as", "ld"):
        (names / tool).symlink_to(str(shutil.which(tool)))
    (names / "cc").symlink_to(str(shutil.which(COMPILER or "cc")))
    settings = "import sysconfig; sysconfig.get_config_vars().update(CC='gcc-0.9', LDSHARED='gcc-0.9 -shared')"
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(settings)
    wheel = build(quick, "wheel", {"PATH": str(names), "PYTHONPATH": str(site)})
    assert LIBRARY in zipfile.ZipFile(wheel).namelist()


def test_where_compiling_fails_the_rest_is_installed(source: Path) -> None:
    folder = unpacked(build(source, "wheel", {"CC": "/bin/false"}))
    assert not (folder / LIBRARY).exists()
    assert obstacle_in(folder) == NOT_BUILT


def test_without_a_compiler_the_rest_is_installed(source: Path, without_compiler: dict[str, str]) -> None:
    folder = unpacked(build(source, "wheel", without_compiler))
    assert not (folder / LIBRARY).exists()
    assert obstacle_in(folder) == NOT_BUILT


@needs_compiler
def test_no_older_library_stays(quick: Path) -> None:
    """Neither beside the source nor in what an earlier build left, where the new source does not compile."""
    in_place = [sys.executable, "setup.py", "build_ext", "--inplace"]
    for attempt in (lambda: call(in_place, quick, {}), lambda: build(quick, "editable", {})):
        (quick / LIBRARY).unlink(missing_ok=True)
        attempt()
        assert (quick / LIBRARY).is_file()
    first = build(quick, "wheel", {})
    (quick / "vfl/paillier/ifma.c").write_text("#error\n")
    call(in_place, quick, {})
    assert not (quick / LIBRARY).exists()
    assert obstacle_in(quick) == NOT_BUILT
    second = build(quick, "wheel", {})
    assert [LIBRARY in zipfile.ZipFile(wheel).namelist() for wheel in (first, second)] == [True, False]


def test_the_source_distribution_has_the_c_file(source: Path, without_compiler: dict[str, str]) -> None:
    with tarfile.open(build(source, "sdist", without_compiler)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"setup.py", "vfl/paillier/ifma.c", "vfl/paillier/ifma_kernel.py", "vfl/py.typed"} <= names


@needs_compiler
def test_the_c_file_stands_alone_and_warns_of_nothing(source: Path) -> None:
    """It needs no header of Python's, and tells another processor that there is nothing for it."""
    strict = [COMPILER, "-std=gnu11", "-Wall", "-Wextra", "-Wshadow", "-Werror", "-fPIC", "-shared", "-o", LIBRARY]
    call([*strict, "-O0", "vfl/paillier/ifma.c"], source, {})
    assert NOT_BUILT not in obstacle_in(source)
    text = (source / "vfl/paillier/ifma.c").read_text()
    assert "Python.h" not in text and "#if defined(__x86_64__)" in text
    (source / "elsewhere.c").write_text(text.replace("#if defined(__x86_64__)", "#if 0"))
    call([*strict, "elsewhere.c"], source, {})
    assert obstacle_in(source) == "this processor has no AVX-512 IFMA"
