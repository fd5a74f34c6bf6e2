# SPDX-License-Identifier: Apache-2.0
"""The bytes of an audio file: read anywhere, searched, and shown in part."""

from __future__ import annotations

import bisect
import io
import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

from tf_audioset.runtime.errors import UserError

# Bytes searched at once.
_BLOCK_BYTES = 1 << 22


class AudioError(UserError):
  """A file that holds no usable audio; the message names it and says why."""


class Part(NamedTuple):
  """One recording in a file: all of it, unless several were joined."""

  begin: int  # Bytes of the file, to `end`.
  end: int
  # Ranges between them that are no part of it.
  holes: tuple[tuple[int, int], ...] = ()
  # Stands before them, in place of a header that is wrong.
  prefix: bytes = b""
  # The length that its header states. None if it states none, or if that is
  # not known before a library has opened it.
  seconds: float | None = None
  # The same in frames, where it is exact: what decodes beyond is padding.
  num_frames: int | None = None
  # Whether that is the length of the longest stream, perhaps one of pictures.
  is_longest_stream: bool = False
  # Of the bytes of samples that the header counts, how many there are.
  kept: float = 1.0
  # Why it must be incomplete, though no length is stated; "" if it need not be.
  cut: str = ""
  # Whether the length that FFmpeg states comes from the header.
  is_length_known_to_ffmpeg: bool = False
  # Decoded, but not wanted, at its beginning.
  skipped_frames: int = 0
  remarks: tuple[str, ...] = ()


class Bytes:
  """Reads and searches a seekable binary file, and does not hold it."""

  def __init__(self, file: BinaryIO):
    """Takes a file, whose position changes with every call."""
    self.file = file
    self.size = file.seek(0, os.SEEK_END)

  def read(self, begin: int, num_bytes: int) -> bytes:
    """Returns these bytes, or as many of them as there are."""
    if begin >= self.size:
      return b""
    self.file.seek(begin)
    parts, missing = [], min(num_bytes, self.size - begin)
    # A raw file may give less than it is asked for.
    while missing and (part := self.file.read(missing)):
      parts.append(part)
      missing -= len(part)
    return b"".join(parts)

  def number(self, begin: int, num_bytes: int, order: str) -> int:
    """Returns an unsigned integer; `order` is "little" or "big"."""
    return int.from_bytes(self.read(begin, num_bytes), order)

  def find(self, wanted: bytes, begin: int = 0, end: int | None = None) -> int:
    """Returns where `wanted` begins next, before `end`; -1 if nowhere."""
    return next(self.find_all((wanted,), begin, end), -1)

  def find_all(
    self, wanted: Sequence[bytes], begin: int = 0, end: int | None = None
  ) -> Iterator[int]:
    """Yields where any of some byte strings begins, in order, before `end`."""
    end = self.size if end is None else min(end, self.size)
    overlap = max(map(len, wanted)) - 1
    while begin < end:
      num_bytes = min(_BLOCK_BYTES, end - begin)
      block = self.read(begin, num_bytes + overlap)
      places = set()
      for string in wanted:
        place = block.find(string)
        while 0 <= place < num_bytes:
          places.add(begin + place)
          place = block.find(string, place + 1)
      yield from sorted(places)
      begin += num_bytes


class Window(io.RawIOBase):
  """A file of a part's bytes only, which libraries can read and seek in.

  Has no name: FFmpeg would look at the name's ending.
  """

  def __init__(self, file: BinaryIO, part: Part):
    """Shows `part.prefix` and the bytes of the part, without its holes."""
    self._file = file
    self._prefix = part.prefix
    begins = [part.begin, *(end for _, end in part.holes)]
    ends = [*(begin for begin, _ in part.holes), part.end]
    self._file_begins = begins
    # Where the ranges begin in the window; and where the last one ends.
    self._begins = [len(part.prefix)]
    for begin, end in zip(begins, ends):
      self._begins.append(self._begins[-1] + end - begin)
    self.size = self._begins.pop()
    self._place = self._num_read = 0

  def num_unread(self) -> int:
    """Returns how many bytes were not read, if none was read twice."""
    return max(self.size - self._num_read, 0)

  def readable(self) -> bool:
    return True

  def seekable(self) -> bool:
    return True

  def tell(self) -> int:
    return self._place

  def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
    base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place}.get(whence, self.size)
    self._place = min(max(base + offset, 0), self.size)
    return self._place

  def readinto(self, buffer) -> int:
    view = memoryview(buffer).cast("B")
    if self._place < len(self._prefix):
      part = self._prefix[self._place : self._place + len(view)]
      view[: len(part)] = part
      num_bytes = len(part)
    else:
      index = bisect.bisect_right(self._begins, self._place) - 1
      end = [*self._begins, self.size][index + 1]
      offset = self._place - self._begins[index]
      self._file.seek(self._file_begins[index] + offset)
      missing = end - self._place
      num_bytes = self._file.readinto(view[: min(len(view), missing)])
    self._place += num_bytes
    self._num_read += num_bytes
    return num_bytes
