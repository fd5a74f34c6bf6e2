# SPDX-License-Identifier: Apache-2.0
"""Scores of files and windows as tables for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

import numpy as np

from tf_audioset.data import audio_files
from tf_audioset.serving import prediction

LINES, JSON, CSV, TSV = "lines", "json", "csv", "tsv"
# Of files, by their endings: a .json file is one array, a .jsonl file lines.
ENDINGS = {".csv": CSV, ".tsv": TSV, ".json": JSON, ".jsonl": JSON}


class Choice:
  """Says which classes of a clip are shown."""

  def __init__(
    self,
    names: Sequence[str],
    mids: Sequence[str],
    *,
    top_k: int | None = None,
    limits: np.ndarray | None = None,
  ):
    """Chooses all classes, but for what is told.

    Args:
      names: Of the classes.
      mids: Of the classes.
      top_k: At most so many.
      limits: float [num_classes]: only those whose score is at least this.
    """
    self._names, self._mids, self._top_k = names, mids, top_k
    self._limits = np.full(len(names), -np.inf) if limits is None else limits

  def of(self, scores: np.ndarray) -> list[tuple[float, str, str]]:
    """Returns (score, name, mid) of the chosen classes, the highest first."""
    order = (-scores).argsort(kind="stable")
    order = order[(scores >= self._limits)[order]][: self._top_k]
    return [(float(scores[i]), self._names[i], self._mids[i]) for i in order]


class Formatter:
  """Makes the rows of a table; `head` comes before them."""

  def __init__(self, style: str, choice: Choice, *, has_times: bool):
    """Starts a table.

    Args:
      style: One of `LINES`, `JSON`, `CSV`, `TSV`.
      choice: Of the classes.
      has_times: Whether rows are of windows, not of whole files.
    """
    self._style, self._choice, self._has_times = style, choice, has_times

  def head(self) -> str:
    """Returns the names of the columns; lines and JSON have none."""
    if self._style not in (CSV, TSV):
      return ""
    times = ["begin_seconds", "end_seconds"] if self._has_times else []
    return self._row(["file", *times, "mid", "name", "score"])

  def clip(self, file: str, clip: prediction.Clip) -> str:
    """Returns the rows of a whole file, which goes by the name `file`."""
    more = {"seconds": clip.seconds, "remarks": clip.remarks}
    return self._rows(file, {}, clip.scores, more)

  def windows(self, file: str, part: prediction.Part) -> str:
    """Returns the rows of windows of a file."""
    times = zip(part.begin_seconds.tolist(), part.end_seconds.tolist())
    last = len(part.scores) - 1
    rows = []
    for i, ((begin, end), scores) in enumerate(zip(times, part.scores)):
      fields = {"begin_seconds": begin, "end_seconds": end}
      remarks = part.remarks if i == last else ()
      rows.append(self._rows(file, fields, scores, {"remarks": remarks}))
    return "".join(rows)

  def _rows(self, file, times, scores, more) -> str:
    chosen = self._choice.of(scores)
    if self._style == JSON:
      keys = ("score", "name", "mid")
      tags = [dict(zip(keys, tag)) for tag in chosen]
      line = {"file": file, **times, **more, "tags": tags}
      return json.dumps(line, ensure_ascii=False) + "\n"
    rows = []
    for score, name, mid in chosen:
      if self._style == LINES:
        shown = audio_files.printable(file)
        cells = [shown, *times.values(), f"{score:.4f}", name]
        rows.append("\t".join(map(str, cells)) + "\n")
      else:
        rows.append(self._row([file, *times.values(), mid, name, score]))
    return "".join(rows)

  def _row(self, cells) -> str:
    line = io.StringIO()
    delimiter = "\t" if self._style == TSV else ","
    csv.writer(line, delimiter=delimiter, lineterminator="\n").writerow(cells)
    return line.getvalue()


def as_file(ending: str, rows: str, head: str) -> str:
  """Returns what a file with one of `ENDINGS` holds.

  Args:
    ending: Such as ".json", whose rows become the items of an array.
    rows: Of a `Formatter`.
    head: Of the same.
  """
  if ending != ".json":
    return head + rows
  return "[\n" + ",\n".join(rows.splitlines()) + "\n]\n"
