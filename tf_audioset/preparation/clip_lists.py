# SPDX-License-Identifier: Apache-2.0
"""A list of labelled audio files, whatever form it was read from.

`segment_lists`, `manifests` and `class_folders` read the three forms. Every row
of a list becomes a clip here, to be written or not, and every file of a folder
that was looked through is a clip's or passed over: nothing is dropped.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Sequence

from tf_audioset.data import audio_files, labels
from tf_audioset.runtime.errors import UserError

# Why files of a folder are no clips, besides those that `audio_files` has.
NO_ROW = "that match no row"
OTHER_FILE = "of rows that have another file"

_NUM_SHOWN = 3  # Labels in an error.
_NUM_CLASSES_SHOWN = 20  # With their counts in a line.


@dataclasses.dataclass(frozen=True)
class Clip:
  """One row of a list.

  Attributes:
    id: The clip's name.
    path: None if no file was found.
    labels: Indices into the class list, each once.
    problems: What is wrong with the row, by reason (see audit.py), and more
      words on it.
    seconds: Its length as the list has it; None if that says nothing.
  """

  id: str
  path: str | None
  labels: tuple[int, ...]
  problems: dict[str, str] = dataclasses.field(default_factory=dict)
  seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class ClipList:
  """What there is to prepare.

  Attributes:
    source: The list or the folder, for messages.
    classes: The class list.
    clips: One for each row.
    passed_over: Files of the folder that was looked through that are no clips,
      and why.
    folder: The folder that was looked through; empty if none was.
    num_files: All files that were seen in it.
    class_folders: The class of each folder in it, if they are classes.
    remarks: Lines that say how the list was understood.
    warnings: Lines on what looks wrong.
    num_labels: How many labels the rows have.
    unknown_labels: Those that are not in the class list, as written, and how
      often.
  """

  source: str
  classes: labels.ClassList
  clips: list[Clip]
  passed_over: dict[str, str] = dataclasses.field(default_factory=dict)
  folder: str = ""
  num_files: int = 0
  class_folders: dict[str, int] = dataclasses.field(default_factory=dict)
  remarks: list[str] = dataclasses.field(default_factory=list)
  warnings: list[str] = dataclasses.field(default_factory=list)
  num_labels: int = 0
  unknown_labels: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )

  def class_counts(self) -> str:
    """Returns a line: the classes and how many clips each has."""
    counts = collections.Counter(i for clip in self.clips for i in clip.labels)
    names = self.classes.names
    shown = range(len(names))
    if len(names) > _NUM_CLASSES_SHOWN:
      shown = [i for i, _ in counts.most_common(_NUM_CLASSES_SHOWN // 2)]
    parts = [f"{names[i]} {counts[i]:,}" for i in shown]
    if len(names) > len(shown):
      empty = f"{len(names) - len(counts)} of them without a clip"
      parts.append(f"and {len(names) - len(shown)} more, {empty}")
    plural = "es" * (len(names) > 1)
    return f"{len(names)} class{plural}: {', '.join(parts)}"

  def check(self, max_unknown_labels: float) -> None:
    """Refuses what would be found out only after hours of decoding.

    Args:
      max_unknown_labels: The share of the rows' labels that may be none of the
        class list.

    Raises:
      UserError: If more are, or no row has a file.
    """
    num_unknown = sum(self.unknown_labels.values())
    if num_unknown > max_unknown_labels * self.num_labels:
      common = self.unknown_labels.most_common(_NUM_SHOWN)
      unknown = ", ".join(repr(label) for label, _ in common)
      known = ", ".join(map(repr, self.classes.mids[:_NUM_SHOWN]))
      share = num_unknown / self.num_labels
      raise UserError(
        f"{self.source}: {num_unknown:,} of {self.num_labels:,} labels "
        f"({100 * share:.2f} %) are not in the class list, such as {unknown}; "
        f"that has {known} and so on. --max_unknown_labels="
        f"{max_unknown_labels:g} is the share that may be lost."
      )
    if all("missing" in clip.problems for clip in self.clips):
      self._tell_that_no_file_is_there()

  def _tell_that_no_file_is_there(self):
    rows = f"a row of {self.source}, such as {self.clips[0].id}"
    if not self.folder:
      path = next(filter(None, (clip.path for clip in self.clips)), "")
      raise UserError(
        f"{self.source}: none of its {len(self.clips):,} files is there"
        f"{', such as ' * bool(path)}{path}; --audio_dir says where they are."
      )
    extra = [p for p, why in self.passed_over.items() if why == NO_ROW]
    if not extra:
      told = audio_files.summary(self.passed_over, self.folder)
      told = f" ({told})" if told else ""
      raise UserError(f"{self.folder} holds no audio file{told}.")
    shown = audio_files.printable(extra[0], self.folder)
    raise UserError(
      f"{self.folder} holds {len(extra):,} audio file{'s' * (len(extra) > 1)}, "
      f"such as {shown}; none is named for {rows}."
    )


@dataclasses.dataclass
class Row:
  """A row before those of one clip are put together.

  Attributes:
    line: Its number in the list.
    key: Equal for the rows of one clip.
    id: As `Clip.id`.
    paths: Files that it may mean, the best first.
    labels: Indices into the class list.
    unknown: Labels that are not in the class list, as written.
    problems: As `Clip.problems`, besides those that follow from the rest.
    seconds: As `Clip.seconds`.
  """

  line: int
  key: str
  id: str
  paths: list[str]
  labels: list[int]
  unknown: list[str]
  problems: dict[str, str] = dataclasses.field(default_factory=dict)
  seconds: float | None = None


def from_rows(
  source: str, classes: labels.ClassList, rows: Sequence[Row]
) -> ClipList:
  """Puts rows of one clip together: its labels are those of all of them.

  Args:
    source: The list.
    classes: The class list.
    rows: In the list's order. Those that follow another one of the same key
      become clips without labels, which are not written.

  Raises:
    UserError: If there is no row.
  """
  if not rows:
    raise UserError(f"{source}: names no clip.")
  unknown_labels = collections.Counter(x for row in rows for x in row.unknown)
  num_labels = sum(len(row.labels) + len(row.unknown) for row in rows)
  first, repeated = {}, {}
  for i, row in enumerate(rows):
    one = first.setdefault(row.key, row)
    if one is not row:
      repeated[i] = _repeated(one, row, classes)
  return ClipList(
    source,
    classes,
    [
      Clip(row.id, _path(row), (), repeated[i]) if i in repeated else _clip(row)
      for i, row in enumerate(rows)
    ],
    num_labels=num_labels,
    unknown_labels=unknown_labels,
  )


def _repeated(one: Row, row: Row, classes) -> dict[str, str]:
  """Adds a row's labels to an earlier one; returns why it is no clip itself."""
  new = [
    *(classes.names[x] for x in row.labels if x not in one.labels),
    *(x.strip() for x in row.unknown if x not in one.unknown),
  ]
  one.labels = list(dict.fromkeys([*one.labels, *row.labels]))
  one.unknown = list(dict.fromkeys([*one.unknown, *row.unknown]))
  if not new:
    return {"duplicate_id": f"line {row.line} as line {one.line}"}
  added = ", ".join(new)
  return {"merged_rows": f"line {row.line} adds {added} to line {one.line}"}


def _clip(row: Row) -> Clip:
  problems = {}
  unknown = ",".join(dict.fromkeys(x.strip() for x in row.unknown))
  if not row.labels:
    problems["unknown_label"] = unknown or "it has none"
  elif unknown:
    problems["partly_unknown_labels"] = unknown
  if not row.paths:
    problems["missing"] = ""
  if len(row.paths) > 1:
    more = f" and {len(row.paths) - 2} more" if len(row.paths) > 2 else ""
    taken, other = row.paths[:2]
    problems["several_files"] = f"{taken}, not {other}{more}"
  problems.update(row.problems)
  return Clip(row.id, _path(row), tuple(row.labels), problems, row.seconds)


def _path(row: Row) -> str | None:
  return row.paths[0] if row.paths else None


def unused(
  found: audio_files.Found, used: Iterable[Sequence[str]]
) -> dict[str, str]:
  """Returns what is no clip of a folder, and why.

  Args:
    found: The folder's files.
    used: Of each row, the files that it may mean, of which the first is taken.
  """
  taken, others = set(), set()
  for paths in used:
    taken.update(paths[:1])
    others.update(paths[1:])
  passed_over = {
    path: OTHER_FILE if path in others else NO_ROW
    for path in found.paths
    if path not in taken
  }
  return {**found.passed_over, **passed_over}
