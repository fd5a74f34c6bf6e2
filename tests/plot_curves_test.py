# SPDX-License-Identifier: Apache-2.0
"""tools/plot_curves.py on the logs of runs that had trouble."""

import os
import re
import shutil

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


def _texts(svg: bytes) -> list[str]:
  """What is written in a picture, which matplotlib notes in comments."""
  return re.findall(r"<!-- (.*?) -->", svg.decode())


def test_a_folder_of_runs_is_each_of_them(tmp_path):
  for name in ("b", "a"):
    _log(tmp_path / "runs" / name, [{1: 1.0, 2: 0.5}])
  (tmp_path / "runs" / "notes").mkdir()
  texts = _texts(_picture(tmp_path / "runs", "svg"))
  assert [x for x in texts if x in ("a", "b")] == ["a", "b"]
  assert "a, last 0.500" in texts
  error = command.fail(_TOOL, "--output=x.png", tmp_path / "runs" / "notes")
  assert "no work directory of a run" in error and "none in it" in error


def test_runs_of_one_name_are_told_apart(tmp_path):
  for name in ("x/run", "y/run"):
    _log(tmp_path / name, [{1: 1.0}])
  path = tmp_path / "curves.svg"
  command.succeed(_TOOL, f"--output={path}", tmp_path / "x", tmp_path / "y/run")
  assert {"x/run", "y/run"} <= set(_texts(path.read_bytes()))


def test_the_axis_says_which_loss_it_is(tmp_path):
  losses = {
    "MultiLabel": "sigmoid cross-entropy, mean over classes",
    "losses.MultiClass": "softmax cross-entropy",
    "mine.Focal": "loss Focal",
  }
  for loss in losses:
    _log(tmp_path / loss, [{1: 1.0}])
    (tmp_path / loss / "config.gin").write_text(
      f"Tagger.head = @Head()\nTagger.loss = @{loss}()\n"
    )
  one = _texts(_picture(tmp_path / "losses.MultiClass", "svg"))
  assert "softmax cross-entropy" in one
  assert not [text for text in one if "sigmoid" in text]
  # The axis of all is none of theirs.
  all_of_them = _texts(_picture(tmp_path, "svg"))
  assert "loss" in all_of_them
  for loss, shown in losses.items():
    assert f"{loss} ({shown})" in all_of_them


def test_runs_at_their_start(tmp_path):
  """One without a validation is drawn, one without a loss is told."""
  _log(tmp_path / "runs" / "a", [{1: 1.0}])
  shutil.rmtree(tmp_path / "runs/a/summaries/validation")
  (tmp_path / "runs/b/summaries").mkdir(parents=True)
  path = tmp_path / "curves.svg"
  done = command.run(_TOOL, f"--output={path}", tmp_path / "runs")
  assert done.returncode == 1
  assert f"{tmp_path}/runs/b: left out: no loss is logged" in done.stderr
  assert "a, none yet" in _texts(path.read_bytes())
  error = command.run(_TOOL, f"--output={path}", tmp_path / "runs/b").stderr
  assert "no run, or one without a first loss yet" in error


@pytest.mark.parametrize(
  ("output", "message"),
  [
    ("/proc/none/x.png", "another place with --output"),
    ("x.xyz", "no kind of picture; choose one of"),
  ],
)
def test_a_picture_that_cannot_be_written_is_told_first(output, message):
  assert message in command.fail(_TOOL, f"--output={output}", "none")
