# SPDX-License-Identifier: Apache-2.0
"""Finds the files that the rows of a list mean, whatever they are called."""

from __future__ import annotations

import collections
import dataclasses
import math
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from tf_audioset.data import audio_files

_ID_LENGTH = 11  # Of YouTube's ids.
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
# Words in names that belong to a number, as in "start30_end40", "30s".
_WORD_OF_TIME = re.compile(r"(?<=\d)(?:ms|sec|s)(?![A-Za-z])|start|end|from|to")


@dataclasses.dataclass(frozen=True)
class Segment:
  """A part of a video, as a row of AudioSet's lists has it."""

  video: str
  start_seconds: float
  end_seconds: float


def of_segments(
  segments: Sequence[Segment], paths: Iterable[str]
) -> list[list[str]]:
  """Finds the files of segments by their names.

  A name without its ending is, in this order of precedence:

  - ID or YID, alone or with start or start and end behind, in seconds or
    milliseconds, as `_usual_names` has them;
  - any text with the id in it, as a word of its own, and the start behind it in
    any spelling;
  - the same without a number behind it, or with other words.

  A name that tells another start is another segment's. If a video has several
  segments, only names that tell the start count.

  Args:
    segments: Different ones.
    paths: Sorted.

  Returns:
    The files of each segment, the one to take first; of equals the one whose
    path is first.
  """
  starts = collections.Counter(
    video for video, _ in {(x.video, x.start_seconds) for x in segments}
  )
  finder = _IdFinder(starts)
  of_video = collections.defaultdict(list)  # (path, stem, behind the id)
  for path in paths:
    stem = _stem(path)
    if place := finder.find(stem):
      video, behind = place
      of_video[video].append((path, stem, behind))
  return [
    _ranked(segment, of_video.get(segment.video, ()), starts[segment.video] > 1)
    for segment in segments
  ]


def _ranked(segment, files, must_tell_start) -> list[str]:
  """Returns those of a video's files that are a segment's, the best first."""
  if len(files) == 1 and not must_tell_start:
    ((path, _, behind),) = files
    if not behind:
      return [path]  # Most of millions.
  if not files:
    return []
  # Of a start of 0, seconds and milliseconds are the same name.
  names = dict.fromkeys(_usual_names(segment, must_tell_start))
  ranks = {name: rank for rank, name in enumerate(names)}
  ranked = []
  for path, stem, behind in files:
    rank = ranks.get(stem)
    if rank is None:
      tells_start = _tells_start(behind, segment)
      if tells_start is False or (must_tell_start and not tells_start):
        continue
      rank = len(ranks) + (not tells_start)
    ranked.append((rank, path))
  return [path for _, path in sorted(ranked)]


def _usual_names(segment: Segment, must_tell_start: bool) -> Iterator[str]:
  """Yields the names under which most downloaders store a segment."""
  start, end = segment.start_seconds, segment.end_seconds
  suffixes = [] if must_tell_start else [""]
  for written in ("{:g}".format, "{:.3f}".format, lambda t: f"{t * 1000:.0f}"):
    suffixes += [f"_{written(start)}", f"_{written(start)}_{written(end)}"]
  for prefix in ("", "Y"):
    for suffix in suffixes:
      yield f"{prefix}{segment.video}{suffix}"


class _IdFinder:
  """Finds ids in names."""

  def __init__(self, ids: Iterable[str]):
    self._ids = frozenset(ids)
    self._lengths = sorted({len(video) for video in self._ids}, reverse=True)

  def find(self, stem: str) -> tuple[str, str] | None:
    """Returns an id that is a word in a name, and what stands behind it."""
    if stem in self._ids:
      return stem, ""
    # "Title [ID]" tells it best; a title may hold another id.
    bracketed = re.findall(r"\[([^\[\]]+)\]", stem) if "[" in stem else []
    for video in reversed(bracketed):
      if video in self._ids:
        return video, stem.rpartition(f"[{video}]")[2]
    for length in self._lengths:
      last = len(stem) - length if length == _ID_LENGTH else 4
      # The last one in the name: what stands in front is a title.
      for place in range(min(last, len(stem) - length), -1, -1):
        video = stem[place : place + length]
        before, behind = stem[:place], stem[place + length :]
        if video in self._ids and _is_word(before, behind):
          if length == _ID_LENGTH or before in ("", "Y", "id_"):
            return video, behind
    return None


def _is_word(before: str, behind: str) -> bool:
  # Downloaders put a Y in front.
  if before[-1:] == "Y" and not before[-2:-1].isalnum():
    before = ""
  return not before[-1:].isalnum() and not behind[:1].isalnum()


def _tells_start(behind: str, segment: Segment) -> bool | None:
  """Returns whether the rest of a name has a segment's start, or None."""
  numbers = _NUMBER.findall(behind)
  if not numbers:
    return None
  if _is_time(numbers[0], segment.start_seconds):
    return True
  # Other words, such as "16kHz", make it something else than a time.
  has_words = re.search("[A-Za-z]", _WORD_OF_TIME.sub("", behind))
  return None if has_words else False


def _is_time(text: str, seconds: float) -> bool:
  value = float(text)
  return (
    abs(value - seconds) < 6e-4
    or abs(value - 1000 * seconds) < 0.6
    # Downloaders that take whole seconds.
    or ("." not in text and value in (math.floor(seconds), round(seconds)))
  )


def of_names(
  names: Iterable[str], source: Collection | Places
) -> tuple[dict[str, list[str]], dict[str, str]]:
  """Finds the files that a list's names for them mean.

  A file that is at the place that one name tells is not taken for another
  name that only resembles it.

  Args:
    names: As the list has them.
    source: Where to look.

  Returns:
    The files of each name, the best first, and, of names that are left without
    one because others fit it as well as they do, the file.
  """
  names = list(dict.fromkeys(names))
  found, unclear = {}, {}
  for name in names:
    if path := source.at_place(name):
      found[name] = [path]
  claimed = {paths[0] for paths in found.values()}
  left = {n: source.resembling(n) for n in names if n not in found}
  for _ in range(_NUM_LEVELS):
    claims = collections.defaultdict(list)
    for name, levels in left.items():
      if paths := [path for path in next(levels) if path not in claimed]:
        found[name] = paths
        claims[paths[0]].append(name)
    for path, claimants in claims.items():
      for name in claimants:
        del left[name]
        if len(claimants) > 1:
          del found[name]
          unclear[name] = path
    claimed.update(claims)
  return found, unclear


_NUM_LEVELS = 3  # Of what `resembling` yields.


class Collection:
  """Audio files of a folder, to be found by what a list calls them."""

  def __init__(self, paths: Iterable[str], folder: str):
    """Makes a collection.

    Args:
      paths: Sorted.
      folder: Above all of them.
    """
    self._by_place = {}
    self._by_name = collections.defaultdict(list)
    self._by_stem = collections.defaultdict(list)
    start = len(folder.rstrip("/")) + 1
    for path in paths:
      place = unicodedata.normalize("NFC", path[start:])
      self._by_place.setdefault(place, path)
      self._by_name[os.path.basename(place)].append(path)
      self._by_stem[_stem(place)].append(path)

  def at_place(self, name: str) -> str | None:
    """Returns the file at this place in the folder."""
    return self._by_place.get("/".join(_parts(name)))

  def resembling(self, name: str) -> Iterator[list[str]]:
    """Yields files that may be meant, three times, the best first.

    First the file at the place without the outer folders that the list has in
    front; then the files anywhere under this name; then those under this name
    with another ending of audio or, in the list, none.
    """
    parts = _parts(name)
    inner = ("/".join(parts[i:]) for i in range(1, len(parts)))
    yield [self._by_place[place] for place in inner if place in self._by_place]
    last = parts[-1] if parts else ""
    yield self._by_name.get(last, [])
    stem = _stem(last) if has_audio_ending(last) else last
    yield self._by_stem.get(stem, [])


class Places:
  """Files beside a list, or anywhere if it says so.

  Folders are listed once each, where a request for each of millions of files
  would take long. In a bucket none is: a file that is not there is found out
  when it is read.
  """

  def __init__(self, folder: str):
    """Makes it for the list's folder."""
    self._folder = folder
    self._names = {}
    self._collections = {}

  def path(self, name: str) -> str:
    """Returns where a file should be."""
    while name.startswith("./"):
      name = name[2:]
    return name if "://" in name else os.path.join(self._folder, name)

  def at_place(self, name: str) -> str | None:
    """Returns the file at this place."""
    path = self.path(name)
    if "://" in path:
      return path
    folder, last = os.path.split(path)
    return path if last in self._listed(folder) else None

  def resembling(self, name: str) -> Iterator[list[str]]:
    """Yields what `Collection.resembling` does, of the file's folder."""
    path = self.path(name.replace("\\", "/"))
    folder, last = os.path.split(path)
    if folder not in self._collections:
      paths = (os.path.join(folder, x) for x in sorted(self._listed(folder)))
      self._collections[folder] = Collection(
        filter(has_audio_ending, paths), folder
      )
    collection = self._collections[folder]
    same = collection.at_place(last)  # Composed otherwise, or with a backslash.
    yield [same] if same else []
    _, *others = collection.resembling(last)
    yield from others

  def _listed(self, folder: str) -> frozenset[str]:
    if folder not in self._names:
      try:
        self._names[folder] = frozenset(os.listdir(folder or "."))
      except (OSError, ValueError):
        self._names[folder] = frozenset()
    return self._names[folder]


def _parts(name: str) -> list[str]:
  """Returns the folders and the file of a path, composed (NFC)."""
  parts = unicodedata.normalize("NFC", name.replace("\\", "/")).split("/")
  return [part for part in parts if part not in ("", ".")]


def has_audio_ending(path: str) -> bool:
  """Returns whether a name ends as those of audio files do."""
  return os.path.splitext(path)[1].lower() in audio_files.KNOWN_ENDINGS


def _stem(path: str) -> str:
  """Returns a file's name without its ending, composed (NFC)."""
  stem = os.path.splitext(os.path.basename(path))[0]
  return stem if stem.isascii() else unicodedata.normalize("NFC", stem)
