# SPDX-License-Identifier: Apache-2.0
"""Waveform to log-mel spectrogram, on the device, never below float32.

Two alignments of the frames:

  centred  The clip is reflect-padded by half a window on both sides, so frame
           t is centred on sample t * hop, with a periodic Hann window. librosa
           and torchaudio do this: 501 frames for 5 s.
  audax    The clip is reflect-padded by half an FFT on both sides and the
           frames of `window_samples` start there, with a symmetric Hann
           window: 504 frames for 5 s. audax's published checkpoints were
           trained with this.

Two engines compute the Fourier transform:

  fft     In float64, the rest in float32: within 2e-6 of a log unit of float64
          throughout, where a float32 FFT leaves 0.03 in faint narrow bands.
  matmul  A product with the windowed DFT matrix, in float32. XLA compiles no
          float64 FFT, and this is work for a TPU's matrix unit.

"auto" takes matmul on a TPU and fft elsewhere.
"""

from __future__ import annotations

import gin
import numpy as np
import tensorflow as tf

ALIGNMENTS = ("centred", "audax")
ENGINES = ("auto", "fft", "matmul")


def hz_to_mel(frequency_hz):
  """HTK's mel scale: 2595 log10(1 + f / 700) (O'Shaughnessy 1987)."""
  return 2595.0 * np.log10(1.0 + np.asarray(frequency_hz) / 700.0)


def mel_filterbank(
  *,
  num_mels: int,
  fft_samples: int,
  sample_rate_hz: int,
  lower_hz: float,
  upper_hz: float,
) -> np.ndarray:
  """Triangular filters, evenly spaced and of peak 1 on HTK's mel scale.

  Returns:
    float64 [fft_samples // 2 + 1, num_mels].

  Raises:
    ValueError: If the band edges are not 0 <= lower < upper <= Nyquist.
  """
  nyquist_hz = sample_rate_hz / 2
  if not 0 <= lower_hz < upper_hz <= nyquist_hz:
    raise ValueError(
      f"mel band edges {lower_hz} to {upper_hz} Hz: allowed is 0 <= lower < "
      f"upper <= {nyquist_hz} Hz, half the sample rate."
    )
  mel_points = np.linspace(
    hz_to_mel(lower_hz), hz_to_mel(upper_hz), num_mels + 2
  )
  edges_hz = 700.0 * (10.0 ** (mel_points / 2595.0) - 1.0)
  left, centre, right = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
  bins_hz = np.linspace(0.0, nyquist_hz, fft_samples // 2 + 1)[:, np.newaxis]
  rising = (bins_hz - left) / (centre - left)
  falling = (right - bins_hz) / (right - centre)
  return np.maximum(0.0, np.minimum(rising, falling))


def power_spectrogram(
  waveform: tf.Tensor,
  *,
  window_samples: int = 400,
  hop_samples: int = 160,
  fft_samples: int = 1024,
  alignment: str = "centred",
  engine: str = "auto",
) -> tf.Tensor:
  """Squared magnitude of the short-time Fourier transform.

  Args:
    waveform: float32 [batch, num_samples], longer than half a window (half an
      FFT for "audax"), which the reflection needs.
    window_samples: Length of the Hann window.
    hop_samples: Distance between frames.
    fft_samples: Length that the windowed frame is zero-padded to.
    alignment: One of `ALIGNMENTS`, see the module's docstring.
    engine: One of `ENGINES`, see the module's docstring.

  Returns:
    float32 [batch, num_frames, fft_samples // 2 + 1], num_frames =
    1 + (num_samples + 2 * edge - window_samples) // hop_samples, where edge is
    window_samples // 2 (centred) or fft_samples // 2 (audax).

  Raises:
    ValueError: If `alignment` or `engine` is unknown, or the window is longer
      than the FFT.
  """
  if alignment not in ALIGNMENTS:
    raise ValueError(f"alignment {alignment!r}: allowed are {ALIGNMENTS}.")
  if engine not in ENGINES:
    raise ValueError(f"engine {engine!r}: allowed are {ENGINES}.")
  if window_samples > fft_samples:
    raise ValueError(
      f"window of {window_samples} samples: allowed is at most the "
      f"{fft_samples} samples of the FFT."
    )
  if engine == "auto":
    engine = "matmul" if _on_tpu() else "fft"
  centred = alignment == "centred"
  edge = (window_samples if centred else fft_samples) // 2
  sample = np.arange(window_samples)
  window = 0.5 - 0.5 * np.cos(
    2 * np.pi * sample / (window_samples if centred else window_samples - 1)
  )
  padded = tf.pad(waveform, [[0, 0], [edge, edge]], mode="REFLECT")
  frames = tf.signal.frame(padded, window_samples, hop_samples)
  if engine == "fft":
    spectrum = tf.signal.rfft(
      tf.cast(frames, tf.float64) * window, [fft_samples]
    )
    real, imaginary = tf.math.real(spectrum), tf.math.imag(spectrum)
  else:
    phase = np.outer(sample, np.arange(fft_samples // 2 + 1))
    dft = np.exp(-2j * np.pi / fft_samples * (phase % fft_samples))
    dft = window[:, np.newaxis] * dft
    matrix = np.concatenate([dft.real, dft.imag], axis=1)
    product = float32_matmul(frames, matrix, split=_on_tpu())
    real, imaginary = tf.split(product, 2, axis=-1)
  return tf.cast(tf.square(real) + tf.square(imaginary), tf.float32)


def float32_matmul(a: tf.Tensor, b: np.ndarray, *, split: bool) -> tf.Tensor:
  """`a @ b` to float32 accuracy, also where the hardware rounds to bfloat16.

  A TPU rounds the operands of a float32 product to bfloat16 (8 bits). With
  `split`, each operand is the sum of three bfloat16-exact parts, which hold
  its 24 bits; of the nine products the six that float32 can see are summed.

  Args:
    a: float32 [..., n].
    b: float [n, m], a constant.
    split: Whether to split.

  Returns:
    float32 [..., m].
  """
  b = tf.constant(b, tf.float32)
  if not split:
    return tf.matmul(a, b)
  a_high, a_middle, a_low = _bfloat16_parts(a)
  b_high, b_middle, b_low = _bfloat16_parts(b)
  # Smallest first, so that the small ones are not lost.
  return (
    (tf.matmul(a_low, b_high) + tf.matmul(a_high, b_low))
    + tf.matmul(a_middle, b_middle)
    + (tf.matmul(a_middle, b_high) + tf.matmul(a_high, b_middle))
    + tf.matmul(a_high, b_high)
  )


def _bfloat16_parts(x: tf.Tensor) -> list[tf.Tensor]:
  # The bits are masked, not cast to bfloat16 and back: XLA may drop such a
  # pair of casts as "excess precision".
  parts = []
  for _ in range(3):
    bits = tf.bitwise.bitwise_and(
      tf.bitcast(x, tf.int32), tf.constant(-65536, tf.int32)
    )
    parts.append(tf.bitcast(bits, tf.float32))
    x -= parts[-1]
  return parts


def _on_tpu() -> bool:
  return bool(tf.config.list_logical_devices("TPU"))


@gin.register
class LogMel(tf.keras.layers.Layer):
  """log(clip(mel(power spectrogram))): the front end of every model here.

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
    min_power: float = 1e-8,
    max_power: float = 1e8,
    alignment: str = "centred",
    engine: str = "auto",
  ):
    """Args are those of `power_spectrogram` and `mel_filterbank`.

    Args:
      sample_rate_hz: Samples per second of the waveform.
      num_mels: Number of mel bands.
      window_samples: Length of the Hann window (25 ms).
      hop_samples: Distance between frames (10 ms).
      fft_samples: Length of the Fourier transform.
      lower_hz: Lower edge of the lowest band.
      upper_hz: Upper edge of the highest band.
      min_power: Mel powers below are raised to this before the logarithm.
      max_power: Mel powers above are lowered to this.
      alignment: One of `ALIGNMENTS`.
      engine: One of `ENGINES`.
    """
    # float32 whatever the policy: a log of bfloat16 powers has lost the signal.
    super().__init__(dtype=tf.float32, name="log_mel")
    self.sample_rate_hz = sample_rate_hz
    self.num_mels = num_mels
    self._stft = dict(
      window_samples=window_samples,
      hop_samples=hop_samples,
      fft_samples=fft_samples,
      alignment=alignment,
      engine=engine,
    )
    self._limits = (min_power, max_power)
    self._filterbank = mel_filterbank(
      num_mels=num_mels,
      fft_samples=fft_samples,
      sample_rate_hz=sample_rate_hz,
      lower_hz=lower_hz,
      upper_hz=upper_hz,
    )

  def call(self, waveform: tf.Tensor) -> tf.Tensor:
    """Computes the log-mel spectrogram.

    Args:
      waveform: float32 [batch, num_samples], mono, full scale is +-1.

    Returns:
      float32 [batch, num_frames, num_mels].
    """
    power = power_spectrogram(waveform, **dict(self._stft))
    mel = float32_matmul(power, self._filterbank, split=_on_tpu())
    return tf.math.log(tf.clip_by_value(mel, *self._limits))
