# SPDX-License-Identifier: Apache-2.0
"""A run's checkpoints: written whole or not at all, and read only if whole.

TensorFlow's `CheckpointManager` lists a checkpoint only when all of it is
written. Added here: what is on the disk is checked before it is used, and a
disk that fails is tried again.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Collection

import tensorflow as tf

from tf_audioset.runtime import messages
from tf_audioset.runtime.errors import UserError

# Waits before a failed write is tried again: a full disk needs somebody to make
# room. TensorFlow itself repeats a bucket's refused requests: docs/buckets.md.
_RETRY_SECONDS = (5, 30)

# What TensorFlow raises for files that are broken, cut off or gone.
_UNREADABLE = (tf.errors.OpError, ValueError, IndexError, OSError)


class Checkpoints:
  """The newest few checkpoints of a run."""

  def __init__(
    self,
    checkpoint: tf.train.Checkpoint,
    folder: str,
    keep: int,
    is_chief: bool,
    has_peers: bool = False,
    may_lack: Collection[str] = (),
  ):
    """Finds what is there.

    Args:
      checkpoint: What is saved.
      folder: Where; made when something is saved.
      keep: The newest so many stay.
      is_chief: Whether this process's files count. The others take part, since
        saving needs all of them, in a folder that is thrown away.
      has_peers: Whether other workers take part.
      may_lack: Names of variables in `checkpoint` that earlier versions did not
        save. They stay as they are where a checkpoint does not have them.
    """
    self._checkpoint = checkpoint
    self._may_lack = may_lack
    self._is_chief = is_chief
    # Saving reads batch norm's statistics from all workers, which only one that
    # failed would do again.
    self._retry_seconds = () if has_peers else _RETRY_SECONDS
    if is_chief:
      _mend_list(folder)
    self._manager = tf.train.CheckpointManager(checkpoint, folder, keep)

  @property
  def newest(self) -> str | None:
    """Returns the path of the newest, as found or saved here, or None."""
    return self._manager.latest_checkpoint

  def restore(self) -> str | None:
    """Restores the newest that can be read.

    Returns:
      Its path; None if there is no checkpoint.

    Raises:
      UserError: If it does not fit, or there are some and none can be read.
    """
    paths = list(reversed(self._manager.checkpoints))
    for path in paths:
      problem = _check(path)
      if problem:
        print(f"{path} cannot be read ({problem})", file=sys.stderr, flush=True)
        continue
      try:
        self._known_to(path).restore(path).assert_consumed()
      except (AssertionError, *_UNREADABLE) as e:
        raise UserError(
          f"{path} does not fit this model and optimizer: continue with the "
          "configuration it was made with, or choose another --workdir."
        ) from e
      return path
    if paths:
      raise UserError(
        f"none of the {len(paths)} checkpoints beside {paths[0]} can be read: "
        "choose another --workdir, or delete them to begin again."
      )
    return None

  def save(self, step: int) -> None:
    """Writes a checkpoint, and deletes those that are too many.

    Raises:
      UserError: If it cannot be written, even after some time; where other
        workers take part, at once.
    """
    for wait_seconds in (*self._retry_seconds, None):
      try:
        # Saving adds 1. TensorFlow would count the savings, which a stop or a
        # second try add to, and no two runs would end alike.
        self._checkpoint.save_counter.assign(step - 1)
        self._write(step)
        return
      except (tf.errors.OpError, OSError) as e:
        self._remove_rest(step)
        reason = messages.first_line(str(e))
      message = f"the checkpoint of step {step} cannot be written ({reason})"
      if wait_seconds is None:
        raise UserError(
          f"{message}; the newest is {self.newest or 'none'}: make room there "
          "and give the same command again."
        )
      print(
        f"{message}; trying again in {wait_seconds} s",
        file=sys.stderr,
        flush=True,
      )
      time.sleep(wait_seconds)

  def _known_to(self, path: str) -> tf.train.Checkpoint:
    """Returns what is saved, less what the older version did not know."""
    there = tf.train.load_checkpoint(path).get_variable_to_shape_map()
    lacking = {
      name
      for name in self._may_lack
      if f"{name}/.ATTRIBUTES/VARIABLE_VALUE" not in there
    }
    if not lacking:
      return self._checkpoint
    children = tf.train.TrackableView(self._checkpoint).children(
      self._checkpoint
    )
    return tf.train.Checkpoint(
      **{
        name: child
        for name, child in children.items()
        if name not in {*lacking, "save_counter"}
      }
    )

  def _write(self, step: int) -> None:
    if self._is_chief:
      self._manager.save(step)
      return
    with tempfile.TemporaryDirectory() as folder:
      tf.train.CheckpointManager(self._checkpoint, folder, 1).save(step)

  def _remove_rest(self, step: int) -> None:
    """Deletes what a failed write left, which may be what fills the disk."""
    if not self._is_chief:
      return
    folder = self._manager.directory
    with contextlib.suppress(tf.errors.OpError):
      for path in tf.io.gfile.glob(os.path.join(folder, f"ckpt-{step}[._]*")):
        _remove(path)


def _check(path: str) -> str:
  """Reads all of a checkpoint, sums included; says what is wrong with it."""
  try:
    reader = tf.train.load_checkpoint(path)
    for name in reader.get_variable_to_shape_map():
      reader.get_tensor(name)
  except _UNREADABLE as e:
    return messages.first_line(str(e))
  return ""


def _mend_list(folder: str) -> None:
  """Removes what a killed run left half written, and lists what is whole.

  The list, a file named "checkpoint", is the last to be written. When it is
  missing or broken although there are checkpoints, it is made again.
  """
  # Not `isdir`, which takes a bucket that does not answer for no folder.
  if not tf.io.gfile.exists(folder):
    return
  names = tf.io.gfile.listdir(folder)
  for name in names:
    if re.fullmatch(r"ckpt-\d+_temp.*|.*\.tmp.*", name.rstrip("/")):
      _remove(os.path.join(folder, name))
  steps = sorted(
    int(match[1])
    for match in (re.fullmatch(r"ckpt-(\d+)\.index", name) for name in names)
    if match
  )
  try:
    is_listed = tf.train.get_checkpoint_state(folder) is not None
  except ValueError:  # The list is empty.
    is_listed = False
  if steps and not is_listed:
    paths = [os.path.join(folder, f"ckpt-{step}") for step in steps]
    tf.compat.v1.train.update_checkpoint_state(
      folder,
      paths[-1],
      paths,
      # Times in their order are enough; without any, none would be listed.
      all_model_checkpoint_timestamps=range(1, len(paths) + 1),
      last_preserved_timestamp=0.0,
    )


def _remove(path: str) -> None:
  if tf.io.gfile.isdir(path):
    tf.io.gfile.rmtree(path)
  else:
    tf.io.gfile.remove(path)
