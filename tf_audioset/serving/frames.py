# SPDX-License-Identifier: Apache-2.0
"""A recording of any length to the scores of its frames, in parts.

A model sees a window at a time, as in training. Windows overlap, and of two
neighbours each gives the frames of its half of the overlap, which are farther
from its edge. They begin with a frame, so that the frames of the recording are
evenly spaced.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tf_audioset.data import audio
from tf_audioset.runtime.errors import UserError
from tf_audioset.serving import exported_tagger, prediction


def check(tagger) -> None:
  """Refuses a model without scores of frames.

  Raises:
    UserError: If it has none.
  """
  if tagger.frame_samples is None:
    raise UserError(exported_tagger.NO_FRAMES.format(tagger.directory))


def score_frames(
  tagger: exported_tagger.ExportedTagger,
  file: str,
  *,
  window_seconds: float,
  hop_seconds: float,
) -> Iterator[prediction.Part]:
  """Scores the frames of a recording, in memory that does not grow with it.

  Args:
    tagger: A model that scores frames.
    file: Path.
    window_seconds: Length of a window.
    hop_seconds: From the beginning of a window to that of the next, rounded to
      frames; at most a window.

  Yields:
    The parts, one a window, whose rows are frames.

  Raises:
    audio.AudioError: As `audio.read_audio` does; parts may be out by then.
    UserError: If the model has no scores of frames, or windows are farther
      apart than they are long.
  """
  check(tagger)
  rate_hz, step = tagger.sample_rate_hz, tagger.frame_samples
  if hop_seconds > window_seconds:
    raise UserError(
      f"--hop_seconds={hop_seconds:g} is more than --window_seconds="
      f"{window_seconds:g}: frames in between would have no scores."
    )
  window = max(round(window_seconds * rate_hz), step)
  hop = min(max(round(hop_seconds * rate_hz / step), 1), window // step)
  remarks = []
  begin = done = num_seen = 0  # In frames, frames and samples.
  waveform = np.zeros(0, np.float32)
  peak, unseen = 0.0, []

  def part(scores, last, ending=()):
    """Returns the frames from `done` to `last` of a window's `scores`."""
    nonlocal done
    numbers = np.arange(done, last)
    # A network may leave out a rest at the end: the frame before stands for it.
    rows = np.minimum(numbers - begin, len(scores) - 1)
    ends = np.minimum((numbers + 1) * step, num_seen) / rate_hz
    new = np.concatenate([*unseen, waveform[:0]])
    unseen.clear()
    done = last
    return prediction.Part(
      new, numbers * step / rate_hz, ends, scores[rows], tuple(ending)
    )

  for block in prediction.ahead(
    audio.read_blocks(file, sample_rate_hz=rate_hz, remarks=remarks)
  ):
    peak = max(peak, np.abs(block).max())
    unseen.append(block)
    num_seen += len(block)
    waveform = np.concatenate([waveform, block])
    # Only with the samples of the next window there is one.
    while len(waveform) > window + hop * step:
      scores = tagger.frames(waveform[:window])
      yield part(scores, begin + (hop + window // step) // 2)
      begin += hop
      waveform = waveform[hop * step :]
  if peak < prediction.DIGITAL_SILENCE and not remarks:
    remarks.append(prediction.SILENT)
  num_frames = -(-num_seen // step)
  # The last window is moved back, by whole frames, to be whole.
  if len(waveform) > window:
    scores = tagger.frames(waveform[:window])
    moved = -(-(len(waveform) - window) // step)
    yield part(scores, begin + (moved + window // step) // 2)
    begin, waveform = begin + moved, waveform[moved * step :]
  yield part(tagger.frames(waveform), num_frames, remarks)
