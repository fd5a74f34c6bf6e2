# SPDX-License-Identifier: Apache-2.0
"""Events of a stream: windows are scored while samples arrive."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import soxr

from tf_audioset.serving import events, exported_tagger, prediction

# So many windows are scored at once when a stream is faster than real time.
_GROUP = 32
_STILL_SECONDS = 60.0


class Windows:
  """Cuts windows out of a waveform that arrives in pieces.

  They are those of the signature `timeline`: the last one is moved back to end
  with the waveform, and a shorter waveform is one window.
  """

  def __init__(self, window: int, hop: int):
    """Starts without a sample; both lengths are in samples."""
    self._window, self._hop = window, hop
    self._next = 0  # Where the next window begins.
    self._offset = 0  # Where what is kept begins.
    self._kept = np.zeros(0, np.float32)
    self._end = 0  # Of the last window.

  @property
  def num_samples(self) -> int:
    """Returns how many samples have arrived."""
    return self._offset + len(self._kept)

  def add(self, waveform: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Takes float32 [n]; returns the begin and samples of new windows."""
    self._kept = np.concatenate([self._kept, waveform])
    found = []
    while self._next + self._window <= self.num_samples:
      begin = self._next - self._offset
      found.append((self._next, self._kept[begin : begin + self._window]))
      self._end = self._next + self._window
      self._next += self._hop
    # The last samples are kept for a window that is moved back.
    unneeded = min(self._next, self.num_samples - self._window) - self._offset
    if unneeded > 0:
      self._kept = self._kept[unneeded:]
      self._offset += unneeded
    return found

  def finish(self) -> list[tuple[int, np.ndarray]]:
    """Returns the window that ends with the waveform, if it is another one."""
    if self._end == self.num_samples:
      return []
    begin = max(self.num_samples - self._window, 0)
    self._end = self.num_samples
    return [(begin, self._kept[begin - self._offset :])]


class Listener:
  """Turns frames of a stream into events.

  Attributes:
    num_windows: That were scored.
    slowest_seconds: The longest time that scoring took, from the arrival of a
      window's last sample.
  """

  def __init__(
    self,
    tagger: exported_tagger.ExportedTagger,
    detector: events.Detector,
    *,
    window_seconds: float,
    hop_seconds: float,
    say: Callable[[str], None] = lambda text: None,
  ):
    """Starts without a sample.

    Args:
      tagger: The model.
      detector: Makes events of scores.
      window_seconds: Length of a window.
      hop_seconds: From the beginning of one to that of the next.
      say: Is told, once for each time, that samples do not change.
    """
    self._tagger, self._detector, self._say = tagger, detector, say
    self._rate_hz = tagger.sample_rate_hz
    self._windows = Windows(
      max(round(window_seconds * self._rate_hz), 1),
      max(round(hop_seconds * self._rate_hz), 1),
    )
    self.num_windows = 0
    self.slowest_seconds = 0.0

  @property
  def audio_seconds(self) -> float:
    """Returns the length of what has arrived."""
    return self._windows.num_samples / self._rate_hz

  def hear(
    self, frames: Iterable[np.ndarray], rate_hz: int
  ) -> Iterator[events.Event]:
    """Yields the events that are over, as soon as that is known.

    Args:
      frames: float32 [n, num_channels], any number of them; channels are
        averaged.
      rate_hz: Of the frames; they are resampled to the model's.
    """
    resampler = None
    if rate_hz != self._rate_hz:
      resampler = soxr.ResampleStream(
        rate_hz, self._rate_hz, num_channels=1, quality="HQ"
      )
    still = _Still(rate_hz, self._say)
    for some in frames:
      waveform = some.mean(axis=1, dtype=np.float32)
      still.add(waveform)
      if resampler:
        waveform = resampler.resample_chunk(waveform)
      yield from self._score(self._windows.add(np.clip(waveform, -1, 1)))
    if resampler:
      waveform = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
      yield from self._score(self._windows.add(np.clip(waveform, -1, 1)))

  def finish(self) -> Iterator[events.Event]:
    """Yields the events that the end of the stream ends."""
    yield from self._score(self._windows.finish())
    yield from self._detector.finish()

  def _score(self, windows):
    for i in range(0, len(windows), _GROUP):
      begins, waveforms = zip(*windows[i : i + _GROUP])
      start = time.perf_counter()
      scores, _ = self._tagger.score(np.stack(waveforms))
      seconds = time.perf_counter() - start
      self.num_windows += len(begins)
      # The first one is slow: TensorFlow prepares the graph.
      if self.num_windows > len(begins):
        self.slowest_seconds = max(self.slowest_seconds, seconds)
      ends = [begin + len(waveforms[0]) for begin in begins]
      yield from self._detector.add(
        np.array(begins) / self._rate_hz,
        np.array(ends) / self._rate_hz,
        scores,
      )


class _Still:
  """Notices samples that do not change: a microphone that is off, say."""

  def __init__(self, rate_hz, say):
    self._rate_hz, self._say = rate_hz, say
    self._value, self._num_samples, self._is_told = None, 0, False

  def add(self, waveform) -> None:
    changes = np.flatnonzero(waveform[1:] != waveform[:-1])
    if waveform[0] != self._value or len(changes):
      if self._is_told:
        clock = prediction.clock(round(self._num_samples / self._rate_hz))
        self._say(f"the samples change again, after {clock}")
      self._is_told = False
      self._num_samples = 0
    self._value = waveform[-1]
    self._num_samples += len(waveform) - (
      changes[-1] + 1 if len(changes) else 0
    )
    if self._num_samples >= _STILL_SECONDS * self._rate_hz:
      if not self._is_told:
        self._say(
          f"the samples have not changed for {_STILL_SECONDS:.0f} s: they are "
          f"all {self._value:g}"
        )
      self._is_told = True
