# SPDX-License-Identifier: Apache-2.0
"""Reads tables of text, such as CSV, strictly: no line is lost in another.

A table is a list of files or of classes: none of its cells holds a line's end.
So every line is one row, and a quote that is not closed in its line is an
error, where it would otherwise swallow the rows behind it.
"""

from __future__ import annotations

import csv
import dataclasses
import os
import re
import stat
from collections.abc import Callable, Sequence

import tensorflow as tf

from tf_audioset.runtime.errors import UserError

# In the order in which they are tried.
_NAMES = {",": "comma", "\t": "tab", ";": "semicolon"}
_QUOTES = "\"'\u2018\u2019\u201c\u201d"
_NUM_SHOWN = 30  # Characters of a line, columns of a table in a message.


@dataclasses.dataclass(frozen=True)
class Table:
  """The rows of a table that hold anything.

  Attributes:
    path: Where it was read.
    separator: What stands between cells.
    lines: Of each row, the number of its line, from 1.
    rows: Of each row, its cells without spaces around them.
  """

  path: str
  separator: str
  lines: list[int]
  rows: list[list[str]]

  @property
  def separator_name(self) -> str:
    """Returns the separator as a message names it."""
    return _NAMES.get(self.separator, repr(self.separator))


def separator_of(text: str) -> str:
  """Returns the separator that a flag names: comma, tab, ; ...

  Raises:
    UserError: If it is neither a name nor a character.
  """
  for separator, name in _NAMES.items():
    if text in (name, separator):
      return separator
  if text == r"\t":
    return "\t"
  if len(text) != 1 or text in '"\r\n':
    raise UserError(
      f"--separator={text}: give {', '.join(_NAMES.values())} or one character."
    )
  return text


def read(
  path: str,
  *,
  text: str | None = None,
  separator: str | None = None,
  is_right: Callable[[Sequence[str]], bool] = lambda cells: False,
  has_comments: bool = False,
) -> Table:
  """Reads a table in UTF-8, with or without Excel's mark in front.

  Args:
    path: May be in a bucket.
    text: What is in it, from `read_text`, if it was read already.
    separator: None to recognise it by the first row.
    is_right: Tells whether the cells of the first row are as they should be. If
      they are for no separator, the one that gives the most cells is taken.
    has_comments: Leave out lines that begin with #.

  Returns:
    The table, without rows whose cells are all empty.

  Raises:
    UserError: If the file cannot be read, is not UTF-8, or has a quote that is
      not closed in its line, or a NUL byte.
  """
  lines = (read_text(path) if text is None else text).split("\n")
  if told := re.fullmatch(r"sep=(.)", lines[0].strip('"')):
    separator, lines[0] = separator or told[1], ""  # For Excel.
  if has_comments:
    lines = ["" if line.startswith("#") else line for line in lines]
  number = next((i for i, x in enumerate(lines, start=1) if "\0" in x), None)
  if number is not None:
    raise UserError(
      f"{path}, line {number}: holds a NUL byte: is it UTF-16? Save the "
      "file as UTF-8."
    )
  if separator is None:
    first = next((line for line in lines if line.strip()), "")
    separator = _recognised(first, is_right)
  table = Table(path, separator, [], [])
  for number, cells in _parsed(path, lines, separator):
    cells = [cell.strip() for cell in cells]
    if any(cells):
      table.lines.append(number)
      table.rows.append(cells)
  return table


def _recognised(line, is_right) -> str:
  cells = {separator: _cells(line, separator) for separator in _NAMES}
  right = [separator for separator in _NAMES if is_right(cells[separator])]
  # Of equals the first, which is the comma.
  return right[0] if right else max(_NAMES, key=lambda s: len(cells[s]))


def _cells(line, separator) -> list[str]:
  try:
    return [cell.strip() for cell in next(_reader([line], separator), [])]
  except csv.Error:
    return []  # `read` tells why.


def _reader(lines, separator):
  return csv.reader(lines, delimiter=separator, skipinitialspace=True)


def _parsed(path, lines, separator):
  """Yields the number and the cells of each line."""
  # A quote that is open in the last line swallows this one more.
  reader = _reader([*lines, ""], separator)
  number = 0
  while True:
    try:
      cells = next(reader, None)
    except csv.Error as e:
      raise UserError(f"{path}: cannot be read: {e}") from e
    if cells is None:
      return
    number += 1
    if reader.line_num != number:
      raise UserError(
        f"{path}, line {number}: a quote is opened and not closed in this "
        f"line: {shortened(lines[number - 1])!r}."
      )
    yield number, cells


def read_text(path: str) -> str:
  """Reads a text file; each of its lines then ends with a newline character.

  Raises:
    UserError: If it cannot be read or is not UTF-8.
  """
  try:
    if "://" in path:
      with tf.io.gfile.GFile(path, "rb") as file:
        content = file.read()
    else:
      mode = os.stat(path).st_mode
      if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISDIR(mode)):
        raise UserError(f"{path}: cannot be read: it is a device or a socket")
      with open(path, "rb") as file:  # TensorFlow's reads nothing from a pipe.
        content = file.read()
    text = content.decode("utf-8-sig")  # Excel's has a mark in front.
  except UnicodeDecodeError as e:
    what = (
      "UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "not UTF-8"
    )
    line = content.count(b"\n", 0, e.start) + 1
    raise UserError(
      f"{path}: cannot be read: line {line} is {what}: save the file as UTF-8."
    ) from e
  except (OSError, tf.errors.OpError) as e:
    reason = getattr(e, "strerror", None) or getattr(e, "message", None) or e
    raise UserError(f"{path}: cannot be read: {reason}") from e
  return text.replace("\r\n", "\n").replace("\r", "\n")


def unquoted(text: str) -> str:
  """Returns a cell's text without spaces and quotes around it."""
  before = None
  while text != before:
    before, text = text, text.strip().strip(_QUOTES)
  return text


def without_empty_end(cells: list[str], width: int) -> list[str]:
  """Returns a row without the empty cells that it has beyond `width`."""
  while len(cells) > width and not cells[-1]:
    cells = cells[:-1]
  return cells


def column_key(name: str) -> str:
  """Returns what names of columns are compared by: "File Name" is file_name."""
  name = unquoted(name).lstrip("# ").casefold()
  return name.replace(" ", "_").replace("-", "_")


def shown(cells: Sequence[str]) -> str:
  """Returns cells for a message, such as names of columns."""
  more = [f"and {len(cells) - _NUM_SHOWN} more"] * (len(cells) > _NUM_SHOWN)
  return ", ".join([*map(shortened, cells[:_NUM_SHOWN]), *more])


def shortened(text: str) -> str:
  """Returns a text, or the beginning of a long one, for a message."""
  return text if len(text) <= _NUM_SHOWN else f"{text[:_NUM_SHOWN]}..."
