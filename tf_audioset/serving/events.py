# SPDX-License-Identifier: Apache-2.0
"""Sound events: when a class begins and ends, from the scores of windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Less than a sample at any rate: 0.6 + 0.3 is not quite 0.9 in floating point.
_TOLERANCE_SECONDS = 1e-6


class Event(NamedTuple):
  """A stretch of a recording in which a class is heard."""

  begin_seconds: float
  end_seconds: float
  index: int  # Of the class.
  score: float  # The highest of its windows.


class Detector:
  """Finds the events of every class while windows arrive.

  An event begins with the first window whose score is at or above the class's
  on threshold, and goes on for as long as the scores of the windows that
  follow are at or above its off threshold (hysteresis). It lasts from the
  beginning of its first window to the end of its last one. Events of a class
  that overlap, touch or are at most `merge_seconds` apart are one; after that,
  those shorter than `min_seconds` are left out.

  An event is returned once: as soon as a window begins too late to be merged
  with it. Memory does not grow with the number of windows.
  """

  def __init__(
    self,
    on_thresholds: np.ndarray,
    off_thresholds: np.ndarray | None = None,
    *,
    merge_seconds: float = 0.0,
    min_seconds: float = 0.0,
  ):
    """Starts without any window.

    Args:
      on_thresholds: float [num_classes].
      off_thresholds: float [num_classes], none above that of the same class in
        `on_thresholds`; None: the same as these.
      merge_seconds: The longest pause within an event.
      min_seconds: The length of the shortest event.

    Raises:
      ValueError: If an off threshold is above the on threshold.
    """
    self._on = np.asarray(on_thresholds, np.float64)
    self._off = self._on
    if off_thresholds is not None:
      self._off = np.asarray(off_thresholds, np.float64)
    if (self._off > self._on).any():
      raise ValueError("an off threshold is above the on threshold")
    self._merge_seconds = merge_seconds + _TOLERANCE_SECONDS
    self._min_seconds = min_seconds - _TOLERANCE_SECONDS
    num_classes = len(self._on)
    # Whether the last window belonged to an event of the class.
    self._is_active = np.zeros(num_classes, bool)
    # Whether there is an event that windows to come may be a part of.
    self._is_open = np.zeros(num_classes, bool)
    self._begin = np.zeros(num_classes)
    self._end = np.zeros(num_classes)
    self._score = np.zeros(num_classes)

  def add(
    self,
    begin_seconds: Sequence[float],
    end_seconds: Sequence[float],
    scores: np.ndarray,
  ) -> list[Event]:
    """Takes the next windows.

    Args:
      begin_seconds: [num_windows], never less than those before.
      end_seconds: [num_windows].
      scores: float [num_windows, num_classes].

    Returns:
      The events that are over, in the order of their ends.
    """
    found = []
    for begin, end, row in zip(begin_seconds, end_seconds, scores):
      found += self._add_window(float(begin), float(end), np.asarray(row))
    return found

  def finish(self) -> list[Event]:
    """Returns the events that have not been returned; there is no window more.

    They are in the order of their ends.
    """
    return self._close(self._is_open.copy())

  def _add_window(self, begin, end, scores):
    is_over = self._is_open & (begin > self._end + self._merge_seconds)
    found = self._close(is_over) if is_over.any() else []
    level = np.where(self._is_active, self._off, self._on)
    is_active = scores >= level
    begins = is_active & ~self._is_open
    self._begin[begins] = begin
    self._score[begins] = scores[begins]
    self._is_open |= is_active
    self._end[is_active] = end
    self._score[is_active] = np.maximum(self._score, scores)[is_active]
    self._is_active = is_active
    return found

  def _close(self, is_over):
    self._is_open &= ~is_over
    self._is_active &= ~is_over
    found = [
      Event(
        float(self._begin[i]),
        float(self._end[i]),
        int(i),
        float(self._score[i]),
      )
      for i in np.flatnonzero(is_over)
      if self._end[i] - self._begin[i] >= self._min_seconds
    ]
    return sorted(found, key=lambda event: (event.end_seconds, event))
