# SPDX-License-Identifier: Apache-2.0
"""What became of every row of a list: audit.json, and audit.txt to read.

A row is written or left out, for one reason; nothing else happens to it. What
is odd of a row that is written is told as well. So is every file of a folder
that was looked through.
"""

from __future__ import annotations

import collections
import json
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf_audioset.data import audio_files, labels
from tf_audioset.preparation import clip_lists
from tf_audioset.runtime import columns, storage

JSON_FILE = "audit.json"
TEXT_FILE = "audit.txt"

# Reasons for which a row is always left out, and what they mean. These rows
# repeat an earlier one, whose clip has what they say.
REPEATED = {
  "duplicate_id": "an earlier row says the same of the same clip",
  "merged_rows": "its labels were added to an earlier row of the same clip",
}
LEFT_OUT = {
  **REPEATED,
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
  "truncated": "shorter than the list says by more than 10 %",
  "overlong": "longer than the list says by more than 10 %",
}
# What is known when all is written, or is no fault of the clip.
NOTED = {
  "duplicate_audio": "another clip has exactly the same samples",
  "shortened": "longer than --clip_seconds by 1 s or more: cut to it",
  "partly_unknown_labels": "some labels are not in the class list",
  "several_files": "several files are named for the row",
  "other_name": "the file has another name than the list says",
  "remark": "the decoder has a remark",
}
REASONS = {**LEFT_OUT, **DROPPABLE, **NOTED}

_SILENT_PEAK = 10 ** (-60 / 20)
_SHORT_SECONDS = 1.0
# Resampling overshoots. Of 610 real recordings whose own samples never reach
# full scale, 59 do so at 16 kHz, all but two in less than 0.8 % of the samples.
_CLIPPED_SHARE = 0.01

# Encoders add or lose a part of a frame, and cut between frames.
_LENGTH_SHARE = 0.1
_LENGTH_SECONDS = 0.1

_NUM_NAMED = 5  # Rows a reason in the text; audit.json has all.
_NUM_CLASSES = 5  # Classes in the summary; audit.txt has all.
_NUM_FILES = 1000  # That are passed over for one reason, in audit.json.


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
  """Returns which of "silent", "short", "clipped" hold of int16 samples."""
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


def length_problems(
  seconds: float | None, row_seconds: float | None
) -> dict[str, str]:
  """Returns that of "truncated" and "overlong" that holds of a file.

  Args:
    seconds: Its length; None if unknown.
    row_seconds: What its row says of it; None if nothing.
  """
  if not seconds or not row_seconds:
    return {}
  excess = seconds - row_seconds
  if abs(excess) <= max(_LENGTH_SHARE * row_seconds, _LENGTH_SECONDS):
    return {}
  reason = "truncated" if excess < 0 else "overlong"
  return {reason: f"{seconds:.1f} of {row_seconds:.1f} s"}


def why_left_out(problems: dict[str, str], drop: Sequence[str]) -> str:
  """Returns the first reason to leave a row out; empty if there is none."""
  return next((r for r in problems if r in LEFT_OUT or r in drop), "")


def of_source(clip_list: clip_lists.ClipList) -> dict:
  """Returns what audit.json says of where the clips come from.

  Returns:
    {"source": list or folder, "remarks": [...], "warnings": [...]} and, if a
    folder was looked through, "files": {"folder", "seen", "taken",
    "passed_over": {reason: {"count", "files": the first}}, "by_class": {index:
    how many were passed over in the class's folder}, "summary"}, where taken
    and passed over add up to seen.
  """
  about = {
    "source": clip_list.source,
    "remarks": [*clip_list.remarks, clip_list.class_counts()],
    "warnings": clip_list.warnings,
  }
  if clip_list.folder:
    by_reason = collections.defaultdict(list)
    by_class = collections.Counter()
    for path, reason in clip_list.passed_over.items():
      shown = audio_files.printable(path, clip_list.folder)
      by_reason[reason].append(shown)
      index = clip_list.class_folders.get(shown.partition("/")[0])
      if index is not None:
        by_class[index] += 1
    about["files"] = {
      "folder": clip_list.folder,
      "seen": clip_list.num_files,
      "taken": clip_list.num_files - len(clip_list.passed_over),
      "passed_over": {
        reason: {"count": len(paths), "files": paths[:_NUM_FILES]}
        for reason, paths in by_reason.items()
      },
      "by_class": {str(i): by_class[i] for i in sorted(by_class)},
      "summary": audio_files.summary(clip_list.passed_over, clip_list.folder),
    }
  return about


def of_rows(
  rows: Sequence[Row], classes: labels.ClassList, drop: Sequence[str]
) -> dict:
  """Returns what audit.json says of a split.

  Args:
    rows: All, in the list's order.
    classes: The class list.
    drop: The droppable reasons that keep a row out.

  Returns:
    {"expected": rows, "repeated": rows that repeat an earlier one, "found":
    the others that have a file, "written": rows,
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
  num_found = 0
  for row in rows:
    counted = ["expected", *row.problems]
    is_found = _is_found(row)
    num_found += is_found
    if is_found:
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
    "repeated": sum(left_out[reason] for reason in REPEATED),
    "found": num_found,
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


def _is_found(row: Row) -> bool:
  return row.clip.path is not None and not (
    {"missing", *REPEATED} & row.problems.keys()
  )


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
  # Audits of earlier versions count these as left out.
  clips = expected - of_split.get("repeated", 0)
  of_clips = f" of {clips:,} clips" if clips < expected else ""
  lines = [
    f"{split}: {expected:,} rows{of_clips}, {of_split['found']:,} files found, "
    f"{written:,} clips written ({100 * written / clips:.2f} %)"
  ]
  left_out, noted = of_split["left_out"], of_split["noted"]
  for title, counts in (("left out", left_out), ("written, but", noted)):
    for reason, count in counts.items():
      word = "repeated" if reason in REPEATED else title
      lines.append(f"  {word}: {count:,} {reason}: {REASONS[reason]}")
      rows = of_split["clips"][reason]
      lines += [
        "    " + row["id"] + (f": {row['detail']}" if row["detail"] else "")
        for row in rows[:_NUM_NAMED]
      ]
      if len(rows) > _NUM_NAMED:
        lines.append(f"    and {len(rows) - _NUM_NAMED:,} more in {JSON_FILE}")
  terms = " + ".join(f"{n:,}" for n in (written, *left_out.values()))
  lines.append(f"  every row is accounted for: {terms} = {expected:,}")
  if files := of_split.get("files"):
    lines += [f"  {files['summary']}"] * bool(files["summary"])
    counts = [x["count"] for x in files["passed_over"].values()]
    terms = " + ".join(f"{n:,}" for n in (files["taken"], *counts))
    lines.append(f"  every file is accounted for: {terms} = {files['seen']:,}")
  lines += [f"  warning: {x}" for x in of_split.get("warnings", ())]
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
  passed_over = of_split.get("files", {}).get("by_class", {})
  heads += ["passed over"] * bool(passed_over)
  rows = [heads]
  for one in of_split["classes"]:
    counts = {**one, "passed over": passed_over.get(str(one["index"]), 0)}
    rows.append(
      [one["name"], *(f"{counts.get(head, 0):,}" for head in heads[1:])]
    )
  return columns.columns(rows, num_left=1)
