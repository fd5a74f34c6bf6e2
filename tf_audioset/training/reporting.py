# SPDX-License-Identifier: Apache-2.0
"""What a run says: on the terminal, in TensorBoard, in metrics.jsonl."""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Callable

import tensorflow as tf

from tf_audioset.data import labels
from tf_audioset.evaluation import metrics
from tf_audioset.runtime import messages, storage, tf_internals
from tf_audioset.training import dashboard

# What a row says of the averaged weights.
AVERAGED = "averaged"
_METRICS_FILE = "metrics.jsonl"
_SUMMARIES = "summaries"
# TensorBoard's names for what is not called as in metrics.jsonl: what is about
# the input stands together, and not before the loss.
_TAGS = {"bad_records": "input/bad_records"}
_PACKAGES = (
  "tf_audioset",
  "tensorflow",
  "tensorflow-addons",
  "tensorflow-io",
  "tf-models-official",
  "numpy",
  "gin-config",
)


class Report:
  """The live line, the lines that stay, and the files of the work directory.

  metrics.jsonl holds what depends on seed, data and configuration alone, so
  that two runs can be compared with `diff`; times are in TensorBoard's files.
  """

  def __init__(
    self,
    workdir: str,
    *,
    total_steps: int,
    first_step: int,
    batch_size: int,
    classes: labels.ClassList,
    is_chief: bool,
  ):
    """Continues the files of an earlier start.

    Args:
      workdir: Where the files are.
      total_steps: Of the whole run.
      first_step: What has been reported after it is forgotten.
      batch_size: Clips a step.
      classes: Of the targets.
      is_chief: The other workers say and write nothing.
    """
    self._workdir = workdir
    self._total_steps = total_steps
    self._first_step = first_step
    self._batch_size = batch_size
    self._names = classes.names
    self._ap = None  # Of the classes in the last validation.
    self._is_chief = is_chief
    self._is_live = sys.stdout.isatty()
    self._begin = self._lap = time.monotonic()
    self._last = {}
    if not is_chief:
      self._train = self._validation = tf.summary.create_noop_writer()
      return
    self._metrics = os.path.join(workdir, _METRICS_FILE)
    _forget(self._metrics, first_step)
    self._train = _event_file(workdir, "train", first_step + 1)
    # A validation at the first step is made again.
    self._validation = _event_file(workdir, "validation", first_step)
    self._averaged = None  # Made when it is needed.

  def say(self, line: str) -> None:
    """Prints a line that stays."""
    if self._is_chief:
      print(f"{self._line_start()}{line}", flush=True)

  def resume_clock(self) -> None:
    """Leaves what was between, an evaluation, out of clips a second."""
    self._lap = time.monotonic()

  def loop(self, step: int, num_steps: int, values: dict[str, float]) -> None:
    """Reports what `Trainer.train` returned after `num_steps` up to `step`."""
    now = time.monotonic()
    seconds, self._lap = now - self._lap, now
    clips_per_second = num_steps * self._batch_size / seconds
    wait_share = min(1.0, values["input_wait_seconds"] / seconds)
    seconds_per_step = (now - self._begin) / (step - self._first_step)
    left = _clock(seconds_per_step * (self._total_steps - step))
    if not self._is_chief:
      return
    recorded = {
      name: values[name]
      for name in ("loss", "learning_rate", "gradient_norm", "bad_records")
    }
    with self._train.as_default(step):
      for name, value in recorded.items():
        tf.summary.scalar(_TAGS.get(name, name), value)
      tf.summary.scalar("input/clips_per_second", clips_per_second)
      tf.summary.scalar("input/wait_share", wait_share)
    self._append({"step": step, **recorded})
    line = (
      f"step {step}/{self._total_steps}  loss {values['loss']:.4f}  "
      f"learning rate {values['learning_rate']:.2e}  "
      f"{clips_per_second:.1f} clips/s  input wait {wait_share:.0%}  "
      f"{left} left"
    )
    if self._is_live:  # The line is rewritten in place; \033[K clears its rest.
      print(f"\r{line}\033[K", end="", flush=True)
    else:
      print(line, flush=True)

  def saved(self) -> None:
    """Records that a checkpoint is there: a stop loses nothing before it."""
    self._train.flush()

  def validating(self, done: int, total: int) -> None:
    """Shows on a terminal how many clips of the validation are scored."""
    if self._is_chief and self._is_live:
      seconds = time.monotonic() - self._lap
      left = _clock(seconds / done * (total - done))
      print(
        f"\rvalidation  {done}/{total} clips  {done / seconds:.1f} clips/s  "
        f"{left} left\033[K",
        end="",
        flush=True,
      )

  def epoch(
    self,
    step: int,
    epoch: int,
    validated: tuple[metrics.Metrics, float],
    averaged: tuple[metrics.Metrics, float] | None = None,
  ) -> None:
    """Reports the validation after an epoch.

    Args:
      step: After which.
      epoch: Of the run.
      validated: What the weights reach, and the mean of their losses.
      averaged: What the averaged weights reach, if there are such.
    """
    result, loss = validated
    self._last = {"step": step, "epoch": epoch, **_row(result, loss)}
    if averaged is not None:
      self._last[AVERAGED] = _row(*averaged)
    if not self._is_chief:
      return
    with self._validation.as_default(step):
      _write_scalars(result, loss)
      dashboard.write_classes(result, self._names, self._ap)
    self._ap = result.average_precision
    self._append(self._last)
    self.say(f"epoch {epoch}, step {step}: {_line(result, loss)}")
    if averaged is not None:
      if self._averaged is None:
        self._averaged = _event_file(self._workdir, "validation_averaged", step)
      with self._averaged.as_default(step):
        _write_scalars(*averaged)
      self._averaged.flush()
      self.say(f"  averaged weights: {_line(*averaged)}")
    self._train.flush()
    self._validation.flush()

  def config(self, text: str) -> None:
    """Shows the operative config of this start in TensorBoard."""
    if not self._is_chief:
      return
    # Above the folders of the curves, which TensorBoard then takes for results
    # of these hyperparameters.
    writer = tf.summary.create_file_writer(
      os.path.join(self._workdir, _SUMMARIES)
    )
    with writer.as_default(self._first_step):
      dashboard.write_config(text)
    writer.close()

  def pictures(
    self, step: int, make: Callable[[], dashboard.Augmented]
  ) -> None:
    """Shows clips as they are augmented for a step, in TensorBoard.

    Args:
      step: Counted from 0.
      make: Augments them. A record that cannot be read then is told, and no
        reason to end a run that may tolerate it.
    """
    if not self._is_chief:
      return
    try:
      augmented = make()
    except tf.errors.OpError as e:
      self.say(f"no pictures of step {step}: {messages.first_line(str(e))}")
      return
    with self._train.as_default(step):
      dashboard.write_pictures(augmented, self._names)
    self._train.flush()

  def finish(self, **more) -> None:
    """Writes summary.json: how the run ended, and what it was made with."""
    if not self._is_chief:
      return
    self._train.flush()
    content = {
      "last_validation": self._last,
      **more,
      # Of this start; an earlier one's time is not known.
      "wall_seconds": round(time.monotonic() - self._begin, 1),
      "continued_from_step": self._first_step,
      "code_version": _code_version(),
      "python": platform.python_version(),
      "packages": _package_versions(),
    }
    storage.write_json(os.path.join(self._workdir, "summary.json"), content)

  def _line_start(self) -> str:
    return "\r\033[K" if self._is_live else ""

  def _append(self, row) -> None:
    with tf.io.gfile.GFile(self._metrics, "a") as file:
      file.write(storage.to_json(row) + "\n")


def _row(result: metrics.Metrics, loss: float) -> dict[str, float]:
  return {"validation_loss": loss, **result.summary()}


def _line(result: metrics.Metrics, loss: float) -> str:
  summary = result.summary()
  line = (
    f"mAP {summary['mAP']:.4f}  mAUC {summary['mAUC']:.4f}  "
    f"d' {summary['dprime']:.4f}  loss {loss:.4f}"
  )
  if result.is_single_label:
    line += f"  accuracy {summary['top1']:.4f}"
  return line


def _write_scalars(result: metrics.Metrics, loss: float) -> None:
  """Writes a validation to TensorBoard."""
  summary = result.summary()
  tf.summary.scalar("loss", loss)  # Beside that of training.
  for name in ("mAP", "mAUC", "dprime"):
    tf.summary.scalar(name, summary[name])
  if result.is_single_label:
    tf.summary.scalar("accuracy", summary["top1"])


def validations(workdir: str) -> dict[int, dict[str, float]]:
  """Returns the validations of a run, each by its step."""
  rows = _rows(os.path.join(workdir, _METRICS_FILE))
  return {row["step"]: row for row in rows if "epoch" in row}


def _rows(path: str) -> list[dict[str, float]]:
  """Reads the rows of metrics.jsonl, up to one cut off by a kill."""
  rows = []
  if tf.io.gfile.exists(path):
    with tf.io.gfile.GFile(path) as file:
      lines = file.read().splitlines()
    for line in lines:
      try:
        rows.append(json.loads(line))
      except ValueError:
        break
  return rows


def _forget(path: str, first_step: int) -> None:
  """Takes from metrics.jsonl what the run will do again from `first_step`."""
  kept = []
  for row in _rows(path):
    # The validation at the first step is made again, its loop is not.
    if row["step"] + ("epoch" in row) > first_step:
      break
    kept.append(storage.to_json(row) + "\n")
  storage.write_file(path, "".join(kept).encode())


def _event_file(workdir: str, name: str, next_step: int):
  """Opens a writer; TensorBoard drops what earlier files say of later steps."""
  writer = tf.summary.create_file_writer(
    os.path.join(workdir, _SUMMARIES, name)
  )
  restart = tf.compat.v1.Event(
    wall_time=time.time(),
    step=next_step,
    session_log=tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START),
  )
  tf_internals.import_event(writer, restart)
  return writer


def _code_version() -> str:
  """Returns the commit, "-dirty" if files changed; or the package's version."""
  checkout = pathlib.Path(__file__).resolve().parents[2]
  if not (checkout / ".git").exists():
    return _package_versions()["tf_audioset"]
  try:
    return subprocess.run(
      ["git", "describe", "--always", "--dirty", "--abbrev=40"],
      cwd=checkout,
      check=True,
      capture_output=True,
      text=True,
    ).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    return "unknown: git failed"


def _package_versions() -> dict[str, str]:
  versions = {}
  for name in _PACKAGES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      versions[name] = "not installed"
  return versions


def _clock(seconds: float) -> str:
  """Formats seconds: 61 -> "0:01:01"."""
  minutes, seconds = divmod(round(seconds), 60)
  return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
