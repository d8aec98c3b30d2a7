"""Paths as users write them."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(path: str | Path) -> str:
    """With ~ and environment variables filled in: a shell does that for most flags, but not for NAME=~/x, for a TOML
    file or for Python. What is no path, such as a hub name, stays as it is."""
    return os.path.expandvars(os.path.expanduser(path))
