"""The package builds with a C compiler and without one; what is left out then is the C code and nothing else."""

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
C_FILES = sorted(
    path.relative_to(ROOT).as_posix() for part in ("vfl/paillier", "psi") for path in (ROOT / part).glob("*.c")
)
COMPILER = next(filter(shutil.which, ("cc", "gcc", "clang")), None)
NOT_BUILT = ["the C kernel is not built", "the C code of psi is not built"]
# The point of the id "ann" times the smallest scalar.
MASKED = "d445ce63a123b5b83c71fe6a65efdbe296b128bf54b72f8c83f26f5aa3043136"
ELSEWHERE = "this processor has no AVX-512 IFMA"

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler")
pytestmark = pytest.mark.slow


def library_of(c_file: str) -> str:
    """Where the library that is built from a C file belongs."""
    path = Path(c_file)
    return f"{path.parent}/_{path.stem}{EXTENSION_SUFFIXES[0]}"


LIBRARIES = [library_of(c_file) for c_file in C_FILES]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """What git has of the package."""
    copy = tmp_path / "source"
    copy.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy / name)
    for name in ("vfl", "psi", "parties"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("_*.so", "_*.pyd", "__pycache__"))
    return copy


@pytest.fixture
def quick(source: Path) -> Path:
    """The same with C files that take no time to compile."""
    for c_file in C_FILES:
        (source / c_file).write_text("int nothing(void) { return 0; }\n")
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


def obstacles_in(folder: Path) -> list[str]:
    """Say why the package in a folder can't use the C code of Paillier and of the curve; it works in any case."""
    code = (
        "import vfl.paillier as p, vfl.paillier.ifma_kernel as k\n"
        "from psi import curve, curve_ifma, elements\n"
        f"assert p.__file__.startswith({str(folder)!r}), p.__file__\n"
        "key = p.generate_keypair(512, insecure_test_mode=True)\n"
        "assert p.decrypt(key, p.encrypt(key.public, [3, 4])) == [3, 4]\n"
        "assert p.kernel_name() == ('gmpy2' if k.why_not_ifma() else 'ifma')\n"
        "found = curve.hash_and_mask(elements.elements_of([b'ann']), bytes(32)).tobytes().hex()\n"
        f"assert found == {MASKED!r}, found\n"
        "assert curve_ifma.use_ifma() == (curve_ifma.why_not_ifma() is None)\n"
        "print(k.why_not_ifma())\n"
        "print(curve_ifma.why_not_ifma())\n"
    )
    return call([sys.executable, "-c", code], folder, {"PYTHONPATH": str(folder)}).splitlines()


def unpacked(wheel: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(wheel.parent / "unpacked")  # noqa: S202 - our own
    return wheel.parent / "unpacked"


@needs_compiler
def test_with_a_compiler_the_wheel_has_the_libraries(source: Path) -> None:
    folder = unpacked(build(source, "wheel", {}))
    assert [library for library in LIBRARIES if (folder / library).is_file()] == LIBRARIES
    assert not list(folder.rglob("*.c"))
    assert not set(NOT_BUILT) & set(obstacles_in(folder))
    assert not any((source / library).exists() for library in LIBRARIES)


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
    assert set(LIBRARIES) <= set(zipfile.ZipFile(wheel).namelist())


def test_where_compiling_fails_the_rest_is_installed(source: Path) -> None:
    folder = unpacked(build(source, "wheel", {"CC": "/bin/false"}))
    assert not any((folder / library).exists() for library in LIBRARIES)
    assert obstacles_in(folder) == NOT_BUILT


def test_without_a_compiler_the_rest_is_installed(source: Path, without_compiler: dict[str, str]) -> None:
    folder = unpacked(build(source, "wheel", without_compiler))
    assert not any((folder / library).exists() for library in LIBRARIES)
    assert obstacles_in(folder) == NOT_BUILT


@needs_compiler
def test_no_older_library_stays(quick: Path) -> None:
    """Neither beside the source nor in what an earlier build left, where the new source does not compile."""
    in_place = [sys.executable, "setup.py", "build_ext", "--inplace"]
    for attempt in (lambda: call(in_place, quick, {}), lambda: build(quick, "editable", {})):
        for library in LIBRARIES:
            (quick / library).unlink(missing_ok=True)
        attempt()
        assert all((quick / library).is_file() for library in LIBRARIES)
    first = build(quick, "wheel", {})
    for c_file in C_FILES:
        (quick / c_file).write_text("#error\n")
    call(in_place, quick, {})
    assert not any((quick / library).exists() for library in LIBRARIES)
    assert obstacles_in(quick) == NOT_BUILT
    second = build(quick, "wheel", {})
    has = [set(LIBRARIES) & set(zipfile.ZipFile(wheel).namelist()) for wheel in (first, second)]
    assert has == [set(LIBRARIES), set()]


@needs_compiler
def test_a_file_that_does_not_compile_leaves_the_others(quick: Path) -> None:
    (quick / C_FILES[0]).write_text("#error\n")
    names = set(zipfile.ZipFile(build(quick, "wheel", {})).namelist())
    assert [library in names for library in LIBRARIES] == [False] + [True] * (len(LIBRARIES) - 1)


def test_the_source_distribution_has_the_c_files(source: Path, without_compiler: dict[str, str]) -> None:
    with tarfile.open(build(source, "sdist", without_compiler)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"setup.py", *C_FILES, "vfl/paillier/ifma_kernel.py", "psi/curve.py", "vfl/py.typed"} <= names


@needs_compiler
def test_c_files_stand_alone_and_warn_of_nothing(source: Path) -> None:
    """They need no header of Python's, and tell another processor that there is nothing for it."""
    strict = [COMPILER, "-std=gnu11", "-Wall", "-Wextra", "-Wshadow", "-Werror", "-fPIC", "-shared", "-O0"]
    for c_file, library in zip(C_FILES, LIBRARIES, strict=True):
        call([*strict, "-o", library, c_file], source, {})
    assert not set(NOT_BUILT) & set(obstacles_in(source))
    for c_file, library in zip(C_FILES, LIBRARIES, strict=True):
        text = (source / c_file).read_text()
        assert "Python.h" not in text
        (source / "elsewhere.c").write_text(text.replace("#if defined(__x86_64__)", "#if 0"))
        call([*strict, "-o", library, "elsewhere.c"], source, {})
    assert obstacles_in(source) == [ELSEWHERE, ELSEWHERE]
