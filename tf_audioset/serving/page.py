# SPDX-License-Identifier: Apache-2.0
"""Recordings as one HTML page that needs no network.

Each has its spectrogram, the activity of its classes, its events and a player.
The page's own JavaScript, in page_template.html, draws what JSON holds.
"""

from __future__ import annotations

import base64
import html
import io
import json
import pathlib
import string
from collections.abc import Sequence

import numpy as np
import soundfile

from tf_audioset.serving import events, picture, prediction

_NUM_CLASSES = 12
_DYNAMIC_DB = 70.0


class _Template(string.Template):
  delimiter = "@@"  # JavaScript has the dollar.


class Recording:
  """Takes the parts of a recording, and keeps what the page shows of it."""

  def __init__(
    self, names: Sequence[str], sample_rate_hz: int, max_audio_seconds: float
  ):
    """Starts without any part.

    Args:
      names: Of the classes.
      sample_rate_hz: Of the waveforms.
      max_audio_seconds: A longer recording has no sound in the page.
    """
    self._names, self._rate_hz = names, sample_rate_hz
    self._picture = picture.Picture(names, sample_rate_hz)
    self._max_samples = max_audio_seconds * sample_rate_hz
    self._num_samples = 0
    self._remarks = ()
    self._mp3 = io.BytesIO()
    self._encoder = soundfile.SoundFile(
      self._mp3, "w", samplerate=sample_rate_hz, channels=1, format="MP3"
    )

  @property
  def audio_seconds(self) -> float:
    """Returns the length of the sound that the page has of it."""
    return self._num_samples / self._rate_hz if self._encoder else 0.0

  def add(self, part: prediction.Part) -> None:
    """Takes the next part."""
    self._picture.add(part)
    self._remarks = part.remarks
    self._num_samples += len(part.waveform)
    if self._num_samples > self._max_samples:
      self._encoder = None
      self._mp3 = io.BytesIO()
    elif self._encoder:
      self._encoder.write(part.waveform)

  def data(
    self, title: str, found: Sequence[events.Event], left_out: np.ndarray
  ) -> dict:
    """Returns what the page's JSON has of the recording.

    Args:
      title: Its name.
      found: Its events.
      left_out: bool [num_classes], classes that are not shown.
    """
    levels_db, scores, edges = self._picture.columns()
    order = np.argsort(-scores.max(axis=0), kind="stable")
    heard = {event.index for event in found}
    # Those with events first.
    order = sorted(order[~left_out[order]], key=lambda i: i not in heard)
    rows = np.array(order[:_NUM_CLASSES], int)
    audio = ""
    if self._encoder:
      self._encoder.close()
      audio = "data:audio/mpeg;base64," + _base64(self._mp3.getvalue())
    return {
      "title": title,
      "seconds": float(edges[-1]),
      "remarks": list(self._remarks),
      "spectrogram": "data:image/png;base64," + _base64(_png(levels_db)),
      "upper_hz": self._rate_hz / 2,
      "edges": [round(float(edge), 3) for edge in edges],
      "rows": [
        {
          "name": self._names[i],
          "scores": _base64(_bytes(scores[:, i])),
        }
        for i in rows
      ],
      "events": [
        [
          round(event.begin_seconds, 3),
          round(event.end_seconds, 3),
          self._names[event.index],
          round(event.score, 4),
        ]
        for event in sorted(found)
      ],
      "audio": audio,
    }


def page(title: str, facts: Sequence[str], recordings: Sequence[dict]) -> str:
  """Returns the page.

  Args:
    title: Of the page.
    facts: Sentences that stand below it.
    recordings: `Recording.data` of each, or its title and an error.

  Returns:
    HTML, for UTF-8.
  """
  template = pathlib.Path(__file__).parent / "page_template.html"
  text = json.dumps(list(recordings), separators=(",", ":"), allow_nan=False)
  return _Template(template.read_text(encoding="utf-8")).substitute(
    title=html.escape(title),
    facts="<br>".join(map(html.escape, facts)),
    # "</script>" in a name would end the element that holds the data.
    data=text.replace("<", "\\u003c"),
  )


def _bytes(scores: np.ndarray) -> bytes:
  return np.rint(255 * np.clip(scores, 0, 1)).astype(np.uint8).tobytes()


def _base64(content: bytes) -> str:
  return base64.b64encode(content).decode()


def _png(levels_db: np.ndarray) -> bytes:
  """Draws the spectrogram alone, a pixel a cell, low frequencies below."""
  from matplotlib import image

  high = np.percentile(levels_db, 99.9)
  content = io.BytesIO()
  image.imsave(
    content,
    levels_db.T,
    vmin=high - _DYNAMIC_DB,
    vmax=high,
    cmap="magma",
    origin="lower",
    format="png",
  )
  return content.getvalue()
