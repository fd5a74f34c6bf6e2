# SPDX-License-Identifier: Apache-2.0
"""What is read back of a run's metrics."""

from tf_audioset import reporting


def test_a_line_cut_off_by_a_kill_hides_no_validation(tmp_path):
  assert reporting.validations(str(tmp_path)) == {}
  (tmp_path / "metrics.jsonl").write_text(
    '{"step": 3, "loss": 0.5}\n{"step": 3, "epoch": 1, "mAP": 0.25}\n{"step": 6'
  )
  assert reporting.validations(str(tmp_path)) == {
    3: {"step": 3, "epoch": 1, "mAP": 0.25}
  }
