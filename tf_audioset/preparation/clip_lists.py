# SPDX-License-Identifier: Apache-2.0
"""Labelled audio files, in three forms, to a class list and a list of clips.

Every path may be in a bucket.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from collections.abc import Iterator, Sequence

import tensorflow as tf

from tf_audioset.data import audio, labels
from tf_audioset.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class Clip:
  """One row of a list.

  Attributes:
    id: The clip's name.
    path: None if no file was found.
    labels: Indices into the class list, each once.
    problems: What is wrong with the row, by reason (see audit.py), and more
      words on it.
  """

  id: str
  path: str | None
  labels: tuple[int, ...]
  problems: dict[str, str] = dataclasses.field(default_factory=dict)


def from_segments(
  segments_csv: str, class_labels_csv: str, audio_dir: str
) -> tuple[labels.ClassList, list[Clip]]:
  """AudioSet's form.

  Args:
    segments_csv: Lines of `YTID, start, end, "mid,mid"`, and of `# ...`.
    class_labels_csv: index,mid,display_name.
    audio_dir: Holds the files, in subfolders or not: YTID.wav, YYTID.wav,
      YTID_START.flac, YTID_START_END.mp3 ... with seconds or milliseconds.

  Returns:
    The class list; a clip for each line.

  Raises:
    UserError: If a file is not of that form.
  """
  classes = labels.ClassList.from_csv(class_labels_csv)
  index = classes.index()
  files = {}
  for path in _audio_files(audio_dir):
    # Of two files with one name, the first in the order of paths.
    files.setdefault(os.path.splitext(os.path.basename(path))[0], path)
  clips = []
  rows = _read_csv(segments_csv, skipinitialspace=True)
  for number, row in enumerate(rows, start=1):
    # The official eval list has no # before the names of its columns.
    if row[0].startswith("#") or row[0] == "YTID":
      continue
    if len(row) != 4:
      raise UserError(
        f'{segments_csv}, row {number}: expected YTID, start, end, "mids", '
        f"found {', '.join(row)}."
      )
    clip_id, start, end, mids = row
    try:
      names = _file_names(clip_id, float(start), float(end))
    except ValueError:
      raise UserError(
        f"{segments_csv}: {clip_id}: start {start!r} and end {end!r} must be "
        "seconds."
      ) from None
    path = next(filter(None, map(files.get, names)), None)
    clips.append(_clip(clip_id, path, mids.split(","), index))
  return classes, _checked(segments_csv, clips)


def from_manifest(
  manifest_csv: str, labels_map: str, labels_delim: str = ","
) -> tuple[labels.ClassList, list[Clip]]:
  """A list of files.

  Args:
    manifest_csv: Has the columns files,labels; paths relative to its folder,
      absolute or in a bucket.
    labels_map: JSON, {label: index from 0}.
    labels_delim: Between the labels of a file.

  Returns:
    The class list; a clip for each line, whose id is the file as written there.

  Raises:
    UserError: If a file is not of that form.
  """
  try:
    index = json.loads(_read_text(labels_map))
    names = sorted(index, key=index.get)
    indices = [index[name] for name in names]
    # 0.0 and false equal 0.
    is_integers = all(type(i) is int for i in indices)
    if not is_integers or indices != list(range(len(names))):
      raise UserError("the indices must be 0, 1, 2 ..., integers, each once")
  except (ValueError, TypeError, AttributeError) as e:
    raise UserError(
      f"--labels_map={labels_map}: not label -> index: {e}"
    ) from e
  rows = _read_csv(manifest_csv)
  if not rows or not {"files", "labels"} <= set(rows[0]):
    raise UserError(
      f"{manifest_csv}: the first line must name the columns files,labels."
    )
  if not labels_delim:
    raise UserError("--labels_delim is empty.")
  file_column, label_column = rows[0].index("files"), rows[0].index("labels")
  clips = []
  for number, row in enumerate(rows[1:], start=2):
    if len(row) != len(rows[0]):
      raise UserError(
        f"{manifest_csv}, row {number}: {len(row)} cells, not {len(rows[0])}; "
        "labels with commas need quotes."
      )
    path = row[file_column]
    if "://" not in path:
      path = os.path.join(os.path.dirname(manifest_csv), path)
    given = row[label_column].split(labels_delim)
    clips.append(_clip(row[file_column], path, given, index))
  return labels.ClassList.from_names(names), _checked(manifest_csv, clips)


def from_class_dirs(
  class_dirs: str,
) -> tuple[labels.ClassList, list[Clip]]:
  """A folder with one folder a class.

  Returns:
    The class list; a clip for each audio file, whose id is its path from
    class_dirs on.

  Raises:
    UserError: If there is no folder or no audio file, or a name that is not
      UTF-8.
  """
  root = class_dirs.rstrip("/") or "/"
  names = sorted(
    name.rstrip("/")
    for name in _listed(root)
    # .ipynb_checkpoints, .git ...
    if not name.startswith(".") and tf.io.gfile.isdir(os.path.join(root, name))
  )
  if not names:
    raise UserError(f"--class_dirs={class_dirs}: holds no folder.")
  above = [] if "://" in root else [os.path.realpath(root)]
  clips = [
    Clip(os.path.relpath(path, root), path, (i,))
    for i, name in enumerate(names)
    for path in _audio_files(os.path.join(root, name), above)
  ]
  return labels.ClassList.from_names(names), _checked(class_dirs, clips)


def _clip(clip_id, path, given_labels, index) -> Clip:
  # A label that is given twice is one.
  given = dict.fromkeys(given_labels)
  unknown = [label for label in given if label not in index]
  problems = {}
  if len(unknown) == len(given):
    problems["unknown_label"] = ",".join(unknown)
  elif unknown:
    problems["partly_unknown_labels"] = ",".join(unknown)
  if path is None:
    problems["missing"] = ""
  known = tuple(index[label] for label in given if label in index)
  return Clip(clip_id, path, known, problems)


def _checked(source, clips) -> list[Clip]:
  """Clips, of which those whose id was there before are marked."""
  if not clips:
    raise UserError(f"{source}: names no clip.")
  seen = set()
  for i, clip in enumerate(clips):
    if clip.id in seen:
      problems = {"duplicate_id": "", **clip.problems}
      clips[i] = dataclasses.replace(clip, problems=problems)
    seen.add(clip.id)
  return clips


def _file_names(clip_id: str, start: float, end: float) -> Iterator[str]:
  """The names, without extension, under which downloaders store a segment."""
  suffixes = [""]
  for written in ("{:g}".format, "{:.3f}".format, lambda t: f"{t * 1000:.0f}"):
    suffixes += [f"_{written(start)}", f"_{written(start)}_{written(end)}"]
  return (
    f"{prefix}{clip_id}{suffix}" for prefix in ("", "Y") for suffix in suffixes
  )


def _audio_files(folder: str, above: Sequence[str] = ()) -> Iterator[str]:
  """Paths of the audio files in a folder and its subfolders, sorted.

  Links are followed, but to none of the folders `above`.
  """
  if "://" not in folder:
    real = os.path.realpath(folder)
    if real in above:
      return
    above = (*above, real)
  # Not gfile.walk, which asks of every file whether it is a folder: in a bucket
  # a request each.
  for name in _listed(folder):
    path = os.path.join(folder, name)
    if name.lower().endswith(audio.EXTENSIONS):
      yield path
    elif name.endswith("/") or tf.io.gfile.isdir(path):
      yield from _audio_files(path.rstrip("/"), above)


def _listed(folder: str) -> list[str]:
  """The names in a folder, sorted."""
  try:
    # A set: in a bucket a request that failed gives names twice.
    return sorted(filter(None, set(tf.io.gfile.listdir(folder))))
  except UnicodeDecodeError as e:
    raise UserError(
      f"{folder}: holds a name that is not UTF-8, {e.object!r}: rename it."
    ) from e


def _read_text(path: str) -> str:
  try:
    with tf.io.gfile.GFile(path, "rb") as file:
      return file.read().decode("utf-8-sig")  # Excel's has a mark in front.
  except (tf.errors.OpError, UnicodeDecodeError) as e:
    raise UserError(f"{path}: cannot be read: {e}") from e


def _read_csv(path: str, **kwargs) -> list[list[str]]:
  try:
    text = io.StringIO(_read_text(path), newline="")
    return [row for row in csv.reader(text, **kwargs) if row]
  except csv.Error as e:
    raise UserError(f"{path}: cannot be read: {e}") from e
