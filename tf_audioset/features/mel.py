# SPDX-License-Identifier: Apache-2.0
"""The mel scales, and the filters that sum a spectrum's bins on one of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tf_audioset.runtime.errors import UserError

MEL_SCALES = ("htk", "slaney")
# Mels for a factor of e: 27 for the factor 6.4 that takes 1000 to 6400 Hz.
_SLANEY_SLOPE = 27 / np.log(6.4)


def hz_to_mel(frequency_hz: npt.ArrayLike, scale: str = "htk") -> np.ndarray:
  """Converts hertz to mel, float64.

  Args:
    frequency_hz: Any shape.
    scale: "htk", 2595 log10(1 + f / 700) (O'Shaughnessy 1987); or "slaney",
      linear up to 1000 Hz, 15 mel, and logarithmic above (Slaney, "Auditory
      Toolbox", 1998).

  Raises:
    UserError: If the scale is unknown.
  """
  frequency_hz = np.asarray(frequency_hz, np.float64)
  if scale == "htk":
    return 2595.0 * np.log10(1.0 + frequency_hz / 700.0)
  if scale != "slaney":
    raise UserError(f"mel_scale {scale!r}: allowed are {MEL_SCALES}.")
  octaves = np.log(np.maximum(frequency_hz, 1000.0) / 1000.0)
  return np.minimum(frequency_hz, 1000.0) * 3 / 200 + octaves * _SLANEY_SLOPE


def mel_to_hz(mel: npt.ArrayLike, scale: str = "htk") -> np.ndarray:
  """Converts mel to hertz, the inverse of `hz_to_mel`."""
  mel = np.asarray(mel, np.float64)
  if scale == "htk":
    return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
  above = np.maximum(mel - 15.0, 0.0)
  return np.minimum(mel, 15.0) * 200 / 3 * np.exp(above / _SLANEY_SLOPE)


def mel_filterbank(
  *,
  num_mels: int,
  fft_samples: int,
  sample_rate_hz: int,
  lower_hz: float,
  upper_hz: float,
  mel_scale: str = "htk",
  area_normalised: bool = False,
) -> np.ndarray:
  """Returns triangular filters, evenly spaced on a mel scale.

  Args:
    num_mels: Number of filters.
    fft_samples: Length of the Fourier transform.
    sample_rate_hz: Samples per second.
    lower_hz: Lower edge of the lowest filter.
    upper_hz: Upper edge of the highest filter.
    mel_scale: One of `MEL_SCALES`, see `hz_to_mel`.
    area_normalised: Whether each triangle has area 1 (over Hz), as Slaney's
      have, and not peak 1.

  Returns:
    float64 [fft_samples // 2 + 1, num_mels].

  Raises:
    UserError: If the band edges are not 0 <= lower < upper <= Nyquist, there
      is no filter, or the scale is unknown.
  """
  if num_mels < 1:
    raise UserError(f"num_mels is {num_mels}; at least 1 is needed.")
  nyquist_hz = sample_rate_hz / 2
  if not 0 <= lower_hz < upper_hz <= nyquist_hz:
    raise UserError(
      f"mel band edges {lower_hz} to {upper_hz} Hz: allowed is 0 <= lower < "
      f"upper <= {nyquist_hz} Hz, half the sample rate."
    )
  lowest, highest = hz_to_mel([lower_hz, upper_hz], mel_scale)
  edges_hz = mel_to_hz(np.linspace(lowest, highest, num_mels + 2), mel_scale)
  left, centre, right = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
  num_bins = fft_samples // 2 + 1
  # Of an odd length, the last bin is not at half the sample rate.
  highest_hz = nyquist_hz * 2 * (num_bins - 1) / fft_samples
  bins_hz = np.linspace(0.0, highest_hz, num_bins)[:, np.newaxis]
  rising = (bins_hz - left) / (centre - left)
  falling = (right - bins_hz) / (right - centre)
  filters = np.maximum(0.0, np.minimum(rising, falling))
  return filters * 2 / (right - left) if area_normalised else filters
