"""What every benchmark result says of itself: hardware, versions, commit."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def write(name: str, content: dict[str, Any]) -> Path:
    """Write benchmarks/results/<name>.json and return its path."""
    path = RESULTS / f"{name}.json"
    record = {"made": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit(), **machine(), **content}
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def earlier(name: str) -> dict[str, Any]:
    """What benchmarks/results/<name>.json holds now; nothing if it is not there."""
    path = RESULTS / f"{name}.json"
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return content


def machine() -> dict[str, Any]:
    """The hardware and the versions that matter."""
    cpu = next((line for line in _lines("/proc/cpuinfo") if line.startswith("model name")), ": " + platform.processor())
    return {
        "hardware": {
            "cpu": cpu.split(":", 1)[1].strip(),
            "cores": len(os.sched_getaffinity(0)),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "evoprune": version("evoprune"),
        },
    }


def provenance() -> dict[str, Any]:
    """What a trial says of itself, since a file gathers those of several days and machines."""
    return {"commit": commit(), "hardware": machine()["hardware"]}


def stands(trial: dict[str, Any], again: bool) -> bool:
    """Whether an earlier trial need not be repeated; `again` asks for those of other commits."""
    return not again or trial.get("commit") == commit()


def commit() -> str:
    """The commit that was measured, with a + where files were changed since."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=False).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--", "src") else "")


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
