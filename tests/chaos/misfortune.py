"""What befalls a process when it is about to send a message: it dies, stops, is late, fails, or sends what is none."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import msgspec

from parties.link import Link
from parties.wire import Message


def befall(name: str, nth: str, what: str) -> None:
    """Let it happen at the so manieth message of a name that this process sends, counted from 1."""
    honest = Link.send
    left = int(nth)

    def send(self: Link[Any, Any], message: Message[Any, Any, Any], payload: Any) -> None:
        nonlocal left
        left -= message.name == name
        if left or message.name != name:
            honest(self, message, payload)
            return
        left = -1
        if what == "killed-after":
            honest(self, message, payload)
        if what.startswith("killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        elif what == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif what == "slow":
            time.sleep(3.0)
            honest(self, message, payload)
        elif what == "fails":
            raise ValueError("a defect")
        elif what == "garbage":
            self._endpoint.transport._session.hop._live.write(b"GET / HTTP/1.1\r\n\r\n" * 10)  # type: ignore[attr-defined]
        elif what == "malformed":
            honest(self, message, msgspec.structs.replace(payload, body=payload.body[:-1]))

    Link.send = send  # type: ignore[method-assign]
