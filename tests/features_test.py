# SPDX-License-Identifier: Apache-2.0
"""The front end against golden values and against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from tests import reference
from tf_audioset import features


def _worst_errors(actual, expected):
  """Greatest error in log units, by mel power: >= 1e-4, >= 1e-6, below."""
  power = np.exp(expected)
  error = np.abs(actual - expected)
  bands = (
    power >= 1e-4,
    (power >= 1e-6) & (power < 1e-4),
    power < 1e-6,
  )
  return [error[band].max() for band in bands]


@pytest.mark.parametrize(
  ("alignment", "key", "num_mels", "limits"),
  [
    ("centred", "centred_log_mel_5s", 64, (2e-4, 3e-3, 0.02)),
    ("centred", "centred_log_mel128_5s", 128, (2e-4, 3e-3, 0.02)),
    ("audax", "log_mel_5s", 64, (5e-4, 5e-3, 0.03)),
  ],
)
def test_log_mel_equals_the_golden_values(alignment, key, num_mels, limits):
  with np.load(reference.golden("frontend.npz")) as golden:
    waveform = golden["waveform_5s"].astype(np.float32) / 32768
    expected = golden[key]
  layer = features.LogMel(alignment=alignment, num_mels=num_mels)
  actual = layer(waveform).numpy()
  assert actual.dtype == np.float32
  assert actual.shape == expected.shape
  for worst, limit in zip(_worst_errors(actual, expected), limits):
    assert worst <= limit


def test_filterbank_equals_the_golden_values():
  with np.load(reference.golden("frontend.npz")) as golden:
    expected = golden["mel_filterbank"]
  actual = features.mel_filterbank(
    num_mels=64,
    fft_samples=1024,
    sample_rate_hz=16000,
    lower_hz=60.0,
    upper_hz=7800.0,
  )
  np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_power_spectrogram_equals_numpy():
  waveform = np.random.default_rng(0).normal(size=(2, 3200)).astype(np.float32)
  actual = features.power_spectrogram(waveform).numpy()
  window = np.hanning(401)[:-1]
  padded = np.pad(waveform.astype(np.float64), ((0, 0), (200, 200)), "reflect")
  for frame in range(21):
    piece = padded[:, frame * 160 : frame * 160 + 400] * window
    expected = np.abs(np.fft.rfft(piece, 1024)) ** 2
    np.testing.assert_allclose(actual[:, frame], expected, rtol=1e-3, atol=1e-3)
  assert actual.shape == (2, 21, 513)


def test_split_matmul_survives_operands_rounded_to_bfloat16():
  rng = np.random.default_rng(0)
  a = rng.lognormal(sigma=5.0, size=(50, 513)).astype(np.float32)
  b = rng.uniform(size=(513, 64))
  exact = a.astype(np.float64) @ b

  def relative_error(product):
    return np.max(np.abs(product / exact - 1))

  def bfloat16_matmul(x, y):
    # What a TPU does with a float32 product.
    x = tf.cast(tf.cast(x, tf.bfloat16), tf.float32)
    y = tf.cast(tf.cast(y, tf.bfloat16), tf.float32)
    return _matmul(x, y)

  _matmul = tf.matmul
  try:
    tf.matmul = bfloat16_matmul
    plain = features.float32_matmul(tf.constant(a), b, split=False).numpy()
    split = features.float32_matmul(tf.constant(a), b, split=True).numpy()
  finally:
    tf.matmul = _matmul
  assert relative_error(plain) > 1e-3  # Or the emulation emulates nothing.
  assert relative_error(split) < 1e-4


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_silence_and_dc_are_finite(level):
  out = features.LogMel()(tf.fill([1, 16000], level)).numpy()
  assert np.isfinite(out).all()
  assert out.shape == (1, 101, 64)


def test_band_edge_above_nyquist_is_refused():
  with pytest.raises(ValueError, match="Nyquist|half the sample rate"):
    features.LogMel(sample_rate_hz=8000)


def test_unknown_alignment_is_refused():
  with pytest.raises(ValueError, match="'left'.*centred"):
    features.LogMel(alignment="left")(tf.zeros([1, 16000]))
