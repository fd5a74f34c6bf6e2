# SPDX-License-Identifier: Apache-2.0
"""A recording as a picture: its spectrogram over what was heard in it.

Needs matplotlib. Memory and picture are of one size, however long it is.
"""

from __future__ import annotations

import functools
import io
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np

from tf_audioset import features
from tf_audioset.serving import prediction

_MAX_COLUMNS = 1200
_NUM_CLASSES = 12
_WINDOW_SAMPLES, _HOP_SAMPLES, _FFT_SAMPLES = 400, 160, 1024
_NUM_MELS = 64
_TICKS_HZ = (125, 250, 500, 1000, 2000, 4000, 8000)
_FONT = "DejaVu Sans"  # Comes with matplotlib.
# Longer texts would leave no room for the picture.
_MAX_TITLE, _MAX_LABEL = 110, 40


def literal(text: str) -> str:
  r"""Returns a text as matplotlib is to be given it, to show it as it is.

  What is between two $ would be a formula. A letter that no font of `fonts`
  has would be a box, and a warning: it is spelled out, as in "\u72ac".
  """
  shown = (
    letter
    if unicodedata.category(letter) not in ("Cc", "Cs") and _font_with(letter)
    else letter.encode("unicode_escape", "surrogatepass").decode()
    for letter in text
  )
  return "".join(shown).replace("$", r"\$")


def fonts(*texts: str) -> list[str]:
  """Returns fonts that together have the letters of texts: `fontfamily`."""
  found = dict.fromkeys([_FONT])
  for letter in "".join(texts):
    found[_font_with(letter) or _FONT] = None
  return list(found)


@functools.cache
def _font_with(letter: str) -> str:
  """Returns a font of this machine that has a letter; empty if none has."""
  from matplotlib import font_manager

  entries = font_manager.fontManager.ttflist
  for entry in sorted(entries, key=lambda entry: entry.name != _FONT):
    # Fonts for formulas, and one that draws boxes in the place of letters.
    if not entry.name.startswith(("cm", "STIX", "Last Resort")):
      if ord(letter) in _letters_of(entry.fname):
        return entry.name
  return ""


@functools.cache
def _letters_of(path: str) -> frozenset[int]:
  from matplotlib import ft2font

  return frozenset(ft2font.FT2Font(path).get_charmap())


class Picture:
  """Takes the parts of a recording one by one, and draws them all."""

  def __init__(self, names: Sequence[str], sample_rate_hz: int):
    """Starts without any part.

    Args:
      names: Of the classes.
      sample_rate_hz: Of the waveforms.
    """
    self._names = names
    self._sample_rate_hz = sample_rate_hz
    self._num_samples = 0
    self._rest = np.zeros(0, np.float32)
    self._filters = features.mel_filterbank(
      num_mels=_NUM_MELS,
      fft_samples=_FFT_SAMPLES,
      sample_rate_hz=sample_rate_hz,
      lower_hz=0.0,
      upper_hz=sample_rate_hz / 2,
    )
    self._levels_db = Columns(_MAX_COLUMNS, np.mean)
    self._scores = Columns(_MAX_COLUMNS, np.max)
    self._centres = Columns(_MAX_COLUMNS, np.mean)

  def add(self, part: prediction.Part) -> None:
    """Takes the next part."""
    self._num_samples += len(part.waveform)
    waveform = np.concatenate([self._rest, part.waveform])
    if len(waveform) >= _WINDOW_SAMPLES:
      levels_db = self._log_mel(waveform)
      self._levels_db.add(levels_db)
      waveform = waveform[len(levels_db) * _HOP_SAMPLES :]
    self._rest = waveform
    self._scores.add(part.scores)
    centres = (part.begin_seconds + part.end_seconds) / 2
    self._centres.add(centres[:, np.newaxis])

  def _log_mel(self, waveform):
    frames = np.lib.stride_tricks.sliding_window_view(waveform, _WINDOW_SAMPLES)
    frames = frames[::_HOP_SAMPLES] * np.hanning(_WINDOW_SAMPLES)
    power = np.abs(np.fft.rfft(frames, _FFT_SAMPLES)) ** 2
    return 10 * np.log10(power @ self._filters + 1e-8)

  def columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns what is drawn.

    Returns:
      levels_db [n, num_mels], columns of equal share of the time; scores
      [m, num_classes]; edges of these in seconds [m + 1], from 0 to the end.
    """
    seconds = self._num_samples / self._sample_rate_hz
    if self._levels_db.is_empty:  # Shorter than a frame.
      self._levels_db.add(self._log_mel(np.resize(self._rest, _WINDOW_SAMPLES)))
    centres = self._centres.all()[:, 0]
    edges = np.array([0.0, *(centres[1:] + centres[:-1]) / 2, seconds])
    return self._levels_db.all(), self._scores.all(), edges

  def png(self, title: str) -> bytes:
    """Returns a PNG, 1200 x 800.

    Args:
      title: Above it; of a long one its end.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    levels_db, scores, edges = self.columns()
    seconds = edges[-1]
    highest = np.argsort(-scores.max(axis=0), kind="stable")[:_NUM_CLASSES]
    figure, (above, below) = pyplot.subplots(
      2, 1, sharex=True, figsize=(12, 8), dpi=100, layout="constrained"
    )
    highest_hz = self._sample_rate_hz / 2
    mels_at = features.hz_to_mel([highest_hz, *_TICKS_HZ])
    high = np.percentile(levels_db, 99.9)
    levels = above.imshow(
      levels_db.T,
      aspect="auto",
      origin="lower",
      extent=[0, seconds, 0, mels_at[0]],
      vmin=high - 70,
      vmax=high,
      cmap="magma",
    )
    ticks = [hz for hz in _TICKS_HZ if hz <= highest_hz]
    above.set_yticks(mels_at[1 : 1 + len(ticks)], ticks)
    if len(title) > _MAX_TITLE:
      title = "..." + title[-_MAX_TITLE:]
    above.set_title(literal(title), fontfamily=fonts(title))
    above.set_ylabel("Hz")
    figure.colorbar(levels, ax=above, label="dB", pad=0.01)

    rows = np.arange(len(highest) + 1)
    activity = below.pcolormesh(
      edges, rows, scores[:, highest].T, vmin=0, vmax=1, cmap="Blues"
    )
    names = [_shortened(self._names[i]) for i in highest]
    below.set_yticks(
      rows[:-1] + 0.5, map(literal, names), fontfamily=fonts(*names)
    )
    below.invert_yaxis()
    below.set(xlabel="time", xlim=(0, seconds))
    below.xaxis.set_major_locator(_time_locator(seconds))
    below.xaxis.set_major_formatter(
      ticker.FuncFormatter(lambda x, _: prediction.clock(x))
    )
    figure.colorbar(activity, ax=below, label="score", pad=0.01)
    content = io.BytesIO()
    figure.savefig(content)
    pyplot.close(figure)
    return content.getvalue()


def _shortened(name: str) -> str:
  return name if len(name) <= _MAX_LABEL else name[:_MAX_LABEL] + "..."


def _time_locator(seconds: float):
  """Ticks at round numbers of a clock."""
  from matplotlib import ticker

  for step in (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600):
    if seconds / step <= 12:
      return ticker.MultipleLocator(step)
  return ticker.MaxNLocator(12)


class Columns:
  """A stream of rows, merged to fewer than 2 x `limit` rows of equal share."""

  def __init__(self, limit: int, merge: Callable):
    """Takes NumPy's mean, max or the like as `merge`."""
    self._limit, self._merge = limit, merge
    self._num_merged = 1  # Rows of the stream in one of `_merged`.
    self._merged, self._rest = [], []

  def add(self, rows: np.ndarray) -> None:
    """Takes rows [n, size]."""
    for row in rows:
      self._rest.append(row)
      if len(self._rest) == self._num_merged:
        self._merged.append(self._merge(self._rest, axis=0))
        self._rest = []
      if len(self._merged) == 2 * self._limit:
        pairs = zip(self._merged[::2], self._merged[1::2])
        self._merged = [self._merge(pair, axis=0) for pair in pairs]
        self._num_merged *= 2

  @property
  def is_empty(self) -> bool:
    """Returns whether nothing was added."""
    return not self._merged and not self._rest

  def all(self) -> np.ndarray:
    """Returns [num_rows, size]; the last row may be of fewer."""
    rows = list(self._merged)
    if self._rest:
      rows.append(self._merge(self._rest, axis=0))
    return np.array(rows)
