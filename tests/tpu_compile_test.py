# SPDX-License-Identifier: Apache-2.0
"""The TPU's own compiler takes the training step.

libtpu is in an environment of its own: $TPU_PYTHON, or .venv-tpu, which
`make test-tpu` makes. What needs it is skipped without it.
"""

import functools
import json
import os
import re
import subprocess

import pytest

from tests import command

_TOOL = "benchmarks/tpu_compile.py"
_PYTHON = os.environ.get(
  "TPU_PYTHON", str(command.ROOT / ".venv-tpu/bin/python")
)


@functools.cache
def _has_libtpu() -> bool:
  try:
    done = subprocess.run(
      [_PYTHON, "-c", "import jax, libtpu"], capture_output=True
    )
  except OSError:
    return False
  return done.returncode == 0


needs_libtpu = pytest.mark.skipif(
  not _has_libtpu(),
  reason=f"needs jax and libtpu ({_PYTHON}): make test-tpu, or $TPU_PYTHON",
)


@needs_libtpu
def test_the_step_of_the_quickstart_compiles_for_a_v3_8(tmp_path):
  """Of all eight cores, with the sum of their gradients."""
  hlo, text = tmp_path / "step.hlo.pb", tmp_path / "step.txt"
  out = command.succeed(
    _TOOL,
    "--gin_file=gin/quickstart.gin",
    "--batch_size=16",
    "--num_classes=5",
    f"--tpu_python={_PYTHON}",
    f"--hlo_out={hlo}",
    f"--text_out={text}",
    "--replicas=8",
    "--top=5",
    "--json",
    timeout=1800,
  )
  result = json.loads(out)
  assert result["device"] == "TPU v3" and result["num_devices"] == 8
  assert result["fits"] is True
  assert 0 < result["front_end_ms"] < result["ms"] < 50
  assert result["clips_per_s"] == pytest.approx(16 * 8 / result["ms"] * 1e3)
  # 705,000 weights and two moments of each, in float32, and the waveforms.
  expected_gb = (0.7e6 * 3 * 4 + 16 * 80000 * 2) / 1e9
  assert expected_gb < result["argument_gb"] < 1.5 * expected_gb
  assert 0 < result["temp_gb"] < 1
  assert len(result["instructions"]) == len(result["by_part"]) == 5
  slowest = [x["ms"] for x in result["instructions"]]
  assert slowest == sorted(slowest, reverse=True)
  assert b"train_on" in hlo.read_bytes()
  # In one message: the first kernel's gradient is in a tuple with all others.
  sums = re.findall(r"= (.*) all-reduce\(", text.read_text())
  [of_gradients] = [shapes for shapes in sums if "f32[7,7,1,16]" in shapes]
  assert of_gradients.count("f32[") > 60


@needs_libtpu
def test_the_front_end_compiles_for_other_topologies_and_by_itself():
  printed = command.succeed(
    _TOOL,
    "--gin_file=gin/quickstart.gin",
    "--parts=frontend",
    "--batch_size=8",
    "--topology=v5e:2x2",
    f"--tpu_python={_PYTHON}",
  )
  assert "frontend: " in printed and "4 x TPU v5 lite" in printed
  assert "step: " not in printed


@needs_libtpu
def test_what_does_not_fit_is_told():
  done = command.run(
    _TOOL,
    "--gin_file=gin/quickstart.gin",
    "--parts=frontend",
    "--batch_size=8192",
    f"--tpu_python={_PYTHON}",
  )
  assert done.returncode == 1, done.stderr
  assert "does not fit: needs" in done.stdout


@needs_libtpu
def test_a_topology_that_does_not_exist_is_refused():
  error = command.fail(
    _TOOL,
    "--gin_file=gin/quickstart.gin",
    "--parts=frontend",
    "--batch_size=8",
    "--topology=v3:9x9x9",
    f"--tpu_python={_PYTHON}",
  )
  assert "no topology 'v3:9x9x9'" in error and "v3:2x2" in error


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ((), "give --gin_file for an experiment, or --peers"),
    (
      ("--gin_file=gin/quickstart.gin", "--parts=head"),
      "--parts=head: allowed are frontend, step, or both",
    ),
    (
      ("--gin_file=gin/quickstart.gin", "--tpu_python=/nowhere/python"),
      "--tpu_python=/nowhere/python is no interpreter with jax and libtpu: run "
      "make .venv-tpu/installed",
    ),
    (("--peer=resnet34",), "resnet34"),
  ],
)
def test_mistakes_are_one_line(flags, message):
  assert message in command.fail(_TOOL, *flags)
