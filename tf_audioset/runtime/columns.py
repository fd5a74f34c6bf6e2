# SPDX-License-Identifier: Apache-2.0
"""Tables for a terminal, whose letters are of different widths."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def columns(rows: Sequence[Sequence[str]], num_left: int) -> str:
  """Returns a table whose columns are two spaces apart.

  Args:
    rows: The cells, as many in each row.
    num_left: So many columns are aligned to the left, the others to the right.
  """
  widths = [max(map(width, column)) for column in zip(*rows)]
  lines = []
  for row in rows:
    cells = []
    for i, (cell, whole) in enumerate(zip(row, widths)):
      space = " " * (whole - width(cell))
      cells.append(cell + space if i < num_left else space + cell)
    lines.append("  ".join(cells).rstrip())
  return "\n".join(lines)


def width(text: str) -> int:
  """Returns how many columns of a terminal a text takes.

  Chinese, Japanese and Korean letters and most emoji take two, accents that are
  letters of their own none.
  """
  return sum(map(_width_of, text))


def _width_of(letter: str) -> int:
  if unicodedata.category(letter) in ("Mn", "Me", "Cf"):
    return 0
  return 2 if unicodedata.east_asian_width(letter) in "WF" else 1
