# SPDX-License-Identifier: Apache-2.0
"""What a run says, and what is read back of its metrics."""

import numpy as np
import pytest
import tensorflow as tf

from tf_audioset.data import labels
from tf_audioset.evaluation import metrics
from tf_audioset.training import reporting


def test_a_line_cut_off_by_a_kill_hides_no_validation(tmp_path):
  assert reporting.validations(str(tmp_path)) == {}
  (tmp_path / "metrics.jsonl").write_text(
    '{"step": 3, "loss": 0.5}\n{"step": 3, "epoch": 1, "mAP": 0.25}\n{"step": 6'
  )
  assert reporting.validations(str(tmp_path)) == {
    3: {"step": 3, "epoch": 1, "mAP": 0.25}
  }


def _report(folder):
  return reporting.Report(
    str(folder),
    total_steps=2,
    first_step=0,
    batch_size=1,
    classes=labels.ClassList.from_names(["A", "B"]),
    is_chief=True,
  )


def test_pictures_that_cannot_be_made_end_no_run(tmp_path, capsys):
  def fail():
    raise tf.errors.InvalidArgumentError(None, None, "clip x is bad")

  _report(tmp_path).pictures(4, fail)
  assert "no pictures of step 4: clip x is bad" in capsys.readouterr().out

  def is_wrong():
    raise TypeError("a fault of the program")

  with pytest.raises(TypeError):
    _report(tmp_path).pictures(4, is_wrong)


def test_accuracy_is_told_where_each_clip_has_one_label(tmp_path, capsys):
  report = _report(tmp_path)
  scores = np.array([[0.1, 0.9], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4]])
  one = np.eye(2)[[1, 0, 0, 0]]
  for step, targets in enumerate((one, np.ones_like(one)), start=1):
    report.epoch(step, step, (metrics.evaluate(scores, targets), 0.25))
  first, second = capsys.readouterr().out.splitlines()
  assert first.endswith("  loss 0.2500  accuracy 0.7500")
  assert "accuracy" not in second
