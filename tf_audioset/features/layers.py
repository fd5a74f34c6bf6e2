# SPDX-License-Identifier: Apache-2.0
"""The front ends: layers from waveforms to features."""

from __future__ import annotations

import gin
import numpy as np
import tensorflow as tf

from tf_audioset.features import engines, mel
from tf_audioset.features.stft import Stft


@gin.register
class LogSpectrogram(tf.keras.layers.Layer):
  """Computes log(clip(power spectrogram)), for models without a mel scale."""

  # A `Tagger` then passes on samples of 16 bits as they are. They need fewer
  # products on a TPU than floats do.
  takes_int16 = True

  def __init__(
    self,
    window_samples: int = 400,
    hop_samples: int = 160,
    fft_samples: int = 1024,
    min_power: float = 1e-8,
    max_power: float = 1e8,
    alignment: str = "centred",
    engine: str = "auto",
  ):
    """Makes the layer; `LogMel` has the same arguments and more."""
    # float32 whatever the policy: a log of bfloat16 powers has lost the signal.
    super().__init__(dtype=tf.float32)
    self._stft = Stft(window_samples, hop_samples, fft_samples, alignment)
    self.hop_samples = hop_samples
    self._engine = engines.check_name(engine)
    self._limits = (min_power, max_power)
    self._filters = None

  def call(self, waveform: tf.Tensor, engine: str | None = None) -> tf.Tensor:
    """Computes the features.

    Args:
      waveform: float32 [batch, num_samples], mono, full scale is +-1; or int16.
        It is longer than half a window (half an FFT for "audax"), which the
        reflection needs.
      engine: One of `engines.ENGINES` in place of the layer's own.

    Returns:
      float32 [batch, num_frames, fft_samples // 2 + 1]; of `LogMel`
      [batch, num_frames, num_mels]; for num_frames see `Stft`.

    Raises:
      UserError: If the engine is unknown or cannot compute this FFT.
    """
    bands = self._powers(waveform, engines.choose(engine or self._engine))
    return tf.math.log(tf.clip_by_value(bands, *self._limits))

  # Converting it would take half a second, for nothing.
  @tf.autograph.experimental.do_not_convert
  def _powers(self, waveform, engine):
    return engine(waveform, self._stft, self._filters)


@gin.register
class LogMel(LogSpectrogram):
  """Computes log(clip(mel(power spectrogram))), every model's front end here.

  Reference: Kong et al., "PANNs", 2020, section III.A, with the window, hop,
  band edges and limits of audax's AudioSet recipe.
  """

  def __init__(
    self,
    sample_rate_hz: int = 16000,
    num_mels: int = 64,
    window_samples: int = 400,
    hop_samples: int = 160,
    fft_samples: int = 1024,
    lower_hz: float = 60.0,
    upper_hz: float = 7800.0,
    mel_scale: str = "htk",
    area_normalised: bool = False,
    min_power: float = 1e-8,
    max_power: float = 1e8,
    alignment: str = "centred",
    engine: str = "auto",
  ):
    """Makes the layer; see `Stft` and `mel_filterbank` for the details.

    Args:
      sample_rate_hz: Samples per second of the waveform.
      num_mels: Number of mel bands.
      window_samples: Length of the Hann window (25 ms).
      hop_samples: Distance between frames (10 ms).
      fft_samples: Length of the Fourier transform.
      lower_hz: Lower edge of the lowest band.
      upper_hz: Upper edge of the highest band.
      mel_scale: One of `mel.MEL_SCALES`.
      area_normalised: Whether a band's filter has area 1, and not peak 1.
      min_power: Mel powers below are raised to this before the logarithm.
      max_power: Mel powers above are lowered to this.
      alignment: One of `stft.ALIGNMENTS`.
      engine: One of `engines.ENGINES`.

    Raises:
      UserError: If a value is not among those allowed.
    """
    super().__init__(
      window_samples,
      hop_samples,
      fft_samples,
      min_power,
      max_power,
      alignment,
      engine,
    )
    self.sample_rate_hz = sample_rate_hz
    self._filters: np.ndarray = mel.mel_filterbank(
      num_mels=num_mels,
      fft_samples=fft_samples,
      sample_rate_hz=sample_rate_hz,
      lower_hz=lower_hz,
      upper_hz=upper_hz,
      mel_scale=mel_scale,
      area_normalised=area_normalised,
    )
