# SPDX-License-Identifier: Apache-2.0
"""What tools/predict.py prints: scores as a table, lines, JSON or CSV."""

from __future__ import annotations

import contextlib
import csv
import json
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from tf_audioset.data import audio_files
from tf_audioset.runtime import cli
from tf_audioset.serving import prediction

TABLE, LINES, JSON, CSV = "table", "lines", "json", "csv"

_BAR_LETTERS = 20


class Printer:
  """Prints results to the standard output; errors and progress beside it.

  Attributes:
    num_failed: Files of which `fail` was told.
  """

  def __init__(
    self,
    names: Sequence[str],
    mids: Sequence[str],
    *,
    style: str,
    top_k: int,
    has_times: bool,
  ):
    """Prints the head of a CSV.

    Args:
      names: Of the classes.
      mids: Of the classes.
      style: One of `TABLE`, `LINES`, `JSON`, `CSV`.
      top_k: How many classes to print.
      has_times: Whether windows are printed, not whole files.
    """
    self.num_failed = 0
    self._names, self._mids = names, mids
    self._style, self._top_k = style, top_k
    self._bar, self._done = None, 0.0
    # A letter that a terminal does not have is no reason to stop.
    sys.stdout.reconfigure(errors="backslashreplace")
    self._csv = csv.writer(sys.stdout, lineterminator="\n")
    if style == CSV:
      times = ["begin_seconds", "end_seconds"] if has_times else []
      self._csv.writerow(["file", *times, "mid", "name", "score"])

  @contextlib.contextmanager
  def progress(self, total: float, unit: str) -> Iterator[None]:
    """Shows a progress bar meanwhile, on which `advance` counts."""
    with cli.progress_bar(
      int(total), "predict", unit, among_results=True
    ) as self._bar:
      yield

  def advance(self, amount: float) -> None:
    """Counts what is done."""
    self._done += amount
    self._bar.update(int(self._done) - self._bar.n)

  def fail(self, message: str) -> None:
    """Tells why a file has no result."""
    self.num_failed += 1
    self.say(f"error: {message}")

  def say(self, message: str) -> None:
    """Prints a line that is no result."""
    self._write(f"predict: {message}", sys.stderr)

  def clip(self, file: str, clip: prediction.Clip) -> None:
    """Prints the scores of a whole file.

    Args:
      file: The name it was given by.
      clip: Its scores.
    """
    if self._style == TABLE:
      self._write(f"{audio_files.printable(file)}  ({clip.seconds:.2f} s)")
      for score, name, _ in self._highest(clip.scores):
        self._write(f"  {score:.4f}  {_bar(score)}  {name}")
    else:
      more = {"seconds": clip.seconds, "remarks": clip.remarks}
      self._record(file, {}, clip.scores, more)
    self.remark(file, clip.remarks)

  def begin(self, file: str) -> None:
    """Prints the name of a file whose windows follow."""
    if self._style == TABLE:
      self._write(audio_files.printable(file))

  def windows(self, file: str, part: prediction.Part) -> None:
    """Prints the scores of windows of a file."""
    times = zip(part.begin_seconds.tolist(), part.end_seconds.tolist())
    last = len(part.scores) - 1
    for i, ((begin, end), scores) in enumerate(zip(times, part.scores)):
      if self._style == TABLE:
        first, *others = self._highest(scores)
        line = f"  {prediction.clock(begin):10}  {first[0]:.4f}  "
        line += f"{_bar(first[0])}  {first[1]}"
        for score, name, _ in others:
          line += f"; {name} {score:.2f}"
        self._write(line)
      else:
        fields = {"begin_seconds": begin, "end_seconds": end}
        remarks = part.remarks if i == last else ()
        self._record(file, fields, scores, {"remarks": remarks})
    self.remark(file, part.remarks)

  def text(self, text: str) -> None:
    """Prints lines of results as they are."""
    if text:
      self._write(text.removesuffix("\n"))

  def remark(self, file: str, remarks: Sequence[str]) -> None:
    """Tells what one should know of a file."""
    for remark in remarks:
      self.say(f"{audio_files.printable(file)}: {remark}")

  def _record(self, file, times, scores, more) -> None:
    highest = self._highest(scores)
    if self._style == JSON:
      keys = ("score", "name", "mid")
      tags = [dict(zip(keys, tag)) for tag in highest]
      line = {"file": file, **times, **more, "tags": tags}
      print(json.dumps(line, ensure_ascii=False))
      return
    for score, name, mid in highest:
      if self._style == CSV:
        self._csv.writerow([file, *times.values(), mid, name, score])
      else:
        shown = audio_files.printable(file)
        print(shown, *times.values(), f"{score:.4f}", name, sep="\t")

  def _highest(self, scores: np.ndarray):
    """The first (score, name, mid), as many as are printed."""
    order = (-scores).argsort(kind="stable")[: self._top_k]
    return [(float(scores[i]), self._names[i], self._mids[i]) for i in order]

  def _write(self, text: str, file=None) -> None:
    """Prints a line; where the progress bar is written, too, above it."""
    file = file or sys.stdout
    is_beside_bar = file is sys.stderr or file.isatty() and sys.stderr.isatty()
    if self._bar is not None and is_beside_bar:
      self._bar.write(text, file=file)
    else:
      print(text, file=file)


def _bar(score: float) -> str:
  return ("█" * round(score * _BAR_LETTERS)).ljust(_BAR_LETTERS, "░")
