# SPDX-License-Identifier: Apache-2.0
"""Finds the audio files in folders, and accounts for all other files there.

A file is taken for what its first bytes say, not for its name. Does not import
TensorFlow unless a path is in a bucket.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import glob
import os
import re
import stat
from collections.abc import Iterator, Sequence

from tf_audioset.data import audio_containers
from tf_audioset.runtime.errors import UserError

# A file of such a name is audio or pretends to be: it is not opened here, since
# whatever reads it will tell what is wrong with it. Others are looked into.
KNOWN_ENDINGS = frozenset(
  ".wav .wave .bwf .rf64 .w64 .flac .ogg .oga .opus .spx .mp3 .mp2 .mpga .m4a "
  ".m4b .mp4 .m4v .mov .3gp .3g2 .webm .weba .mka .mkv .aif .aiff .aifc .au "
  ".snd .caf .aac .adts .ac3 .wma .amr .avi .sph".split()
)

# What operating systems and network drives leave in folders. Names that begin
# with a dot are passed over as well.
_SYSTEM_NAMES = frozenset(
  name.lower()
  for name in (
    "__MACOSX",
    "Thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "Icon\r",
    "@eaDir",
    "#recycle",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
  )
)
_UNFINISHED = re.compile(
  r"\.(part|partial|crdownload|download)(-frag\d+)?", re.IGNORECASE
)

HIDDEN = "hidden"
SYSTEM = "a file of the operating system"
NOT_AUDIO = "no audio"
UNFINISHED = "an unfinished download"
PIPE = "a pipe"
SOCKET = "a socket"
DEVICE = "a device"
BROKEN_LINK = "a broken link"
LINK_TO_ABOVE = "a link to a folder above"
LINK_TO_SEEN = "a link to a folder that is read already"
UNREADABLE = "unreadable"

# How one file and several files of a reason are counted.
_COUNTED = {
  HIDDEN: ("hidden", "hidden"),
  SYSTEM: ("of the operating system", "of the operating system"),
  UNFINISHED: ("unfinished download", "unfinished downloads"),
  PIPE: ("pipe", "pipes"),
  SOCKET: ("socket", "sockets"),
  DEVICE: ("device", "devices"),
  BROKEN_LINK: ("broken link", "broken links"),
  LINK_TO_ABOVE: ("link to a folder above", "links to folders above"),
  LINK_TO_SEEN: (
    "link to a folder that is read already",
    "links to folders that are read already",
  ),
  UNREADABLE: ("unreadable", "unreadable"),
}
_NUM_ENDINGS = 8  # In a summary; the rest are counted together.
_NUM_NAMED = 3  # Paths of a reason in a summary.
# Requests to a bucket that wait at the same time.
_NUM_THREADS = 32


@dataclasses.dataclass(frozen=True)
class Found:
  """The files of a folder, every one in one of two places.

  Attributes:
    paths: The files that are audio or pretend to be.
    passed_over: What else is there, and why it is not taken: path -> reason,
      one of this module's constants. A folder that is not looked into is one
      of them, and its path ends with a slash.
  """

  paths: list[str]
  passed_over: dict[str, str]

  def __len__(self) -> int:
    """Returns the number of all files."""
    return len(self.paths) + len(self.passed_over)

  def summary(self, start: str = "") -> str:
    """Returns one line on what was passed over; empty if that is nothing.

    Args:
      start: A folder; paths below it are written as seen from there.

    Returns:
      Such as "passed over: 4 .txt, 2 .jpg, 1 pipe (dog/live.wav)".
    """
    return summary(self.passed_over, start)


def summary(passed_over: dict[str, str], start: str = "") -> str:
  """Returns the line of `Found.summary`."""
  if not passed_over:
    return ""
  by_reason = collections.defaultdict(list)
  for path, reason in passed_over.items():
    by_reason[reason].append(path)
  endings = collections.Counter(map(_ending, by_reason.pop(NOT_AUDIO, ())))
  common = endings.most_common(_NUM_ENDINGS)
  parts = [f"{count:,} {ending}" for ending, count in common]
  if rest := sum(endings.values()) - sum(count for _, count in common):
    parts.append(f"{rest:,} of other endings")
  for reason, paths in by_reason.items():
    named = [printable(path, start) for path in paths[:_NUM_NAMED]]
    named += ["..."] * (len(paths) > _NUM_NAMED)
    what = _COUNTED.get(reason, (reason, reason))[len(paths) > 1]
    parts.append(f"{len(paths):,} {what} ({', '.join(named)})")
  return "passed over: " + ", ".join(parts)


def printable(path: str, start: str = "") -> str:
  """Returns a path as text that any terminal and JSON can hold.

  Args:
    path: May have bytes that are not UTF-8.
    start: A folder that is left out of the paths below it.
  """
  if start and path.startswith(start.rstrip("/") + "/"):
    path = path[len(start.rstrip("/")) + 1 :]
  text = os.fsencode(path).decode("utf-8", errors="backslashreplace")
  return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def find(folder: str) -> Found:
  """Finds the audio files in a folder and its subfolders.

  Links to folders are followed, but no folder is read twice, and none above.

  Args:
    folder: On a disk or in a bucket.

  Returns:
    Sorted paths, and what was passed over.

  Raises:
    OSError: If the folder is on a disk and cannot be listed.
    tf.errors.OpError: The same of a bucket.
  """
  folder = folder.rstrip("/") or "/"
  passed_over = {}
  walk = _walk_bucket if "://" in folder else _walk_disk
  paths = sorted(walk(folder, passed_over))
  return Found(paths, dict(sorted(passed_over.items())))


def folders(folder: str) -> list[str]:
  """Returns the names of the folders in a folder, sorted.

  Without those that `find` passes over by their names.

  Args:
    folder: On a disk or in a bucket.
  """
  if "://" in folder:
    import tensorflow as tf

    names = [
      name.rstrip("/")
      for name in filter(None, set(tf.io.gfile.listdir(folder)))
      if name.endswith("/")
      or (not _has_known_ending(name) and tf.io.gfile.isdir(f"{folder}/{name}"))
    ]
  else:
    names = [entry.name for entry in os.scandir(folder) if _is_folder(entry)]
  return sorted(
    name for name in names if _why_not_by_name(name) not in (HIDDEN, SYSTEM)
  )


def expand(arguments: Sequence[str]) -> Found:
  """Finds the audio files that the arguments of a command mean.

  Args:
    arguments: Files, folders (all audio in and below them) and glob patterns,
      all on a disk. What is none of them is taken for the name of a file.

  Returns:
    The files in the order of the arguments, those of a folder or a pattern
    sorted. A file that is named is taken as it is.

  Raises:
    UserError: If a folder or a pattern has no audio file.
  """
  files, passed_over = [], {}
  for argument in arguments:
    if os.path.isdir(argument):
      found = find(argument)
    elif glob.has_magic(argument) and not os.path.exists(argument):
      found = _matching(argument)
    else:
      found = Found([argument], {})
    if not found.paths:
      told = found.summary(argument) or "nothing is there"
      raise UserError(f"{argument}: no audio file there ({told}).")
    files += found.paths
    passed_over.update(found.passed_over)
  return Found(files, passed_over)


def _matching(pattern: str) -> Found:
  """Finds the audio in what a pattern matches, each file once."""
  paths, passed_over = {}, {}
  for path in sorted(glob.glob(pattern, recursive=True)):
    if os.path.isdir(path):
      found = find(path)
      paths.update(dict.fromkeys(found.paths))
      passed_over.update(found.passed_over)
    elif reason := _why_not(path):
      passed_over[path] = reason
    else:
      paths[os.path.normpath(path)] = None
  return Found(sorted(paths), passed_over)


def _walk_disk(folder: str, passed_over: dict[str, str]) -> Iterator[str]:
  home = os.path.realpath(folder)
  seen = set()
  # Links are followed when all else was seen: one may lead to where it is.
  todo, links = collections.deque([folder]), collections.deque()
  while todo or links:
    parent = todo.popleft() if todo else links.popleft()
    real = os.path.realpath(parent)
    if real in seen:
      passed_over[parent + "/"] = LINK_TO_SEEN
      continue
    if real != home and home.startswith(os.path.join(real, "")):
      passed_over[parent + "/"] = LINK_TO_ABOVE
      continue
    seen.add(real)
    try:
      entries = sorted(os.scandir(parent), key=lambda entry: entry.name)
    except OSError:
      if parent == folder:
        raise
      passed_over[parent + "/"] = UNREADABLE
      continue
    for entry in entries:
      reason = _why_not_by_name(entry.name)
      if _is_folder(entry):
        if reason in (HIDDEN, SYSTEM):
          passed_over[entry.path + "/"] = reason
        else:
          (links if entry.is_symlink() else todo).append(entry.path)
      elif reason := reason or _why_not(entry.path, entry):
        passed_over[entry.path] = reason
      else:
        yield entry.path


def _is_folder(entry: os.DirEntry) -> bool:
  try:
    return entry.is_dir()
  except OSError:  # A link to itself.
    return False


def _why_not(path: str, entry: os.DirEntry | None = None) -> str:
  """Returns why a file on a disk is no audio; empty if it is taken."""
  try:
    # A stat of each of millions of files is saved where there is an entry.
    is_regular = entry and entry.is_file()
    mode = stat.S_IFREG if is_regular else os.stat(path).st_mode
  except OSError:
    return BROKEN_LINK if os.path.islink(path) else UNREADABLE
  for is_kind, reason in (
    (stat.S_ISFIFO, PIPE),
    (stat.S_ISSOCK, SOCKET),
    (stat.S_ISCHR, DEVICE),
    (stat.S_ISBLK, DEVICE),
  ):
    if is_kind(mode):
      return reason
  if _has_known_ending(path):
    return ""
  try:
    with open(path, "rb") as file:
      head = file.read(audio_containers.HEAD_BYTES)
  except OSError:
    return UNREADABLE
  return "" if audio_containers.container_of(head) else NOT_AUDIO


def _walk_bucket(folder: str, passed_over: dict[str, str]) -> Iterator[str]:
  import tensorflow as tf

  def look_into(path):
    try:
      with tf.io.gfile.GFile(path, "rb") as file:
        head = file.read(audio_containers.HEAD_BYTES)
    except tf.errors.OpError:
      # Of a file system whose list does not tell folders from files.
      return None if tf.io.gfile.isdir(path) else UNREADABLE
    return "" if audio_containers.container_of(head) else NOT_AUDIO

  unknown = []
  todo = collections.deque([folder])
  with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
    while todo:
      parent = todo.popleft()
      # A set: a request that failed gives names twice.
      for name in sorted(filter(None, set(tf.io.gfile.listdir(parent)))):
        path = f"{parent}/{name}"
        reason = _why_not_by_name(name.rstrip("/"))
        if reason and not (name.endswith("/") and reason == UNFINISHED):
          passed_over[path] = reason
        elif name.endswith("/"):
          todo.append(path.rstrip("/"))
        elif _has_known_ending(name):
          yield path
        else:
          unknown.append(path)
      if not todo:
        for path, reason in zip(unknown, pool.map(look_into, unknown)):
          if reason is None:
            todo.append(path)
          elif reason:
            passed_over[path] = reason
          else:
            yield path
        unknown.clear()


def _why_not_by_name(name: str) -> str:
  if name.startswith("."):
    return HIDDEN
  if name.lower() in _SYSTEM_NAMES:
    return SYSTEM
  if _UNFINISHED.fullmatch(name[name.rfind(".") :]):
    return UNFINISHED
  return ""


def _has_known_ending(name: str) -> bool:
  return os.path.splitext(name)[1].lower() in KNOWN_ENDINGS


def _ending(path: str) -> str:
  ending = os.path.splitext(path)[1].lower()
  return printable(ending) if ending.strip(".") else "without an ending"
