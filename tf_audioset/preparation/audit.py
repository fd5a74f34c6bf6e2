# SPDX-License-Identifier: Apache-2.0
"""What became of every row of a list: audit.json, and audit.txt to read.

A row is written or left out, for one reason; nothing else happens to it. What
is odd of a row that is written is told as well.
"""

from __future__ import annotations

import collections
import json
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf_audioset.data import labels
from tf_audioset.preparation import clip_lists
from tf_audioset.runtime import storage

JSON_FILE = "audit.json"
TEXT_FILE = "audit.txt"

# Reasons for which a row is always left out, and what they mean.
LEFT_OUT = {
  "duplicate_id": "an earlier row has the same id",
  "unknown_label": "no label of the row is in the class list",
  "missing": "there is no file",
  "undecodable": "the file cannot be decoded to its end",
}
# What is written all the same, unless told to be dropped.
DROPPABLE = {
  "in_two_splits": "another split of this folder has a clip of this id",
  "silent": "the peak is below -60 dBFS",
  "short": "shorter than 1 s",
  "clipped": "1 % of the samples or more are at full scale",
}
# What is known when all is written, or is no fault of the clip.
NOTED = {
  "duplicate_audio": "another clip has exactly the same samples",
  "shortened": "longer than --clip_seconds by 1 s or more: cut to it",
  "partly_unknown_labels": "some labels are not in the class list",
}
REASONS = {**LEFT_OUT, **DROPPABLE, **NOTED}

_SILENT_PEAK = 10 ** (-60 / 20)
_SHORT_SECONDS = 1.0
# Resampling overshoots. Of 610 real recordings whose own samples never reach
# full scale, 59 do so at 16 kHz, all but two in less than 0.8 % of the samples.
_CLIPPED_SHARE = 0.01

_NUM_NAMED = 5  # Rows a reason in the text; audit.json has all.
_NUM_CLASSES = 5  # Classes in the summary; audit.txt has all.


class Row:
  """A clip, what is wrong with it (reason -> more words), and its fate."""

  __slots__ = ("clip", "is_written", "problems")

  def __init__(
    self, clip: clip_lists.Clip, problems: dict[str, str], is_written: bool
  ):
    self.clip = clip
    self.problems = problems
    self.is_written = is_written


def sample_problems(samples: np.ndarray, sample_rate_hz: int) -> dict[str, str]:
  """Those of "silent", "short" and "clipped" that hold of int16 samples."""
  problems = {}
  size = np.abs(samples.astype(np.int32))
  peak = size.max() / 32768
  if peak < _SILENT_PEAK:
    level = f"peak {20 * np.log10(peak):.0f} dBFS" if peak else "all zero"
    problems["silent"] = level
  seconds = len(samples) / sample_rate_hz
  if seconds < _SHORT_SECONDS:
    problems["short"] = f"{seconds:.2f} s"
  clipped = np.mean(size >= 32767)
  if clipped >= _CLIPPED_SHARE:
    problems["clipped"] = f"{100 * clipped:.0f} % of samples at full scale"
  return problems


def why_left_out(problems: dict[str, str], drop: Sequence[str]) -> str:
  """The first reason for which a row is not written; empty if it is."""
  return next((r for r in problems if r in LEFT_OUT or r in drop), "")


def of_rows(
  rows: Sequence[Row], classes: labels.ClassList, drop: Sequence[str]
) -> dict:
  """What audit.json says of a split.

  Args:
    rows: All, in the list's order.
    classes: The class list.
    drop: The droppable reasons that keep a row out.

  Returns:
    {"expected": rows, "found": rows with a file, "written": rows,
    "left_out": {reason: rows}, which with "written" add up to "expected";
    "noted": {reason: rows}, of those that are written;
    "clips": {reason: [{"id", "file", "detail"}]}, all rows of whom it is true;
    "classes": [{"index", "mid", "name", "expected", "found", "written", and
    each reason that occurs}]}.

  Raises:
    RuntimeError: If a row was lost.
  """
  left_out, noted = collections.Counter(), collections.Counter()
  named = collections.defaultdict(list)
  by_class = [collections.Counter() for _ in range(len(classes))]
  for row in rows:
    counted = ["expected", *row.problems]
    if row.clip.path is not None and "missing" not in row.problems:
      counted.append("found")
    if row.is_written:
      counted.append("written")
      noted.update(row.problems.keys())
    else:
      left_out[why_left_out(row.problems, drop)] += 1
    for label in row.clip.labels:
      by_class[label].update(counted)
    for reason, detail in row.problems.items():
      named[reason].append(
        {"id": row.clip.id, "file": row.clip.path, "detail": detail}
      )
  written = sum(row.is_written for row in rows)
  if written + sum(left_out.values()) != len(rows) or left_out[""]:
    raise RuntimeError(f"rows were lost: {len(rows)}, {written}, {left_out}")
  order = [reason for reason in REASONS if named[reason]]
  return {
    "expected": len(rows),
    "found": sum(
      row.clip.path is not None and "missing" not in row.problems
      for row in rows
    ),
    "written": written,
    "left_out": {r: left_out[r] for r in order if left_out[r]},
    "noted": {r: noted[r] for r in order if noted[r]},
    "clips": {r: named[r] for r in order},
    "classes": [
      {
        **one,
        **{name: counts[name] for name in ("expected", "found", "written")},
        **{r: counts[r] for r in order if counts[r]},
      }
      for one, counts in zip(classes.to_json(), by_class)
    ],
  }


def write(folder: str, split: str, of_split: dict) -> None:
  """Puts a split into audit.json and audit.txt, beside those already there."""
  path = os.path.join(folder, JSON_FILE)
  content = {}
  if tf.io.gfile.exists(path):
    with tf.io.gfile.GFile(path) as file:
      content = json.load(file)
  content[split] = of_split
  storage.write_json(path, content)
  text = "\n".join(
    f"{summary(name, one)}\n\n{_class_table(one)}\n"
    for name, one in content.items()
    if "left_out" in one  # Else from an earlier version.
  )
  storage.write_file(os.path.join(folder, TEXT_FILE), text.encode())


def summary(split: str, of_split: dict) -> str:
  """Lines to read; of each reason the first rows are named."""
  expected, written = of_split["expected"], of_split["written"]
  lines = [
    f"{split}: {expected:,} rows, {of_split['found']:,} files found, "
    f"{written:,} clips written ({100 * written / expected:.2f} %)"
  ]
  left_out, noted = of_split["left_out"], of_split["noted"]
  for title, counts in (("left out", left_out), ("written, but", noted)):
    for reason, count in counts.items():
      lines.append(f"  {title}: {count:,} {reason}: {REASONS[reason]}")
      rows = of_split["clips"][reason]
      lines += [
        "    " + row["id"] + (f": {row['detail']}" if row["detail"] else "")
        for row in rows[:_NUM_NAMED]
      ]
      if len(rows) > _NUM_NAMED:
        lines.append(f"    and {len(rows) - _NUM_NAMED:,} more in {JSON_FILE}")
  terms = " + ".join(f"{n:,}" for n in (written, *left_out.values()))
  lines.append(f"  every row is accounted for: {terms} = {expected:,}")
  poorest = sorted(
    (c for c in of_split["classes"] if c["written"] < c["expected"]),
    key=lambda c: c["written"] / c["expected"],
  )[:_NUM_CLASSES]
  if poorest:
    lines.append(
      "  classes with the least: "
      + ", ".join(
        f"{c['name']} {c['written']}/{c['expected']}" for c in poorest
      )
    )
  return "\n".join(lines)


def _class_table(of_split) -> str:
  reasons = list(of_split["clips"])
  heads = ["class", "expected", "found", "written", *reasons]
  rows = [heads] + [
    [c["name"], *(f"{c.get(head, 0):,}" for head in heads[1:])]
    for c in of_split["classes"]
    if c["expected"]
  ]
  widths = [max(map(len, column)) for column in zip(*rows)]
  return "\n".join(
    "  ".join(
      [row[0].ljust(widths[0])]
      + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
    )
    for row in rows
  )
