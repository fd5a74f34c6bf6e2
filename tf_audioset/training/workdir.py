# SPDX-License-Identifier: Apache-2.0
"""The files of a work directory that say what a run is."""

from __future__ import annotations

import difflib
import json
import os
import re
from typing import Any

import numpy as np
import tensorflow as tf

from tf_audioset.data import labels
from tf_audioset.runtime import bucket_lock, gin_config, storage
from tf_audioset.runtime.errors import UserError
from tf_audioset.training import reporting

_CONFIG = "config.gin"
_RUN = "run.json"
_THRESHOLDS = "thresholds"


class WorkDir:
  """A work directory, locked by this process once `open` was called.

  Attributes:
    path: Of the directory, on a disk or in a bucket.
  """

  def __init__(self, path: str, *, take_over: bool = False):
    """Notes the path.

    Args:
      path: Of the directory.
      take_over: In a bucket, take the lock of a run that seems to be there.

    Raises:
      UserError: If TensorFlow could not read checkpoints there, or the bucket
        does not answer.
    """
    storage.check_no_pattern(path)
    storage.check_bucket(path)
    self.path = path
    self._lock = None
    self._take_over = take_over

  def join(self, *names: str) -> str:
    """Returns the path of something in the directory."""
    return os.path.join(self.path, *names)

  def lock(self, *, create: bool = False) -> None:
    """Keeps other processes out until `release`.

    Args:
      create: Make the directory if it is missing; else nothing is locked then.

    Raises:
      UserError: If another process is at work there.
    """
    if create:
      tf.io.gfile.makedirs(self.path)
    if self._lock is not None or not tf.io.gfile.exists(self.path):
      return
    if "://" in self.path:
      self._lock = bucket_lock.BucketLock(self.path, take_over=self._take_over)
    else:
      self._lock = storage.lock(self.path)
      if self._lock is not None:  # What a killed run left half written.
        for folder in (self.path, self.join(_THRESHOLDS)):
          storage.remove_stale_files(folder)

  def check_lock(self) -> None:
    """Raises a UserError if another run has taken the directory over."""
    if isinstance(self._lock, bucket_lock.BucketLock):
      self._lock.check()

  def release(self) -> None:
    """Lets other processes in."""
    if isinstance(self._lock, bucket_lock.BucketLock):
      self._lock.release()
    elif self._lock is not None:
      self._lock.close()
    self._lock = None

  def refuse_changes(self, fixed: dict[str, Any]) -> None:
    """Compares what must stay the same with what the run was begun with.

    Args:
      fixed: Name -> value, as `describe` wrote them.

    Raises:
      UserError: Naming the first difference.
    """
    path = self.join(_RUN)
    if not tf.io.gfile.exists(path):
      return
    with tf.io.gfile.GFile(path) as file:
      begun_with = json.load(file)
    for name, value in fixed.items():
      if begun_with.get(name, value) != value:  # Older runs have fewer.
        raise UserError(
          f"{path}: this run was begun with {name} {begun_with.get(name)}, not "
          f"{value}: continue with that, or choose another --workdir."
        )

  def show_changes(self) -> None:
    """Prints how the operative config differs from that of the last start."""
    path = self.join(_CONFIG)
    if not tf.io.gfile.exists(path):
      return
    with tf.io.gfile.GFile(path) as file:
      before = file.read().splitlines()
    difference = difflib.unified_diff(
      before, gin_config.operative().splitlines(), n=0
    )
    changes = [
      line for line in difference if not line.startswith(("---", "+++", "@@"))
    ]
    if changes:
      print("\n".join(["changed since the last start:", *changes]), flush=True)

  def describe(self, fixed: dict[str, Any], classes: labels.ClassList) -> None:
    """Writes run.json, which `refuse_changes` reads, and config.gin."""
    run = {**fixed, "classes": classes.to_json()}
    storage.write_json(self.join(_RUN), run)
    storage.write_file(self.join(_CONFIG), gin_config.operative().encode())

  def write_thresholds(
    self, step: int, num_clips: int, thresholds: np.ndarray, f1: np.ndarray
  ) -> None:
    """Writes the thresholds that a validation chose.

    Args:
      step: The step that was validated.
      num_clips: The number of validation clips.
      thresholds: float [num_classes]; nan where there was no positive clip.
      f1: float [num_classes], F1 at the thresholds.
    """
    tf.io.gfile.makedirs(self.join(_THRESHOLDS))
    storage.write_json(
      self.join(_THRESHOLDS, f"{step}.json"),
      {
        "chosen_by": "greatest F1 of the class on the validation clips' crops; "
        "an equal or higher score is positive; null: no positive clip",
        "num_clips": num_clips,
        "step": step,
        "values": thresholds.tolist(),
        "f1": f1.tolist(),
      },
    )


def model_of(tagger: tf.keras.Model) -> str:
  """Returns what run.json says of a model, so that another one is refused.

  A backbone that computes something else from the same weights than in earlier
  versions has a `kind` that tells it from those.
  """
  kind = getattr(tagger.backbone, "kind", type(tagger.backbone).__name__)
  return f"{kind}, {tagger.count_params()} parameters"


def refuse_other_model(workdir: str, tagger: tf.keras.Model) -> None:
  """Compares a model with the one that a work directory's run trained.

  Raises:
    UserError: If they differ.
  """
  path = os.path.join(workdir, _RUN)
  with tf.io.gfile.GFile(path) as file:
    trained = json.load(file).get("model")
  if trained not in (None, model_of(tagger)):
    raise UserError(
      f"{path}: this run trained {trained}, which is not what config.gin makes "
      f"with this version of the package, {model_of(tagger)}: take the version "
      "that trained it, or train again."
    )


def thresholds_of(checkpoint: str, workdir: str) -> dict | None:
  """Returns what `write_thresholds` wrote for a checkpoint of this run."""
  step = _step_of(checkpoint, workdir)
  file = os.path.join(workdir, _THRESHOLDS, f"{step}.json")
  if not tf.io.gfile.exists(file):
    return None
  with tf.io.gfile.GFile(file) as opened:
    return json.load(opened)


def validation_of(checkpoint: str, workdir: str) -> dict[str, float] | None:
  """Returns the validation of a checkpoint, if it is one of this run's.

  Where the weights were averaged, it is that of the averaged ones, which are
  those that are exported.
  """
  row = reporting.validations(workdir).get(_step_of(checkpoint, workdir))
  return row and {**row, **row.get(reporting.AVERAGED, {})}


def read_run(workdir: str) -> tuple[labels.ClassList, str]:
  """Reads what a work directory says of its model.

  Returns:
    The classes, and config.gin as text.

  Raises:
    UserError: If it does not say it.
  """
  try:
    with tf.io.gfile.GFile(os.path.join(workdir, _RUN)) as file:
      run = json.load(file)
    with tf.io.gfile.GFile(os.path.join(workdir, _CONFIG)) as file:
      gin_text = file.read()
  except (ValueError, tf.errors.NotFoundError) as e:
    raise UserError(
      f"{workdir}: no work directory of a training run, which would hold "
      f"{_RUN} and {_CONFIG}: give what --workdir was in training."
    ) from e
  if "classes" not in run:
    raise UserError(
      f"{workdir}/{_RUN} does not hold the class list, as it was written by "
      "an older version: give the training command again, which adds it."
    )
  return labels.ClassList.from_json(run["classes"]), gin_text


def _step_of(checkpoint: str, workdir: str) -> int | None:
  """Returns the step of a checkpoint, None if it is not this run's."""
  folder, name = os.path.split(checkpoint)
  step = re.fullmatch(r"ckpt-(\d+)", name)
  of_run = os.path.abspath(os.path.dirname(folder)) == os.path.abspath(workdir)
  return int(step[1]) if step and of_run else None
