# SPDX-License-Identifier: Apache-2.0
"""The audio files that a command is given, also those that are pipes."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Sequence

from tf_audioset.data import audio, audio_files
from tf_audioset.runtime import outputs

STDIN = "-"


class Inputs:
  """Files that can be read again and again, and the names they were given by.

  Attributes:
    paths: Of the files, in the order of the arguments.
    failures: An `audio.AudioError` of each that cannot be read at all.
  """

  def __init__(self, arguments: Sequence[str]):
    """Finds the files.

    Args:
      arguments: As for `audio_files.expand`; "-" is the standard input.

    Raises:
      ValueError: If a folder or a pattern has no audio file.
    """
    found = audio_files.expand(arguments)
    # Of a folder "." not "./a.wav"; what was named keeps its name.
    self.paths = [
      path if path in arguments else os.path.normpath(path)
      for path in found.paths
    ]
    self.failures = []
    self._passed_over = found.passed_over
    self._given = {}  # Copy to the name it was given by.

  def copy_pipes(self, folder: str) -> None:
    """Copies what can be read only once, and is to be read more often.

    Args:
      folder: Where the copies go.
    """
    copies = {}
    for path in filter(_is_read_once, dict.fromkeys(self.paths)):
      # No name is the beginning of another: see `shown`.
      copies[path] = os.path.join(folder, f"{len(copies)}.input")
      try:
        _copy(path, copies[path])
        self._given[copies[path]] = path
      except OSError as e:
        copies[path] = None
        message = f"{path}: cannot be read ({outputs.reason(e)})"
        self.failures.append(audio.AudioError(message))
    self.paths = [copies.get(path, path) for path in self.paths]
    self.paths = [path for path in self.paths if path is not None]

  def passed_over(self) -> str:
    """Returns a line on the files of folders that are no audio, or nothing."""
    return audio_files.summary(self._passed_over)

  @property
  def num_unreadable(self) -> int:
    """Returns how many files of folders could not even be looked into."""
    reasons = [*self._passed_over.values()]
    return reasons.count(audio_files.UNREADABLE)

  def given(self, path: str) -> str:
    """Returns the name that a path was given by.

    It is UTF-8: other bytes are spelled out.
    """
    given = self._given.get(path, path)
    return os.fsencode(given).decode("utf-8", "backslashreplace")

  def shown(self, text: str) -> str:
    """Returns a message with the given names in the place of the copies'."""
    for path, given in self._given.items():
      text = text.replace(path, given)
    return text

  def output_names(self) -> dict[str, str]:
    """Returns names for what is written for each path, see `mirrored`."""
    names = outputs.mirrored([x for x in self.paths if x not in self._given])
    for path, given in self._given.items():
      name = "stdin" if given == STDIN else os.path.basename(given)
      while name in names.values():
        name += "_"
      names[path] = name
    return names


def _is_read_once(path: str) -> bool:
  """Returns whether it is a pipe or another file that is not regular."""
  if path == STDIN:
    return True
  try:
    return not stat.S_ISREG(os.stat(path).st_mode)
  except OSError:
    return False  # Whatever reads it will tell.


def _copy(path: str, copy: str) -> None:
  """Copies a pipe to its end.

  Raises:
    OSError: If it is something else, which may have no end, or if that fails.
  """
  if path == STDIN:
    source = sys.stdin.buffer
  elif stat.S_ISFIFO(os.stat(path).st_mode):
    source = open(path, "rb")
  else:
    raise OSError(0, "a device or socket; - is the standard input")
  with source, open(copy, "wb") as file:
    shutil.copyfileobj(source, file)
