# SPDX-License-Identifier: Apache-2.0
"""Labels of stretches of recordings, in the tables that people keep them in.

A table has a row an event (CSV or TSV: filename, onset, offset, event_label and
the like), or is a label track of Audacity or a selection table of Raven. Those
without a column for the recording belong to the one that they are called like.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import NamedTuple

from tf_audioset.runtime import tables
from tf_audioset.runtime.errors import UserError

# Well-known names of columns, as `tables.column_key` has them.
_FILES = (
  "filename file file_name filepath path recording audio audio_file begin_file"
).split()
_BEGINS = ("onset", "begin", "start", "begin_seconds", "start_seconds")
_BEGINS += ("start_time", "begin_time", "begin_time_(s)", "onset_s", "start_s")
_ENDS = ("offset", "end", "stop", "end_seconds", "offset_seconds")
_ENDS += ("end_time", "end_time_(s)", "offset_s", "end_s")
_LABELS = (
  "event_label label labels class class_name category species annotation name "
  "event tag"
).split()
# What stands behind the recording's name in that of its table.
_ENDINGS = (".Table.1.selections.txt", ".selections.txt")
_TABLES = (".txt", ".tsv", ".csv")


class Event(NamedTuple):
  """A row of a table.

  An event whose label is empty says that a recording has none.
  """

  table: str
  line: int
  recording: str  # As the table calls it, or as the table is called.
  begin_seconds: float
  end_seconds: float
  label: str


def read(path: str, label_column: str | None = None) -> list[Event]:
  """Reads a table, or all tables in a folder.

  Args:
    path: Of the table or the folder.
    label_column: Name of the column with the labels. None: label and the like.

  Returns:
    The rows, in their order.

  Raises:
    UserError: If a table cannot be read, or a row makes no sense.
  """
  if not os.path.isdir(path):
    return _read_table(path, os.path.basename(path), label_column)
  found = []
  for folder, folders, names in os.walk(path):
    folders.sort()
    for name in sorted(names):
      if name.endswith(_TABLES) and not name.startswith("."):
        table = os.path.join(folder, name)
        called = os.path.relpath(table, path)
        found += _read_table(table, called, label_column)
  if not found:
    raise UserError(f"{path}: holds no table ({', '.join(_TABLES)}).")
  return found


def _read_table(path, called, label_column) -> list[Event]:
  own = _recording_of(called)
  text = tables.read_text(path)
  lines = [line for line in text.split("\n") if line.strip()]
  if not lines:
    return [Event(path, 1, own, 0.0, 0.0, "")]
  if _number(lines[0].split("\t")[0]) is not None:
    return _read_audacity(path, own, text)
  table = tables.read(path, text=text)
  heads = [tables.column_key(cell) for cell in table.rows[0]]
  known = _LABELS if label_column is None else [tables.column_key(label_column)]
  places = {
    name: next((heads.index(key) for key in keys if key in heads), None)
    for name, keys in (
      ("filename", _FILES),
      ("onset", _BEGINS),
      ("offset", _ENDS),
      ("label", known),
    )
  }
  missing = [
    name
    for name, place in places.items()
    if place is None and name != "filename"
  ]
  if missing:
    raise UserError(
      f"{path}: has no column {missing[0]}; its first line has "
      f"{tables.shown(table.rows[0])}. Wanted are filename, onset, offset and "
      "label (--label_column), a selection table of Raven, or a label track of "
      "Audacity."
    )
  found = {}  # Raven has a row for each of its views.
  for line, row in zip(table.lines[1:], table.rows[1:]):
    row = row + [""] * (len(heads) - len(row))
    cells = {
      name: "" if place is None else row[place]
      for name, place in places.items()
    }
    times = cells["onset"], cells["offset"]
    recording = cells["filename"] or own
    event = _event(path, line, recording, *times, cells["label"])
    found.setdefault(event[2:], event)
  return list(found.values()) or [Event(path, 1, own, 0.0, 0.0, "")]


def _read_audacity(path, own, text) -> list[Event]:
  found = []
  for line, row in enumerate(text.split("\n"), start=1):
    # A line that begins with \ has the frequencies of the one before.
    if row.strip() and not row.startswith("\\"):
      cells = [*row.split("\t"), "", ""]
      label = "\t".join(cells[2:]).strip()
      if not label:
        raise UserError(f"{path}, line {line}: the label has no text.")
      found.append(_event(path, line, own, cells[0], cells[1], label))
  return found


def _event(path, line, recording, begin, end, label) -> Event:
  if not begin and not end and not label:
    return Event(path, line, recording, 0.0, 0.0, "")
  times = _number(begin), _number(end)
  if None in times or not 0 <= times[0] <= times[1] or not label.strip():
    raise UserError(
      f"{path}, line {line}: an event has an onset of 0 s or more, an offset "
      f"that is not before it, and a label; found {begin!r}, {end!r}, "
      f"{label!r}."
    )
  return Event(path, line, recording, *times, label.strip())


def _number(text: str) -> float | None:
  try:
    # Some languages' Audacity writes a comma.
    number = float(text.strip().replace(",", "."))
  except ValueError:
    return None
  return number if math.isfinite(number) else None


def _recording_of(table: str) -> str:
  """Returns the name of the recording that a table is called like."""
  for ending in (*_ENDINGS, *_TABLES):
    if table.endswith(ending):
      return table.removesuffix(ending)
  return table


def find_recording(name: str, root: str, paths: Sequence[str]) -> list[str]:
  """Finds the recordings that a table means.

  Args:
    name: What it calls the recording: a path from the root on, or only the end
      of one, with or without the file's ending.
    root: The folder of the recordings.
    paths: Of the recordings in it.

  Returns:
    The paths that fit best, one if it is clear.
  """
  start = len(root.rstrip("/")) + 1
  name = os.path.normpath(name.replace("\\", "/"))
  levels = (
    lambda path: path[start:] == name or path == name,
    lambda path: os.path.splitext(path[start:])[0] == name,
    lambda path: f"/{path}".endswith(f"/{name}"),
    lambda path: f"/{os.path.splitext(path)[0]}".endswith(f"/{name}"),
    lambda path: os.path.basename(path) == os.path.basename(name),
  )
  for fits in levels:
    if found := [path for path in paths if fits(path)]:
      return found
  return []
