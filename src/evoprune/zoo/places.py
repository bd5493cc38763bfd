"""Where data is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """$EVOPRUNE_DATA, else ~/.cache/evoprune."""
    return Path(os.environ.get("EVOPRUNE_DATA") or Path.home() / ".cache" / "evoprune")
