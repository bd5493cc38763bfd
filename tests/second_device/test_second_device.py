"""Models on another device than the CPU: everything is computed where the model is. It takes no GPU to try that."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this PyTorch has no backends in Python",
)
def test_runs_stay_on_the_device_of_the_model() -> None:
    # In a process of its own, since a device stays registered.
    command = [sys.executable, "-W", "error", Path(__file__).with_name("runs.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = {run.pop("name"): run for run in map(json.loads, done.stdout.splitlines())}
    assert seen.pop("the device itself") == {"refused": "aten.add.Tensor of tensors on ['cpu', 'second:0']"}
    for name, run in seen.items():
        assert "error" not in run, f"{name}: {run['error']}"
        assert run["devices"] == ["second"], name
        assert run["zeros"], name
    assert len(seen) >= 20
