# SPDX-License-Identifier: Apache-2.0
"""A trained tagger in Python: load it, give it files or waveforms."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import soxr
import tensorflow as tf

from tf_audioset.data import audio
from tf_audioset.runtime.errors import UserError
from tf_audioset.serving import prediction, tflite_file


class Tag(NamedTuple):
  """A class with its score."""

  name: str
  mid: str
  score: float


class Window(NamedTuple):
  """A stretch of a recording with the scores of its classes."""

  begin_seconds: float
  end_seconds: float
  scores: np.ndarray  # float32 [num_classes]


class LoadedTagger:
  """An exported tagger.

  Attributes:
    classes: Names of the classes, in the order of the scores.
    mids: Their ids, in the same order.
    sample_rate_hz: Samples per second that the model computes with. Files and
      waveforms of other rates are resampled.
  """

  def __init__(self, directory: str):
    """Loads a SavedModel or a .tflite file; see `load`."""
    self._tagger = tflite_file.load(directory)
    self.classes = list(self._tagger.classes.names)
    self.mids = list(self._tagger.classes.mids)
    self.sample_rate_hz = self._tagger.sample_rate_hz

  def tag(self, file: str | os.PathLike, *, top_k: int = 5) -> list[Tag]:
    """Returns the classes of a file with the highest scores, best first.

    Args:
      file: Audio of any format that PyAV or libsndfile reads, of any rate and
        number of channels, scored whole.
      top_k: The number of classes.

    Raises:
      audio.AudioError: If the file holds no audio that can be decoded.
    """
    scores = self.scores(self.read(file), self.sample_rate_hz)
    order = np.argsort(-scores, kind="stable")[:top_k]
    return [Tag(self.classes[i], self.mids[i], float(scores[i])) for i in order]

  def scores(
    self, waveform: np.ndarray, sample_rate_hz: float | None = None
  ) -> np.ndarray:
    """Scores a waveform whole.

    Args:
      waveform: Floats [num_samples] or [num_samples, num_channels], full scale
        is +-1; or int16. Channels are averaged.
      sample_rate_hz: Samples per second; None: those of the model.

    Returns:
      float32 [num_classes].

    Raises:
      UserError: If the waveform has no samples or another number of axes, or
        is of another type.
    """
    return self._score(waveform, sample_rate_hz)[0]

  def embed(
    self, waveform: np.ndarray, sample_rate_hz: float | None = None
  ) -> np.ndarray:
    """Computes the embedding of a waveform.

    Args:
      waveform: As for `scores`.
      sample_rate_hz: As for `scores`.

    Returns:
      float32 [embedding_size].

    Raises:
      UserError: As `scores` does.
    """
    return self._score(waveform, sample_rate_hz)[1]

  def windows(
    self,
    file: str | os.PathLike,
    *,
    window_seconds: float | None = None,
    hop_seconds: float | None = None,
  ) -> Iterator[Window]:
    """Scores a recording of any length window by window.

    Args:
      file: As for `tag`. It is read in parts, so that hours take no more memory
        than minutes.
      window_seconds: Length of a window; None: that of a training crop.
      hop_seconds: Time from the start of a window to the next; None: half a
        window.

    Yields:
      The windows in their order. The last one ends with the recording.

    Raises:
      audio.AudioError: If the file holds no audio that can be decoded.
    """
    if window_seconds is None:
      window_seconds = self._tagger.window_samples / self.sample_rate_hz
    for part in prediction.score_windows(
      self._tagger,
      os.fspath(file),
      window_seconds=window_seconds,
      hop_seconds=hop_seconds or window_seconds / 2,
    ):
      rows = zip(part.begin_seconds, part.end_seconds, part.scores)
      yield from (Window(float(b), float(e), scores) for b, e, scores in rows)

  def read(self, file: str | os.PathLike) -> np.ndarray:
    """Decodes a file to what the model is given.

    Returns:
      float32 [num_samples], mono, at `sample_rate_hz`.

    Raises:
      audio.AudioError: If the file holds no audio that can be decoded.
    """
    return audio.read_audio(file, sample_rate_hz=self.sample_rate_hz)

  def _score(self, waveform, rate_hz):
    waveform = self._prepared(np.asarray(waveform), rate_hz)
    scores, embedding = self._tagger.score(waveform[np.newaxis])
    return scores[0], embedding[0]

  def _prepared(self, waveform, rate_hz):
    """Returns float32 [num_samples] at the model's rate."""
    if waveform.dtype == np.int16:
      waveform = waveform / np.float32(32768)
    if waveform.dtype.kind != "f":
      raise UserError(
        f"the waveform is {waveform.dtype}; it must be floating point with "
        "full scale at +-1, or int16."
      )
    if waveform.ndim == 2:
      waveform = waveform.mean(axis=1)
    if waveform.ndim != 1 or not len(waveform):
      raise UserError(
        f"the waveform has the shape {list(waveform.shape)}; it must be "
        "[num_samples] or [num_samples, num_channels], with a sample at least."
      )
    waveform = waveform.astype(np.float32)
    if rate_hz not in (None, self.sample_rate_hz):
      waveform = soxr.resample(
        waveform, rate_hz, self.sample_rate_hz, quality="HQ"
      )
    return np.clip(waveform, -1.0, 1.0)


def load(path: str | os.PathLike) -> LoadedTagger:
  """Loads a trained tagger.

  Args:
    path: An exported SavedModel, a folder of numbered versions of it, of which
      the newest is taken, a .tflite file of tools/export.py, or the work
      directory of a training run. May be in a bucket.

  Returns:
    The tagger.

  Raises:
    UserError: If there is no exported tagger.
  """
  path = os.fspath(path)
  exported = os.path.join(path, "saved_model")
  return LoadedTagger(exported if tf.io.gfile.isdir(exported) else path)
