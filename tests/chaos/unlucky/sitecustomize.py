"""Bad luck for one role, whose processes have this folder on their path: see `tests.chaos.misfortune`.

``VFL_TEST_BAD_LUCK`` says whose, at which message, the how manieth, and what: ``clinic.s1 secure_sum.masked 2 killed``.
"""

import os
import sys

_luck = os.environ.get("VFL_TEST_BAD_LUCK", "").split()
if _luck and (
    sys.orig_argv[-3:] == ["-m", "vfl.role", _luck[0]]
    or any(word.endswith(f"/{_luck[0]}.toml") for word in sys.orig_argv)
):
    from tests.chaos.misfortune import befall

    befall(*_luck[1:])
