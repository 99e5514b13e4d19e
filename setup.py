"""The optional C code; everything else about the package stands in pyproject.toml.

Without a compiler, or where it fails, the package installs all the same and computes with gmpy2, libsodium and
Python's own hashes.
"""

import os
import shutil
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

LIBRARIES = {
    "vfl.paillier._ifma": "vfl/paillier/ifma.c",
    "psi._curve25519": "psi/curve25519.c",
    "psi._blake2b": "psi/blake2b.c",
    "psi._bits": "psi/bits.c",
}
FLAGS = ["-std=gnu11", "-O3", "-g0"]  # for any processor: the code asks what the one it meets can do
EXTENSIONS = [Extension(name, [source], extra_compile_args=FLAGS, optional=True) for name, source in LIBRARIES.items()]


class BuildKernel(build_ext):
    """Take any compiler there is, and leave no library of an older source behind where it fails."""

    def run(self) -> None:
        """Build, in the source tree or for a wheel."""
        _name_a_compiler()
        for ext in EXTENSIONS:
            self._remove_library(ext)
        super().run()

    def build_extension(self, ext: Extension) -> None:
        """Build into the build directory, which another build may have left there."""
        self._remove_library(ext)
        super().build_extension(ext)

    def _remove_library(self, ext: Extension) -> None:
        Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)


def _name_a_compiler() -> None:
    """Where the compiler that Python itself was built with is missing, take another one."""
    configured = (sysconfig.get_config_var("CC") or "").split()
    if configured and "CC" not in os.environ and not shutil.which(configured[0]):
        found = next(filter(shutil.which, ("cc", "gcc", "clang")), None)
        os.environ |= {"CC": found} if found else {}


setup(ext_modules=EXTENSIONS, cmdclass={"build_ext": BuildKernel})
