# SPDX-License-Identifier: Apache-2.0
"""Events against their definition, computed slowly, class by class."""

import numpy as np
import pytest

from tf_audioset.serving import events


def _defined(begins, ends, scores, on, off, merge_seconds, min_seconds):
  """Finds the events of one class, in units that are whole numbers."""
  merged = []  # [begin, end, score]
  was_active = False
  for begin, end, score in zip(begins, ends, scores):
    if merged and begin - merged[-1][1] > merge_seconds:
      was_active = False
    limit = off if was_active else on
    if score < limit:
      was_active = False
      continue
    was_active = True
    if merged and begin - merged[-1][1] <= merge_seconds:
      merged[-1] = [merged[-1][0], end, max(merged[-1][2], score)]
    else:
      merged.append([begin, end, score])
  return [tuple(e) for e in merged if e[1] - e[0] >= min_seconds]


def _windows(rng, num_windows, window, hop):
  """Windows as a recording has them: the last one ends with it."""
  begins = np.arange(num_windows) * hop
  begins[-1] -= rng.integers(0, hop)
  return begins, begins + window


@pytest.mark.parametrize("seed", range(40))
def test_events_are_as_defined_however_the_windows_are_split(seed):
  rng = np.random.default_rng(seed)
  num_windows, num_classes = rng.integers(1, 60), 5
  window, hop = rng.integers(1, 6), rng.integers(1, 9)
  merge, least = rng.choice([0, 1, 3, 10]), rng.choice([0, 0, 4, 9])
  begins, ends = _windows(rng, num_windows, window, hop)
  # Of few values, so that scores equal thresholds.
  scores = rng.integers(0, 8, [num_windows, num_classes]) / 8
  off = rng.integers(0, 8, num_classes) / 8
  on = off + rng.integers(0, 4, num_classes) / 8

  expected = set()
  for i in range(num_classes):
    for begin, end, score in _defined(
      begins, ends, scores[:, i], on[i], off[i], merge, least
    ):
      expected.add((begin / 10, end / 10, i, score))
  detector = events.Detector(
    on, off, merge_seconds=merge / 10, min_seconds=least / 10
  )
  got = []
  cuts = np.sort(rng.integers(0, num_windows + 1, 3))
  for chunk in np.split(np.arange(num_windows), cuts):
    got += detector.add(begins[chunk] / 10, ends[chunk] / 10, scores[chunk])
  got += detector.finish()
  assert len(got) == len(set(got)) == len(expected)
  assert {tuple(event) for event in got} == expected


def _add(detector, *windows):
  """Adds windows of one second, each begin and score."""
  begins = np.array([begin for begin, _ in windows], float)
  scores = np.array([[score] for _, score in windows])
  return [tuple(e) for e in detector.add(begins, begins + 1, scores)]


def test_an_event_is_told_once_when_nothing_can_extend_it():
  detector = events.Detector(np.array([0.5]), np.array([0.25]))
  assert not _add(detector, (0, 0.3), (1, 0.75), (2, 0.25), (3, 0.125))
  assert _add(detector, (4, 0.0)) == [(1.0, 3.0, 0, 0.75)]
  assert not _add(detector, (5, 0.25), (6, 0.5))
  assert detector.finish() == [(6.0, 7.0, 0, 0.5)]
  assert not detector.finish()


def test_after_a_pause_it_takes_the_on_threshold_to_go_on():
  detector = events.Detector(np.array([0.5]), np.array([0.25]), merge_seconds=2)
  windows = (0, 0.5), (1, 0.0), (2, 0.25), (3, 0.5), (4, 0.25), (7, 0.5)
  assert _add(detector, *windows, (11, 0)) == [(0.0, 8.0, 0, 0.5)]


def test_a_score_below_every_threshold_is_no_event_nor_is_nan():
  detector = events.Detector(np.array([0.0, 2.0]))
  detector.add([0.0], [1.0], np.array([[np.nan, 1.0]]))
  assert not detector.finish()


def test_an_off_threshold_above_the_on_threshold_is_refused():
  with pytest.raises(ValueError, match="above the on threshold"):
    events.Detector(np.array([0.5]), np.array([0.6]))
