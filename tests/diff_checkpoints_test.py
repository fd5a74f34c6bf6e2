# SPDX-License-Identifier: Apache-2.0
"""tools/diff_checkpoints.py as a user calls it."""

import os

import pytest
import tensorflow as tf

from tests import command

_TOOL = "tools/diff_checkpoints.py"


def _save(folder, values) -> str:
  checkpoint = tf.train.Checkpoint(v=tf.Variable(values))
  return checkpoint.save(str(folder / "ckpt"))


def test_what_differs_is_counted(tmp_path):
  values = [float(i) for i in range(1000)]
  for name, last in (("a", 999.0), ("b", 999.0), ("c", 1001.5)):
    _save(tmp_path / name, [*values[:-1], last])
  out = command.succeed(_TOOL, tmp_path / "a", tmp_path / "b")
  assert out.endswith("all the same\n")
  done = command.run(_TOOL, tmp_path / "a", tmp_path / "c")
  assert done.returncode == 1
  assert "1 of 1000 differ, by at most 2.5\n" in done.stdout


@pytest.mark.parametrize("kept", [0, 0.5])
@pytest.mark.parametrize("suffix", [".data-00000-of-00001", ".index"])
def test_a_checkpoint_that_was_cut_off_is_named(tmp_path, suffix, kept):
  path = _save(tmp_path, [0.5] * 1000) + suffix
  os.truncate(path, int(kept * os.path.getsize(path)))
  line = command.fail(_TOOL, tmp_path, tmp_path)
  assert f"{tmp_path}: no checkpoint that can be read there" in line
