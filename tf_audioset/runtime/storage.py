# SPDX-License-Identifier: Apache-2.0
"""Files that are written whole, on a disk or in a bucket."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import re
from collections.abc import Iterator
from typing import IO, Any

import tensorflow as tf

from tf_audioset.runtime import messages
from tf_audioset.runtime.errors import UserError


def write_file(path: str, content: bytes) -> None:
  """Writes a file that is never seen half written."""
  folder, name = os.path.split(path)
  if "://" not in path:  # On a disk a name has 255 bytes.
    name = name.encode()[:230].decode(errors="ignore")
  temporary = os.path.join(folder, f"{name}.tmp-{os.getpid()}")
  try:
    with tf.io.gfile.GFile(temporary, "wb") as file:
      file.write(content)
    tf.io.gfile.rename(temporary, path, overwrite=True)
  except tf.errors.OpError:
    with contextlib.suppress(tf.errors.OpError):
      tf.io.gfile.remove(temporary)  # On a disk that may be full.
    raise


def write_json(path: str, content: Any, indent: int = 1) -> None:
  """Writes a file of JSON, see `to_json`, as `write_file` does."""
  write_file(path, (to_json(content, indent) + "\n").encode())


def to_json(value: Any, indent: int | None = None) -> str:
  """Formats JSON, with null for nan and infinity, which it does not have."""

  def finite(value):
    if isinstance(value, dict):
      return {key: finite(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
      return [*map(finite, value)]
    if isinstance(value, float) and not math.isfinite(value):
      return None
    return value

  return json.dumps(finite(value), indent=indent, allow_nan=False)


def check_no_pattern(path: str) -> None:
  """Refuses a path at which TensorFlow could write checkpoints but not read.

  Raises:
    UserError: If the path has a character that its reader takes for a part of
      a pattern.
  """
  found = re.search(r"[\[\\]", path)
  if found:
    raise UserError(
      f"{path}: TensorFlow cannot read checkpoints whose path has a "
      f"{found[0]}: choose another."
    )


def remove_stale_files(folder: str) -> None:
  """Removes what `write_file` left in a folder when it was killed.

  The caller makes sure that no other process is writing there.
  """
  with contextlib.suppress(OSError):
    for name in os.listdir(folder):
      if re.search(r"\.tmp-\d+$", name):
        os.remove(os.path.join(folder, name))


@contextlib.contextmanager
def taking_turns(folder: str) -> Iterator[None]:
  """Waits until no other process is within this context for the same folder.

  What a process that was killed in it left half written is removed. In a
  bucket and on file systems without locks it does nothing.

  Args:
    folder: Must exist.
  """
  if "://" in folder:
    yield
    return
  with contextlib.ExitStack() as stack:
    with contextlib.suppress(OSError):
      # The folder itself, so that no file is left for the lock.
      descriptor = os.open(folder, os.O_RDONLY)
      stack.callback(os.close, descriptor)
      fcntl.flock(descriptor, fcntl.LOCK_EX)
      remove_stale_files(folder)
    yield


def lock(folder: str) -> IO | None:
  """Keeps other processes from locking a folder, which must exist.

  Returns:
    What holds the lock for as long as it is kept. None where there can be none:
    on file systems without locks, in another user's lock file; and in a bucket,
    for which there is `bucket_lock`.

  Raises:
    UserError: If another process has it.
  """
  if "://" in folder:
    return None
  try:
    file = open(os.path.join(folder, ".lock"), "w")
    # Of this process: children have no part in it, and it is free again for the
    # same process after an error, whose traceback may keep the file open.
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    raise UserError(
      f"{folder}: another run is at work there; wait for it, or choose another "
      "folder."
    ) from None
  except OSError:
    return None
  return file


def check_bucket(path: str) -> None:
  """Refuses a path in a bucket that is not there, which is to be written to.

  TensorFlow would try for ever to make a folder in it.

  Raises:
    UserError: If the bucket is missing or does not answer.
  """
  bucket = re.match(r"\w+://[^/]+", path)
  if not bucket:
    return
  try:
    is_there = tf.io.gfile.exists(bucket[0])
  except tf.errors.PermissionDeniedError:
    return  # Who may not ask about the bucket may still write to it.
  except tf.errors.OpError as e:
    raise UserError(f"{bucket[0]}: {messages.first_line(str(e))}") from e
  if not is_there:
    raise UserError(f"{path}: there is no bucket {bucket[0]}: make it first.")
