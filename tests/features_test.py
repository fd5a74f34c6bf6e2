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


_GOLDEN = pytest.mark.parametrize(
  ("alignment", "key", "num_mels"),
  [
    ("centred", "centred_log_mel_5s", 64),
    ("centred", "centred_log_mel128_5s", 128),
    ("audax", "log_mel_5s", 64),
  ],
)
_LIMITS = {"centred": (2e-4, 3e-3, 0.02), "audax": (5e-4, 5e-3, 0.03)}


@_GOLDEN
@pytest.mark.parametrize("engine", ["fft", "matmul"])
def test_log_mel_equals_the_golden_values(alignment, key, num_mels, engine):
  _assert_golden(alignment, key, num_mels, engine, _LIMITS[alignment])


@pytest.mark.parametrize(
  ("key", "num_mels"),
  [("centred_log_mel_5s", 64), ("centred_log_mel128_5s", 128)],
)
def test_fft_engine_is_as_exact_as_the_float32_it_returns(key, num_mels):
  _assert_golden("centred", key, num_mels, "fft", (2e-6, 2e-6, 4e-6))


@_GOLDEN
def test_matmul_engine_is_golden_where_the_hardware_rounds_to_bfloat16(
  monkeypatch, alignment, key, num_mels
):
  monkeypatch.setattr(features, "_on_tpu", lambda: True)
  monkeypatch.setattr(tf, "matmul", _bfloat16_matmul)
  _assert_golden(alignment, key, num_mels, "auto", _LIMITS[alignment])


def _assert_golden(alignment, key, num_mels, engine, limits):
  with np.load(reference.golden("frontend.npz")) as golden:
    waveform = golden["waveform_5s"].astype(np.float32) / 32768
    expected = golden[key]
  layer = features.LogMel(alignment=alignment, num_mels=num_mels, engine=engine)
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


@pytest.mark.parametrize(
  ("engine", "compiled"), [("fft", False), ("matmul", False), ("matmul", True)]
)
def test_power_spectrogram_equals_numpy(engine, compiled):
  waveform = np.random.default_rng(0).normal(size=(2, 3200)).astype(np.float32)
  function = tf.function(features.power_spectrogram, jit_compile=compiled)
  actual = function(waveform, engine=engine).numpy()
  window = np.hanning(401)[:-1]
  padded = np.pad(waveform.astype(np.float64), ((0, 0), (200, 200)), "reflect")
  for frame in range(21):
    piece = padded[:, frame * 160 : frame * 160 + 400] * window
    expected = np.abs(np.fft.rfft(piece, 1024)) ** 2
    np.testing.assert_allclose(actual[:, frame], expected, rtol=1e-3, atol=1e-3)
  assert actual.shape == (2, 21, 513)


_matmul = tf.matmul


def _bfloat16_matmul(a, b):
  # What a TPU does with a float32 product.
  a = tf.cast(tf.cast(a, tf.bfloat16), tf.float32)
  b = tf.cast(tf.cast(b, tf.bfloat16), tf.float32)
  return _matmul(a, b)


def test_split_matmul_survives_operands_rounded_to_bfloat16(monkeypatch):
  rng = np.random.default_rng(0)
  a = rng.lognormal(sigma=5.0, size=(50, 513)).astype(np.float32)
  b = rng.uniform(size=(513, 64)).astype(np.float32)
  exact = a.astype(np.float64) @ b.astype(np.float64)

  def relative_error(*, split):
    product = features.float32_matmul(tf.constant(a), b, split=split)
    return np.max(np.abs(product.numpy() / exact - 1))

  plain_float32 = relative_error(split=False)
  monkeypatch.setattr(tf, "matmul", _bfloat16_matmul)
  assert relative_error(split=False) > 1e-3  # Or nothing is emulated.
  assert relative_error(split=True) < 2 * plain_float32


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_silence_and_dc_are_finite(level):
  out = features.LogMel()(tf.fill([1, 16000], level)).numpy()
  assert np.isfinite(out).all()
  assert out.shape == (1, 101, 64)


def test_band_edge_above_nyquist_is_refused():
  with pytest.raises(ValueError, match="Nyquist|half the sample rate"):
    features.LogMel(sample_rate_hz=8000)


def test_window_longer_than_the_fft_is_refused():
  with pytest.raises(ValueError, match="1200.*at most the 1024"):
    features.LogMel(window_samples=1200)(tf.zeros([1, 16000]))


def test_unknown_engine_is_refused():
  with pytest.raises(ValueError, match="'gpu'.*fft"):
    features.LogMel(engine="gpu")(tf.zeros([1, 16000]))


def test_unknown_alignment_is_refused():
  with pytest.raises(ValueError, match="'left'.*centred"):
    features.LogMel(alignment="left")(tf.zeros([1, 16000]))
