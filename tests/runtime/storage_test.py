# SPDX-License-Identifier: Apache-2.0
"""Files, and the names that they may have."""

import json
import os

import pytest
import tensorflow as tf

from tf_audioset.runtime import storage


def test_what_is_not_finite_is_null():
  content = {"a": [float("nan"), 1.5, (float("-inf"), "x")], "b": {"c": 2}}

  def refuse(constant):
    raise ValueError(f"{constant} is not JSON")

  text = storage.to_json(content)
  assert json.loads(text, parse_constant=refuse) == {
    "a": [None, 1.5, [None, "x"]],
    "b": {"c": 2},
  }
  assert "\n" in storage.to_json(content, 1)


@pytest.mark.parametrize(
  "name", ["a[1]", "a]", "a*", "a?", "a{b}", "ä b", "\\"]
)
def test_paths_at_which_checkpoints_cannot_be_read_are_refused(tmp_path, name):
  folder = tmp_path / name
  path = tf.train.Checkpoint(v=tf.Variable(1.0)).write(str(folder / "ckpt"))
  try:
    tf.train.load_checkpoint(path)
  except (ValueError, tf.errors.OpError):
    for given in (str(folder), os.path.relpath(folder)):
      with pytest.raises(ValueError, match="TensorFlow cannot read"):
        storage.check_no_pattern(given)
  else:
    storage.check_no_pattern(str(folder))
