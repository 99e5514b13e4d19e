"""The optional C kernel; everything else about the package stands in pyproject.toml."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension("vfl.paillier._ifma", ["vfl/paillier/ifma.c"], extra_compile_args=["-O3"], optional=True),
    ]
)
