# SPDX-License-Identifier: Apache-2.0
"""Where results go: tried before the work begins, and named after the inputs.

Nothing here imports TensorFlow where a path is on a disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence

from tf_audioset.runtime import messages
from tf_audioset.runtime.errors import UserError

# File systems take 255 bytes; a temporary name and an ending have room.
_MAX_NAME_BYTES = 220
_NUM_NAMED = 3  # Files in a message.


def check_folder(folder: str, flag: str) -> None:
  """Makes a folder, and sees that a file can be written in it.

  Args:
    folder: On a disk or in a bucket.
    flag: The name of the flag with which another place is given.

  Raises:
    UserError: If that fails; the message says why.
  """
  try:
    if "://" in folder:
      _try_bucket(folder)
    else:
      os.makedirs(folder, exist_ok=True)
      _try_disk(folder)
  except Exception as e:
    if not is_of_storage(e):
      raise
    raise UserError(
      f"{folder}: cannot be written to ({reason(e)}): give another place with "
      f"--{flag}."
    ) from e


def check_file(path: str, flag: str) -> None:
  """Makes a file's folder, and sees that it can be written in it.

  Args:
    path: Of the file, on a disk or in a bucket.
    flag: The name of the flag it was given with.

  Raises:
    UserError: If that fails, or another thing than a file is there.
  """
  if path.endswith("/") or os.path.isdir(path):
    raise UserError(f"--{flag}={path}: a folder; give a file in it.")
  if os.path.exists(path) and not os.path.isfile(path):
    raise UserError(f"--{flag}={path}: that is no file.")
  path = real(path)
  if "://" not in path and len(os.fsencode(os.path.basename(path))) > 255:
    raise UserError(f"--{flag}={path}: the name has more than 255 bytes.")
  check_folder(os.path.dirname(path) or ".", flag)


def real(path: str) -> str:
  """Returns the path or, if it is a link to a file, the path of that.

  A file that is replaced at one stroke would else take the link's place.
  """
  return path if "://" in path else os.path.realpath(path)


def _try_disk(folder: str) -> None:
  path = os.path.join(folder, f".trial.tmp-{os.getpid()}")
  try:
    with open(path, "wb") as file:
      file.write(b"?")
  finally:
    with contextlib.suppress(OSError):
      os.remove(path)


def _try_bucket(folder: str) -> None:
  import tensorflow as tf

  from tf_audioset.runtime import storage

  storage.check_bucket(folder)
  tf.io.gfile.makedirs(folder)
  path = os.path.join(folder, f".trial.tmp-{os.getpid()}")
  storage.write_file(path, b"?")
  tf.io.gfile.remove(path)


def is_of_storage(error: Exception) -> bool:
  """Returns whether a disk or a bucket can be the cause of an error."""
  if isinstance(error, OSError):
    return True
  # It is of TensorFlow, if that was imported.
  return any(kind.__name__ == "OpError" for kind in type(error).__mro__)


def reason(error: Exception) -> str:
  """Returns why a disk or a bucket refused, without the path."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  return messages.first_line(str(error)).rpartition("; ")[2]


class Writer:
  """Writes files; what cannot be written does not keep back the others."""

  def __init__(self):
    """Starts without any."""
    self._failures = []

  def write(self, path: str, content: bytes) -> bool:
    """Writes a file at one stroke; returns whether that worked.

    Its folder is made. What follows another file's failure is tried all the
    same.
    """
    import tensorflow as tf

    from tf_audioset.runtime import storage

    try:
      tf.io.gfile.makedirs(os.path.dirname(path) or ".")
      storage.write_file(real(path), content)
    except Exception as e:
      if not is_of_storage(e):
        raise
      self.fail(path, reason(e))
      return False
    return True

  def fail(self, path: str, why: str) -> None:
    """Remembers that a file could not be made."""
    self._failures.append(f"{path} ({why})")

  def close(self) -> None:
    """Tells what could not be written.

    Raises:
      UserError: If there was any such file.
    """
    if self._failures:
      named = ", ".join(self._failures[:_NUM_NAMED])
      more = len(self._failures) - _NUM_NAMED
      more = f" and {more:,} more" if more > 0 else ""
      raise UserError(f"could not be written: {named}{more}")


def mirrored(paths: Sequence[str]) -> dict[str, str]:
  """Names for what is written for each file, as the files lie in folders.

  Args:
    paths: Of the files.

  Returns:
    For each path that below the folder which all have in common, different for
    different files. It is UTF-8, and a long name is cut, so that an ending of
    some letters can be added to it.
  """
  whole = {path: os.path.abspath(path) for path in paths}
  folders = {os.path.dirname(path) for path in whole.values()}
  top = os.path.commonpath(folders) if folders else ""
  names, taken = {}, {}
  for path, full in whole.items():
    *parents, name = (
      # Other bytes than those of UTF-8 are spelled out.
      _shortened(os.fsencode(part).decode("utf-8", "backslashreplace"))
      for part in os.path.relpath(full, top).split(os.sep)
    )
    name = os.path.join(*parents, name)
    # Two of these may still agree.
    while taken.setdefault(name, full) != full:
      name += "_"
    names[path] = name
  return names


def _shortened(name: str) -> str:
  """Returns the name or, if it is too long, its beginning and a digest."""
  content = name.encode()
  if len(content) <= _MAX_NAME_BYTES:
    return name
  digest = hashlib.sha256(content).hexdigest()[:12]
  kept = content[: _MAX_NAME_BYTES - len(digest) - 1].decode(errors="ignore")
  return f"{kept}-{digest}"
