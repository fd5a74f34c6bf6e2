# SPDX-License-Identifier: Apache-2.0
"""The score from which on each class is taken to be there."""

from __future__ import annotations

import math

import numpy as np

from tf_audioset.data import labels
from tf_audioset.runtime import tables
from tf_audioset.runtime.errors import UserError

DEFAULT = 0.5


def choose(
  classes: labels.ClassList,
  own: np.ndarray | None,
  *,
  csv: str | None = None,
  on: float | None = None,
  off: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the thresholds at which events of each class begin and end.

  Args:
    classes: Of the model.
    own: float [num_classes], the model's own, nan where it has none; or None.
    csv: A file for `read`. Its thresholds come before all others.
    on: For the classes that the file has no threshold of; without a file, for
      all, in the place of the model's own.
    off: The score that ends an event. A class whose threshold is below it ends
      at that threshold.

  Returns:
    float64 [num_classes], twice. `DEFAULT` stands where nothing is told.

  Raises:
    UserError: If the file does not fit, or `off` is above `on` without one.
  """
  if None not in (on, off) and off > on and csv is None:
    raise UserError(
      f"--off_threshold={off} is above --threshold={on}: an event begins at "
      "the higher one and ends below the lower one."
    )
  ons = np.full(len(classes), DEFAULT if on is None else on)
  offs = np.full(len(classes), np.nan)
  told = own if csv is None and on is None else None
  if csv is not None:
    told, offs = read(csv, classes, may_lack_classes=on is not None)
  if told is not None:
    ons = np.where(np.isnan(told), ons, told)
  rest = ons if off is None else np.minimum(ons, off)
  offs = np.where(np.isnan(offs), rest, offs)
  wrong = np.flatnonzero(offs > ons)
  if len(wrong):
    i = wrong[0]
    raise UserError(
      f"{csv}: class {classes.names[i]!r}: off_threshold {offs[i]:g} is above "
      f"its threshold, {ons[i]:g}."
    )
  return ons, offs


def read(
  path: str, classes: labels.ClassList, *, may_lack_classes: bool = False
) -> tuple[np.ndarray, np.ndarray]:
  """Reads thresholds of classes.

  Args:
    path: A table with the columns mid or name, threshold and, if wanted,
      off_threshold, such as per_class.csv of tools/evaluate.py.
    classes: Of the model.
    may_lack_classes: Whether the file may leave classes out.

  Returns:
    threshold and off_threshold, float64 [num_classes], nan for an empty cell or
    a class that is left out.

  Raises:
    UserError: If it cannot be read, or names a class twice or another one.
  """
  table = tables.read(path)
  heads = [tables.column_key(cell) for cell in (table.rows or [[]])[0]]
  on, off = np.full([2, len(classes)], np.nan)
  key = next((name for name in ("mid", "name", "label") if name in heads), None)
  lookup = labels.Lookup(classes, delimiter="\n")
  lines = {}
  for line, row in zip(table.lines[1:], table.rows[1:]):
    cells = dict(zip(heads, row))
    if key is None or "threshold" not in cells:
      continue
    found, unknown = lookup.find(cells[key])
    if unknown and may_lack_classes:
      raise UserError(
        f"{path}, line {line}: the model has no class {unknown[0]!r}."
      )
    for i in found:
      if i in lines:
        raise UserError(
          f"{path}, line {line}: class {cells[key]!r} is in line {lines[i]}, "
          "too."
        )
      lines[i] = line
      on[i] = _number(path, "threshold", cells["threshold"])
      off[i] = _number(path, "off_threshold", cells.get("off_threshold", ""))
  missing = [i for i in range(len(classes)) if i not in lines]
  if not lines or missing and not may_lack_classes:
    raise UserError(
      f"{path}: no threshold of class {classes.mids[missing[0]]}; wanted is a "
      "table with the columns mid (or name) and threshold, such as "
      "per_class.csv of tools/evaluate.py, of a model with these classes. "
      "--threshold is for classes that it leaves out."
    )
  return on, off


def _number(path, column, text) -> float:
  try:
    number = float(text or "nan")
  except ValueError as e:
    raise UserError(f"{path}: {column}: {e}") from e
  if text and not math.isfinite(number):
    raise UserError(f"{path}: {column}: {text} is no score.")
  return number
