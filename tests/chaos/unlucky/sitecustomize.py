"""Bad luck for one role of a ``vfl run``, whose processes have this folder on their path: see `tests.chaos.misfortune`.

``VFL_TEST_BAD_LUCK`` says whose, at which message, the how manieth, and what: ``clinic.s1 secure_sum.masked 2 kill``.
"""

import os
import sys

_luck = os.environ.get("VFL_TEST_BAD_LUCK", "").split()
if _luck and sys.orig_argv[-3:] == ["-m", "vfl.role", _luck[0]]:
    from tests.chaos.misfortune import befall

    befall(*_luck[1:])
