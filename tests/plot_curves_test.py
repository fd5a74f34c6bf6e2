# SPDX-License-Identifier: Apache-2.0
"""tools/plot_curves.py on the logs of runs that had trouble."""

import os

import pytest
import tensorflow as tf

from tests import command

_TOOL = "tools/plot_curves.py"


def _log(folder, parts):
  """Logs a run by parts, each with a file of its own; returns the files."""
  files = []
  for number, part in enumerate(parts):
    for name, tag in (("train", "loss"), ("validation", "mAP")):
      writer = tf.summary.create_file_writer(
        str(folder / "summaries" / name), filename_suffix=f".{number}"
      )
      with writer.as_default():
        for step, value in part.items():
          tf.summary.scalar(tag, value, step)
      writer.close()
    files += (folder / "summaries" / "train").glob(f"events.*.{number}")
  return files


def _picture(folder, kind="png") -> bytes:
  path = folder.parent / f"curves.{kind}"
  command.succeed(_TOOL, f"--output={path}", folder)
  return path.read_bytes()


@pytest.mark.parametrize("kept", [0.5, 0.999])
def test_a_file_that_a_full_disk_cut_off_is_continued_by_the_next(
  tmp_path, kept
):
  """The picture is that of the run that logged the same undisturbed."""
  for name in ("cut", "whole"):
    (tmp_path / name).mkdir()
  values = {step: 1 / step for step in range(1, 41)}
  whole, cut = (tmp_path / name / "run" for name in ("whole", "cut"))
  _log(whole, [values])
  first, _ = _log(cut, [values, {s: values[s] for s in range(10, 41)}])
  content = first.read_bytes()
  os.truncate(first, int(kept * len(content)))
  assert _picture(cut) == _picture(whole)


def test_the_name_of_a_run_is_no_formula(tmp_path):
  for name in ("a$_$b", "$x$"):
    _log(tmp_path / name, [{1: 1.0, 2: 0.5}])
  assert _picture(tmp_path / "a$_$b").startswith(b"\x89PNG")
  # Letters of a formula would be oblique.
  assert b"Oblique" not in _picture(tmp_path / "$x$", "svg")
