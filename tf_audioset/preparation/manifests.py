# SPDX-License-Identifier: Apache-2.0
"""Lists of files with their labels, in tables as people publish them.

Every path may be in a bucket.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Sequence

from tf_audioset.data import audio_files, labels
from tf_audioset.preparation import clip_files, clip_lists
from tf_audioset.runtime import tables
from tf_audioset.runtime.errors import UserError

# Well-known names of columns, as `tables.column_key` has them.
_FILE_COLUMNS = frozenset(
  "files file filename file_name filepath file_path path fname wav wav_file "
  "audio audio_file audio_path audio_filename slice_file_name".split()
)
_LABEL_COLUMNS = frozenset(
  "labels label category class class_name class_label tags tag scene_label "
  "positive_labels".split()
)


def read(
  manifest_csv: str,
  labels_map: str | None = None,
  labels_delim: str = ",",
  *,
  audio_dir: str | None = None,
  file_column: str | None = None,
  label_column: str | None = None,
  separator: str | None = None,
) -> clip_lists.ClipList:
  """Reads a list of files.

  Args:
    manifest_csv: Has the columns files,labels or others, see below.
    labels_map: A file as `labels.from_map` reads it. None if the classes are
      the labels of the list, sorted.
    labels_delim: Between the labels of a file.
    audio_dir: Holds the files, at the places that the list tells or anywhere.
      None if the paths are relative to the list's folder, absolute or in a
      bucket.
    file_column: Name of the column, or its number from 1 if the first line has
      no names. None: files, or the only one of a well-known name.
    label_column: The same of the labels.
    separator: Between cells; None to recognise it.

  Returns:
    The clips, whose ids are the files as written there.

  Raises:
    UserError: If a file is not of that form.
  """
  if not labels_delim:
    raise UserError("--labels_delim is empty.")
  cells, remark = _cells(
    manifest_csv,
    _Column("--file_column", file_column, "files", _FILE_COLUMNS),
    _Column("--label_column", label_column, "labels", _LABEL_COLUMNS),
    labels_delim,
    separator,
  )
  warnings = []
  if labels_map:
    classes = labels.from_map(labels_map)
  else:
    classes = _classes_of(manifest_csv, cells, labels_delim)
    odd = [name for name in classes.names if re.search("[;|]", name)]
    if odd:
      warnings.append(
        f"labels such as {odd[0]!r} are taken for one; --labels_delim says "
        "what is between several"
      )
  lookup = labels.Lookup(classes, labels_delim)
  files = _Files(manifest_csv, audio_dir, [name for _, name, _ in cells])
  rows = []
  for line, name, cell in cells:
    paths, problems = files.find(name)
    clip_id = name or f"line {line}"
    key = paths[0] if paths else clip_id
    rows.append(
      clip_lists.Row(line, key, clip_id, paths, *lookup.find(cell), problems)
    )
  return dataclasses.replace(
    clip_lists.from_rows(manifest_csv, classes, rows),
    folder=audio_dir or "",
    num_files=files.num_seen(),
    passed_over=files.unused(row.paths for row in rows),
    remarks=[remark],
    warnings=warnings,
  )


@dataclasses.dataclass(frozen=True)
class _Column:
  """A column that is looked for.

  Attributes:
    flag: Which names it.
    name: What the flag says.
    usual: What it is called otherwise.
    known: What it may be called as well.
  """

  flag: str
  name: str | None
  usual: str
  known: frozenset[str]

  def place(self, head: Sequence[str]) -> int | None:
    """Returns its place; None if the first line does not tell."""
    keys = [tables.column_key(cell) for cell in head]
    if self.is_number(head):
      return int(self.name) - 1 if 0 < int(self.name) <= len(head) else None
    name = self.usual if self.name is None else tables.column_key(self.name)
    if keys.count(name) == 1:
      return keys.index(name)
    fitting = self.fitting(head)
    # Of several, someone has to say which is meant.
    return fitting[0] if self.name is None and len(fitting) == 1 else None

  def is_number(self, head: Sequence[str]) -> bool:
    """Returns whether a column is given by its number, not its name."""
    return (
      self.name is not None and self.name.isdigit() and self.name not in head
    )

  def fitting(self, head: Sequence[str]) -> list[int]:
    """Returns the places of columns of well-known names."""
    keys = map(tables.column_key, head)
    return [i for i, key in enumerate(keys) if key in self.known]

  def wanted(self, head: Sequence[str]) -> str:
    """Returns what to do if there is no such column."""
    names = [head[i] for i in self.fitting(head)]
    if self.name is not None:
      return f"{self.flag}={self.name} is none of them"
    if names:
      return f"{self.flag} must say whether {' or '.join(names)} is meant"
    return f"{self.flag} must say which has the {self.usual}"


def _cells(
  manifest_csv, file_column, label_column, labels_delim, separator
) -> tuple[list[tuple[int, str, str]], str]:
  """Returns line, file and labels of each row, and how they were found."""
  table = tables.read(
    manifest_csv,
    separator=separator,
    is_right=lambda head: (
      None not in (file_column.place(head), label_column.place(head))
    ),
  )
  if not table.rows:
    raise UserError(f"{manifest_csv}: names no clip.")
  head = table.rows[0]
  places = file_column.place(head), label_column.place(head)
  if None in places:
    raise UserError(_columns_wanted(table, file_column, label_column))
  is_numbered = (
    file_column.is_number(head)
    and label_column.is_number(head)
    # Told by numbers, but with a first line of names.
    and places[0] not in file_column.fitting(head)
    and places[1] not in label_column.fitting(head)
  )
  names = [str(i + 1) if is_numbered else repr(head[i]) for i in places]
  remark = (
    f"{manifest_csv}: {table.separator_name}-separated, files in column "
    f"{names[0]}, labels in column {names[1]}"
  )
  rows = _rows(table, places[1], labels_delim, not is_numbered)
  return [(line, row[places[0]], row[places[1]]) for line, row in rows], remark


def _columns_wanted(table, *columns) -> str:
  head = table.rows[0]
  wanted = [c.wanted(head) for c in columns if c.place(head) is None]
  return (
    f"{table.path}: the first line must name the columns files,labels or "
    f"others; found {tables.shown(head)} ({table.separator_name}-separated, "
    f"unless --separator says otherwise); {'; '.join(wanted)}. Where the first "
    "line is a row already, these flags take the numbers of columns, from 1."
  )


def _rows(
  table, label_place, labels_delim, has_head
) -> Iterator[tuple[int, list[str]]]:
  """Yields line and cells of each row."""
  width = len(table.rows[0])
  # Further labels in cells of their own at the line's end, as in MTG-Jamendo's.
  takes_more = (
    label_place == width - 1 and labels_delim == table.separator != ","
  )
  for line, row in zip(table.lines[has_head:], table.rows[has_head:]):
    if takes_more:
      row = [*row[:label_place], labels_delim.join(row[label_place:])]
    row = tables.without_empty_end(row, width)
    if len(row) != width:
      name = table.separator_name
      own = f"; if labels have cells of their own, --labels_delim={name}"
      raise UserError(
        f"{table.path}, line {line}: {len(row)} cells, not {width}; labels "
        f"with a {name} need quotes{own * (name != 'comma')}."
      )
    yield line, row


def _classes_of(manifest_csv, cells, labels_delim) -> labels.ClassList:
  """Returns the labels that occur, sorted, as classes."""
  seen = {x for *_, cell in cells for x in labels.split(cell, labels_delim)}
  names = sorted({labels.plain(tables.unquoted(label)) for label in seen})
  if not names:
    raise UserError(
      f"{manifest_csv}: names no clip with a label, and there is no "
      "--labels_map."
    )
  return labels.ClassList.from_names(names)


class _Files:
  """The files of a list, beside it or in a folder."""

  def __init__(self, manifest_csv, audio_dir, names):
    names = [name for name in names if name]
    self._there = None
    self._places = clip_files.Places(os.path.dirname(manifest_csv))
    if not audio_dir:
      found, unclear = clip_files.of_names(names, self._places)
    else:
      self._there = audio_files.find(audio_dir)
      collection = clip_files.Collection(self._there.paths, audio_dir)
      elsewhere = {name: [name] for name in names if _is_elsewhere(name)}
      found, unclear = clip_files.of_names(
        (name for name in names if name not in elsewhere), collection
      )
      found.update(elsewhere)
    self._found, self._unclear = found, unclear

  def find(self, name: str) -> tuple[list[str], dict[str, str]]:
    """Returns files that a name may mean, the best first, and problems."""
    if not name:
      return [], {"missing": "the list names no file"}
    paths = self._found.get(name, [])
    if name in self._unclear:
      path = self._unclear[name]
      return [], {"missing": f"{path} may be meant, by other rows as well"}
    if not paths and self._there is None:
      return [self._places.path(name)], {"missing": ""}
    is_same = not paths or _is_name_of(name, paths[0])
    return paths, {} if is_same else {"other_name": paths[0]}

  def num_seen(self) -> int:
    """Returns how many files the folder has; 0 if there is none."""
    return len(self._there) if self._there else 0

  def unused(self, used: Iterable[Sequence[str]]) -> dict[str, str]:
    """Returns what is no clip of the folder; `used` as `clip_lists.unused`."""
    return clip_lists.unused(self._there, used) if self._there else {}


def _is_elsewhere(name: str) -> bool:
  return "://" in name or (os.path.isabs(name) and os.path.exists(name))


def _is_name_of(name: str, path: str) -> bool:
  """Returns whether a list names a file, perhaps without its ending."""
  name = labels.plain(os.path.basename(name.replace("\\", "/")))
  return labels.plain(os.path.basename(path)) in (
    name,
    name + os.path.splitext(path)[1],
  )
