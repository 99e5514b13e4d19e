"""Whether runs write ``report.html``: they do, unless the environment says otherwise.

``VFL_REPORT=json`` saves its second or two, on hosts where nobody looks; ``vfl report`` writes it later.
"""

from __future__ import annotations

import os

from parties.errors import ConfigError


def page_wanted() -> bool:
    """What ``VFL_REPORT`` says.

    Raises
    ------
    ConfigError
        It is neither "html" nor "json".
    """
    asked = os.environ.get("VFL_REPORT", "html")
    if asked not in ("html", "json"):
        raise ConfigError(f"VFL_REPORT, got {asked!r}, expected 'html' (report.json and report.html) or 'json'")
    return asked == "html"
