# SPDX-License-Identifier: Apache-2.0
"""benchmarks/benchmark.py as it is used; how fast anything is is not tested."""

import importlib.util
import json

import pytest

from tests import command

_QUICK = ("--rounds=1", "--calls=1", "--batch_size=2")


def test_training(tmp_path):
  report = tmp_path / "report.json"
  printed = command.succeed(
    "benchmarks/benchmark.py",
    *_QUICK,
    "--gin_file=gin/quickstart.gin",
    "--gin_bindings=ResNet.width = 4",
    "--gin_bindings=Pipeline.crop_seconds = 0.5",
    "--precisions=float32",
    f"--json={report}",
  )
  (group,) = json.loads(report.read_text())["groups"]
  turns = group["variants"]["ours, float32"]["turns"]
  assert set(turns) == {
    "step",
    "step from features",
    "front end",
    "SpecAugment + Mixup",
    "forward",
    "gradients",
    "optimizer",
  }
  for (turn,) in turns.values():
    assert turn["first_seconds"] > 0 and turn["peak_mb"] > 100
  (step,) = turns["step"]
  assert f"{1e3 * step['seconds']:.1f}" in printed
  assert f"{2 / step['seconds']:.1f}" in printed  # Clips a second.
  (forward,), (both,) = turns["forward"], turns["gradients"]
  assert f"{1e3 * (both['seconds'] - forward['seconds']):.1f}" in printed


@pytest.mark.skipif(
  importlib.util.find_spec("torch") is not None, reason="a peer is installed"
)
def test_peers_that_are_not_installed_are_named():
  printed = command.succeed(
    "benchmarks/benchmark.py", *_QUICK, "--measure=frontend", "--peers"
  )
  (line,) = [line for line in printed.splitlines() if "ours: log-mel" in line]
  assert float(line.split("differs by at most ")[1]) < 1e-5  # From NumPy's.
  assert "not installed: PyTorch" in printed


def test_errors():
  error = command.fail("benchmarks/benchmark.py", "--gin_file=nothing.gin")
  assert "gin file 'nothing.gin' not found" in error
  error = command.fail(
    "benchmarks/benchmark.py", "--peers", "--peer_python=/none"
  )
  assert "--peer_python=/none: not a program" in error
