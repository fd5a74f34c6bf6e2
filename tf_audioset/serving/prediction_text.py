# SPDX-License-Identifier: Apache-2.0
"""What tools/predict.py prints: scores as a table, lines, JSON or CSV."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence

from tf_audioset.data import audio_files
from tf_audioset.runtime import cli
from tf_audioset.serving import prediction, result_text

TABLE = "table"

_BAR_LETTERS = 20


class Printer:
  """Prints results to the standard output; errors and progress beside it.

  Attributes:
    num_failed: Files of which `fail` was told.
  """

  def __init__(
    self,
    style: str | None,
    choice: result_text.Choice,
    *,
    has_times: bool,
  ):
    """Prints the head of a table.

    Args:
      style: `TABLE` or one of those of `result_text`; None: no scores.
      choice: Of the classes.
      has_times: Whether windows are printed, not whole files.
    """
    self.num_failed = 0
    self._style, self._choice = style, choice
    self._bar, self._done = None, 0.0
    # A letter that a terminal does not have is no reason to stop.
    sys.stdout.reconfigure(errors="backslashreplace")
    self._rows = result_text.Formatter(style, choice, has_times=has_times)
    print(self._rows.head(), end="")

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
      for score, name, _ in self._choice.of(clip.scores):
        self._write(f"  {score:.4f}  {_bar(score)}  {name}")
    elif self._style:
      print(self._rows.clip(file, clip), end="")
    self.remark(file, clip.remarks)

  def begin(self, file: str) -> None:
    """Prints the name of a file whose windows follow."""
    if self._style == TABLE:
      self._write(audio_files.printable(file))

  def windows(self, file: str, part: prediction.Part) -> None:
    """Prints the scores of windows of a file."""
    if self._style == TABLE:
      for begin, scores in zip(part.begin_seconds, part.scores):
        self._write(self._table_row(begin, self._choice.of(scores)))
    elif self._style:
      print(self._rows.windows(file, part), end="")
    self.remark(file, part.remarks)

  def _table_row(self, begin, chosen) -> str:
    line = f"  {prediction.clock(begin):10}"
    if chosen:
      score, name, _ = chosen[0]
      line += f"  {score:.4f}  {_bar(score)}  {name}"
    for score, name, _ in chosen[1:]:
      line += f"; {name} {score:.2f}"
    return line

  def text(self, text: str) -> None:
    """Prints lines of results as they are."""
    if text:
      self._write(text.removesuffix("\n"))

  def remark(self, file: str, remarks: Sequence[str]) -> None:
    """Tells what one should know of a file."""
    for remark in remarks:
      self.say(f"{audio_files.printable(file)}: {remark}")

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
