# SPDX-License-Identifier: Apache-2.0
"""Files, and the names that they may have."""

import json
import os
import threading

import pytest
import tensorflow as tf

from tests import command
from tf_audioset.runtime import storage


def test_what_a_killed_process_left_is_removed(tmp_path):
  """And nothing else, though it looks alike."""
  path = tmp_path / "run.json"
  code = (
    "import os, sys\n"
    "import tensorflow as tf\n"
    "from tf_audioset.runtime import storage\n"
    "tf.io.gfile.rename = lambda *_, **__: os.kill(os.getpid(), 9)\n"
    "storage.write_file(sys.argv[1], b'half')"
  )
  assert command.run("-c", code, path).returncode == -9
  (left,) = tmp_path.iterdir()
  assert left.name.startswith("run.json.tmp-")
  others = {"run.json", "a.tmp-x", "tmp-1", "run.json.tmp-1.txt"}
  for name in others:
    (tmp_path / name).touch()
  with storage.taking_turns(str(tmp_path)):
    assert {path.name for path in tmp_path.iterdir()} == others
  storage.remove_stale_files(str(tmp_path / "none"))


def test_processes_take_turns_and_leave_no_file(tmp_path):
  order = []

  def other():
    with storage.taking_turns(str(tmp_path)):
      order.append("other")

  with storage.taking_turns(str(tmp_path)):
    thread = threading.Thread(target=other)
    thread.start()
    thread.join(0.3)
    order.append("this")
  thread.join()
  assert order == ["this", "other"]
  assert not list(tmp_path.iterdir())
  with storage.taking_turns("gs://none/there"):  # Nothing is asked of it.
    pass


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
