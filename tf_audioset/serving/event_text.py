# SPDX-License-Identifier: Apache-2.0
"""Events as the text that other programs read, a line each.

References: Audacity's manual, "Importing and Exporting Labels"; the Raven Pro
User's Manual, "Selection tables".
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence

from tf_audioset.serving import events

FORMATS = ("tsv", "csv", "json", "audacity", "raven")
# What is added to a recording's name; Raven knows its tables by theirs.
ENDINGS = {
  "tsv": ".tsv",
  "csv": ".csv",
  "json": ".jsonl",
  "audacity": ".txt",
  "raven": ".Table.1.selections.txt",
}
# These have a column for the recording.
NAMING_FILES = ("tsv", "csv", "json")

_RAVEN = (
  "Selection",
  "View",
  "Channel",
  "Begin Time (s)",
  "End Time (s)",
  "Low Freq (Hz)",
  "High Freq (Hz)",
  "Species",
  "Score",
)


class Writer:
  """Makes the lines of events in one of `FORMATS`."""

  def __init__(
    self,
    form: str,
    names: Sequence[str],
    mids: Sequence[str],
    sample_rate_hz: int,
    *,
    has_files: bool = False,
  ):
    """Starts a table.

    Args:
      form: One of `FORMATS`: tsv and csv have the columns onset, offset, label
        and score, json has one object a line.
      names: Of the classes.
      mids: Of the classes.
      sample_rate_hz: Half of it is the upper frequency of Raven's selections.
      has_files: Whether lines begin with the recording's name; one of
        `NAMING_FILES` only.
    """
    self._form = form
    self._names, self._mids = names, mids
    self._upper_hz = sample_rate_hz // 2
    self._has_files = has_files
    self._num_lines = 0

  def head(self) -> str:
    """Returns the first line; Audacity's labels and JSON lines have none."""
    if self._form == "raven":
      return _line(_RAVEN, "\t")
    if self._form in ("tsv", "csv"):
      files = ["filename"] if self._has_files else []
      return self._row([*files, "onset", "offset", "label", "score"])
    return ""

  def line(
    self,
    event: events.Event,
    file: str = "",
    told_seconds: float | None = None,
  ) -> str:
    """Returns the line of an event.

    Args:
      event: The event.
      file: The recording's name; not used without `has_files`.
      told_seconds: For JSON: how much of a stream had been heard by then.
    """
    self._num_lines += 1
    begin, end = f"{event.begin_seconds:.6f}", f"{event.end_seconds:.6f}"
    name = self._names[event.index]
    files = [file] if self._has_files else []
    if self._form == "json":
      fields = {"file": file} if self._has_files else {}
      fields |= {
        "onset": round(event.begin_seconds, 6),
        "offset": round(event.end_seconds, 6),
        "label": name,
        "mid": self._mids[event.index],
        "score": round(event.score, 6),
      }
      if told_seconds is not None:
        fields["told"] = round(told_seconds, 6)
      return json.dumps(fields, ensure_ascii=False) + "\n"
    if self._form == "audacity":
      # Audacity does not know quotes.
      return f"{begin}\t{end}\t{_plain(name)}\n"
    if self._form == "raven":
      view = [self._num_lines, "Spectrogram 1", 1]
      band = [0, self._upper_hz]
      row = [*view, begin, end, *band, _plain(name), f"{event.score:.4f}"]
      return _line(row, "\t")
    return self._row([*files, begin, end, name, f"{event.score:.4f}"])

  def table(self, found: Iterable[events.Event], file: str = "") -> str:
    """Returns a table with its head, its events in the order of their begin."""
    lines = [self.line(event, file) for event in sorted(found)]
    return "".join([self.head(), *lines])

  def _row(self, cells) -> str:
    return _line(cells, "\t" if self._form == "tsv" else ",")


def _plain(text: str) -> str:
  """Returns a name without what would begin another cell or line."""
  return " ".join(text.split())


def _line(cells: Sequence, delimiter: str) -> str:
  line = io.StringIO()
  csv.writer(line, delimiter=delimiter, lineterminator="\n").writerow(cells)
  return line.getvalue()
