"""What holds for every test."""

import signal


def pytest_configure() -> None:
    """Take Ctrl-C as usual, also where the tests were started in the background, which ignores it for all children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
