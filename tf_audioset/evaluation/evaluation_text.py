# SPDX-License-Identifier: Apache-2.0
"""The results of an evaluation as text: lines for a terminal, and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

_NUM_MOVED = 10
_NUM_CONFUSED = 5


def results(
  summary: Mapping[str, Any], num_clips: int, source: str
) -> list[str]:
  """Returns lines on the averages.

  Args:
    summary: `judging.Judgement.summary` and "ids_sha256".
    num_clips: Of the split, of which some may have no scores.
    source: What the scores are from.
  """

  def value(name, of=summary):
    low, high = of["intervals"][name]
    return f"{of[name]:.4f}  [{low:.4f}, {high:.4f}]"

  top = f"top-1  {value('top1')}  (clips whose highest score is a label's)"
  if "recall" in summary:  # One label a clip.
    top = (
      f"acc.   {value('top1')}  (accuracy; mean of the classes' own: "
      f"{summary['recall']:.4f}; top-3 {summary['top3']:.4f}, top-5 "
      f"{summary['top5']:.4f})"
    )
  lines = [
    f"mAP    {value('mAP')}",
    f"mAUC   {value('mAUC')}",
    f"d'     {value('dprime')}  (of the mean AUC; mean of the classes' d': "
    f"{summary['dprime_class_mean']:.4f})",
    top,
    f"mAP    {value('mAP', summary['positive_weighted'])}  (a class counts by "
    "its positive clips)",
  ]
  if math.isfinite(summary["ece"]):
    lines.append(
      f"ECE    {summary['ece']:.4f}  (mean calibration error of the classes)"
    )
  for name, branch in summary["branches"].items():
    lines.append(
      f"mAP    {value('mAP', branch)}  ({name}, over "
      f"{branch['num_classes_scored']} of {branch['num_classes']} classes)"
    )
  lines.append(
    f"over {summary['num_classes_scored']} of {summary['num_classes']} classes "
    f"(those with positive and negative clips), {summary['num_clips']} clips"
  )
  lines.append(f"ids {summary['ids_sha256'][:12]}, {source}; [95 % intervals]")
  if summary["num_clips"] < num_clips:
    left_out = num_clips - summary["num_clips"]
    lines.append(f"{left_out} of {num_clips} clips have no scores: left out")
  return lines


def confusions(confusion: np.ndarray, names: Sequence[str]) -> list[str]:
  """Returns lines on the pairs of classes that are most often confused.

  Args:
    confusion: int [num_classes, num_classes], of `metrics.confusion`.
    names: Of the classes.
  """
  wrong = confusion - np.diag(confusion.diagonal())
  order = np.argsort(-wrong, axis=None, kind="stable")
  pairs = np.dstack(np.unravel_index(order, wrong.shape))[0]
  lines = [
    f"       {wrong[i, j]} of {confusion[i].sum()}  {names[i]} is taken for "
    f"{names[j]}"
    for i, j in pairs[:_NUM_CONFUSED]
    if wrong[i, j]
  ]
  return ["most often confused:", *lines] if lines else []


def comparison(
  other: str, difference: Mapping[str, Any], table: Mapping[str, Sequence]
) -> list[str]:
  """Returns lines on the difference from another system.

  Args:
    other: Its name.
    difference: The first result of `judging.Judgement.minus`.
    table: Columns of the classes, with the second result of that, and "name".
  """
  lines = [f"minus {other}, on the same clips:"]
  for name, shown in (("mAP", "mAP "), ("mAUC", "mAUC"), ("dprime", "d'  ")):
    low, high = difference["intervals"][name]
    lines.append(f"{shown}  {difference[name]:+.4f}  [{low:+.4f}, {high:+.4f}]")
  columns = ("ap_difference", "difference_low", "difference_high", "name")
  rows = [x for x in zip(*map(table.get, columns)) if math.isfinite(x[0])]
  rows.sort(key=lambda row: -abs(row[0]))
  lines.append(
    "classes whose AP moved most (of many, some move by chance; intervals of "
    "classes with few positive clips are too narrow):"
  )
  for value, low, high, name in rows[:_NUM_MOVED]:
    lines.append(f"      {value:+.4f}  [{low:+.4f}, {high:+.4f}]  {name}")
  return lines


def to_csv(header: Iterable[str], rows: Iterable[Sequence]) -> bytes:
  """Returns a table as CSV; what cannot be measured is an empty cell."""

  def cell(value):
    # In full: a rounded threshold would leave out the clip it is the score of.
    if isinstance(value, float):
      return "" if math.isnan(value) else float(value)
    return value

  file = io.StringIO(newline="")
  writer = csv.writer(file)
  writer.writerow(header)
  writer.writerows([map(cell, row) for row in rows])
  return file.getvalue().encode()
