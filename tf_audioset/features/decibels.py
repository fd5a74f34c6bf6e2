# SPDX-License-Identifier: Apache-2.0
"""Waveform to a log-mel in decibels, normalised band by band.

CED's front end, and in its parts that of many PyTorch taggers: torchaudio's
`MelSpectrogram` and `AmplitudeToDB(top_db=...)`, then a batch norm over bands.
"""

from __future__ import annotations

import gin
import numpy as np
import tensorflow as tf

from tf_audioset.features import engines, mel, normalisation
from tf_audioset.features.stft import Stft
from tf_audioset.runtime.errors import UserError


@gin.register
class DecibelMel(tf.keras.layers.Layer):
  """A mel spectrogram in decibels, and a batch norm over its bands.

  Reference: Dinkel et al., "CED: Consistent Ensemble Distillation for Audio
  Tagging", ICASSP 2024, section 3.1.
  """

  def __init__(
    self,
    sample_rate_hz: int = 16000,
    num_mels: int = 64,
    window_samples: int = 512,
    hop_samples: int = 160,
    fft_samples: int = 512,
    lower_hz: float = 0.0,
    upper_hz: float = 8000.0,
    min_power: float = 1e-10,
    top_db: float = 120.0,
    norm_momentum: float = 0.99,
    norm_epsilon: float = 1e-5,
    engine: str = "auto",
  ):
    """Builds the filters and the batch norm.

    Args:
      sample_rate_hz: Samples per second of the waveform.
      num_mels: Number of mel bands, on the HTK scale, without normalisation of
        their areas.
      window_samples: Length of the Hann window; frames are centred.
      hop_samples: Distance between frames.
      fft_samples: Length of the Fourier transform.
      lower_hz: Lower edge of the lowest band.
      upper_hz: Upper edge of the highest band.
      min_power: Mel powers below this are raised to it before the logarithm.
      top_db: Decibels more than this below the clip's maximum are raised to
        that.
      norm_momentum: Share of the batch norm's statistics that a training step
        keeps.
      norm_epsilon: Added to the batch norm's variance.
      engine: One of `engines.ENGINES`.

    Raises:
      UserError: If a value is not among those allowed.
    """
    # float32 whatever the policy: decibels in bfloat16 are rounded to 0.5 dB.
    super().__init__(dtype=tf.float32)
    for name, value in (("min_power", min_power), ("top_db", top_db)):
      if not value > 0:
        raise UserError(f"DecibelMel.{name} is {value}; allowed is above 0.")
    self.sample_rate_hz = sample_rate_hz
    self._stft = Stft(window_samples, hop_samples, fft_samples)
    self.hop_samples = hop_samples
    self._engine = engines.check_name(engine)
    self._min_power = min_power
    self._top_db = top_db
    self._filters = mel.mel_filterbank(
      num_mels=num_mels,
      fft_samples=fft_samples,
      sample_rate_hz=sample_rate_hz,
      lower_hz=lower_hz,
      upper_hz=upper_hz,
    )
    self.norm = normalisation.BandNorm(norm_momentum, norm_epsilon)

  def num_samples(self, num_frames: int) -> int:
    """Returns the length of the shortest waveform of so many frames."""
    return (num_frames - 1) * self._stft.hop_samples

  def call(
    self,
    waveform: tf.Tensor,
    engine: str | None = None,
    training: bool = False,
  ) -> tf.Tensor:
    """Computes the normalised log-mel.

    Args:
      waveform: float32 [batch, num_samples], mono, full scale is +-1; longer
        than half a window.
      engine: One of `engines.ENGINES` in place of the layer's own.
      training: Whether the batch norm uses, and records, the batch's
        statistics.

    Returns:
      float32 [batch, num_frames, num_mels], num_frames = 1 + num_samples //
      hop_samples if window and hop are even.
    """
    return self.norm(self.decibels(waveform, engine), training=training)

  def decibels(
    self, waveform: tf.Tensor, engine: str | None = None
  ) -> tf.Tensor:
    """Computes the log-mel before the batch norm.

    Args:
      waveform: As for `call`.
      engine: As for `call`.

    Returns:
      float32 [batch, num_frames, num_mels], in decibels of the mel power.
    """
    power = self._powers(
      tf.convert_to_tensor(waveform), engines.choose(engine or self._engine)
    )
    decibels = tf.math.log(tf.maximum(power, self._min_power)) * (
      10 / np.log(10)
    )
    # Of each clip on its own: its neighbours in a batch must not matter.
    loudest = tf.reduce_max(decibels, axis=[1, 2], keepdims=True)
    return tf.maximum(decibels, loudest - self._top_db)

  # Converting it would take half a second, for nothing.
  @tf.autograph.experimental.do_not_convert
  def _powers(self, waveform, engine):
    return engine(waveform, self._stft, self._filters)
