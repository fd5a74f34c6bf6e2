# SPDX-License-Identifier: Apache-2.0
"""Where the frames of a short-time Fourier transform are, and their window.

Two alignments of the frames:

  centred  The clip is reflect-padded by half a window on both sides, so frame
           t is centred on sample t * hop, with a periodic Hann window. librosa
           and torchaudio do this: 501 frames for 5 s.
  audax    The clip is reflect-padded by half an FFT on both sides and the
           frames of `window_samples` start there, with a symmetric Hann
           window: 504 frames for 5 s. audax's published checkpoints were
           trained with this.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from tf_audioset.runtime.errors import UserError

ALIGNMENTS = ("centred", "audax")


@dataclasses.dataclass(frozen=True)
class Stft:
  """The lengths of a short-time Fourier transform.

  Attributes:
    window_samples: Length of the Hann window.
    hop_samples: Distance between frames.
    fft_samples: Length that the windowed frame is zero-padded to.
    alignment: One of `ALIGNMENTS`, see the module's docstring.

  Raises:
    UserError: If the alignment is unknown, a length is not positive, or the
      window is longer than the FFT.
  """

  window_samples: int = 400
  hop_samples: int = 160
  fft_samples: int = 1024
  alignment: str = "centred"

  def __post_init__(self):
    if self.alignment not in ALIGNMENTS:
      raise UserError(
        f"alignment {self.alignment!r}: allowed are {ALIGNMENTS}."
      )
    if self.window_samples < 2 or self.hop_samples < 1:
      raise UserError(
        f"window of {self.window_samples} samples every {self.hop_samples}: "
        "allowed are at least 2 and 1."
      )
    if self.window_samples > self.fft_samples:
      raise UserError(
        f"window of {self.window_samples} samples: allowed is at most the "
        f"{self.fft_samples} samples of the FFT."
      )

  @property
  def edge(self) -> int:
    """Returns the number of samples reflected at each end of the clip."""
    is_centred = self.alignment == "centred"
    return (self.window_samples if is_centred else self.fft_samples) // 2

  @property
  def period(self) -> int:
    """Returns the period of the window, which is symmetric about half of it."""
    return self.window_samples - (self.alignment != "centred")

  @property
  def window(self) -> np.ndarray:
    """Returns the Hann window, float64 [window_samples]."""
    sample = np.arange(self.window_samples)
    return 0.5 - 0.5 * np.cos(2 * np.pi * sample / self.period)

  @property
  def num_bins(self) -> int:
    """Returns the number of frequencies from 0 to half the sample rate."""
    return self.fft_samples // 2 + 1

  def num_frames(self, num_samples: int | tf.Tensor) -> int | tf.Tensor:
    """Returns how many frames a clip of `num_samples` has."""
    padded_samples = num_samples + 2 * self.edge
    return 1 + (padded_samples - self.window_samples) // self.hop_samples


def sizes(x: tf.Tensor) -> list[int | tf.Tensor]:
  """Returns the size of each axis, a number where the graph knows it."""
  known = x.shape.as_list()
  return [
    size if size is not None else tf.shape(x)[axis]
    for axis, size in enumerate(known)
  ]


def to_float(waveform: tf.Tensor) -> tf.Tensor:
  """Converts int16 to float32 in [-1, 1); float32 stays as it is."""
  if waveform.dtype == tf.int16:
    return tf.cast(waveform, tf.float32) / 32768.0
  return waveform


def range_with_weight(filters: np.ndarray) -> range:
  """Returns the bins from the first to the last that any filter has.

  There is at least one, also where the filters are all zeros.
  """
  bins = np.flatnonzero(filters.any(axis=1))
  return range(bins[0], bins[-1] + 1) if bins.size else range(1)
