"""What holds for every test."""

import os
import signal

from hypothesis import settings

settings.register_profile("no timing", deadline=None)  # machines are noisy: no test may depend on how long it takes
settings.load_profile("no timing")


def pytest_configure() -> None:
    """Take Ctrl-C as usual, also where the tests were started in the background, which ignores it for all children."""
    os.environ.setdefault("VFL_REPORT", "json")  # tests of the page ask for it
    signal.signal(signal.SIGINT, signal.default_int_handler)
