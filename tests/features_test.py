# SPDX-License-Identifier: Apache-2.0
"""The front end against golden values and against NumPy."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests import reference, toy
from tf_audioset import features
from tf_audioset.kernels import cpu


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
  monkeypatch.setattr(tf, "matmul", _bfloat16_matmul)
  _assert_golden(alignment, key, num_mels, "matmul", _LIMITS[alignment])


@pytest.mark.parametrize("rounds_to_bfloat16", [False, True])
@pytest.mark.parametrize("alignment", features.ALIGNMENTS)
def test_the_engines_agree(monkeypatch, alignment, rounds_to_bfloat16):
  waveform = _golden_waveform()
  exact = features.LogMel(alignment=alignment, engine="fft")(waveform)
  if rounds_to_bfloat16:
    monkeypatch.setattr(tf, "matmul", _bfloat16_matmul)
  actual = features.LogMel(alignment=alignment, engine="matmul")(waveform)
  np.testing.assert_allclose(actual, exact, atol=1e-4)


def test_xla_chooses_the_engine(monkeypatch):
  waveform = _golden_waveform()[:, :8000]
  fft, matmul = (
    features.LogMel(engine=engine)(waveform).numpy()
    for engine in ("fft", "matmul")
  )
  assert np.any(fft != matmul)
  np.testing.assert_array_equal(features.LogMel()(waveform), fft)
  monkeypatch.setattr(cpu, "in_xla", lambda: True)
  np.testing.assert_array_equal(features.LogMel()(waveform), matmul)


@pytest.mark.parametrize("engine", ["fft", "matmul"])
def test_log_spectrogram_equals_the_golden_values(engine):
  with np.load(reference.golden("frontend.npz")) as golden:
    expected = golden["log_spectrogram_5s_clip0"]
  layer = features.LogSpectrogram(alignment="audax", engine=engine)
  actual = layer(_golden_waveform()[:1]).numpy()[0]
  assert actual.shape == expected.shape == (504, 513)
  # Below 1e-6 the golden values, themselves of a float32 FFT, are off by 0.1.
  strong, middle, _ = _worst_errors(actual, expected)
  assert strong <= 5e-4
  assert middle <= 5e-3


def _golden_waveform():
  with np.load(reference.golden("frontend.npz")) as golden:
    return golden["waveform_5s"].astype(np.float32) / 32768


def _assert_golden(alignment, key, num_mels, engine, limits):
  with np.load(reference.golden("frontend.npz")) as golden:
    expected = golden[key]
  waveform = _golden_waveform()
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


@pytest.mark.parametrize("fft_samples", [400, 401, 1023])
def test_the_bins_of_any_fft_are_where_numpy_has_them(fft_samples):
  filters = features.mel_filterbank(
    num_mels=20,
    fft_samples=fft_samples,
    sample_rate_hz=16000,
    lower_hz=60.0,
    upper_hz=7800.0,
  )
  edges_hz = features.mel_to_hz(
    np.linspace(*features.hz_to_mel([60.0, 7800.0]), 22)
  )
  bins_hz = np.fft.rfftfreq(fft_samples, 1 / 16000)
  for i, of_band in enumerate(filters.T):
    expected = np.interp(bins_hz, edges_hz[i : i + 3], [0, 1, 0])
    np.testing.assert_allclose(of_band, expected, atol=1e-9)


def test_tflites_fft_has_powers_of_two_only():
  with pytest.raises(ValueError, match="400 samples: TFLite has only powers"):
    features.power_spectrogram(
      tf.zeros([1, 8000]), fft_samples=400, engine="fft32"
    )


@pytest.mark.parametrize(
  ("engine", "compiled"), [("fft", False), ("matmul", False), ("matmul", True)]
)
def test_power_spectrogram_equals_numpy(engine, compiled):
  waveform = np.random.default_rng(0).normal(size=(2, 3200)).astype(np.float32)
  function = tf.function(features.power_spectrogram, jit_compile=compiled)
  actual = function(waveform, engine=engine).numpy()
  expected = _numpy_spectrogram(waveform)
  np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)
  assert actual.shape == (2, 21, 513)


@pytest.mark.parametrize("known", [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("num_frames", [2, 256, 257, 512, 513, 769])
def test_the_pieces_of_a_long_clip_are_those_of_numpy(num_frames, known):
  for num_samples in (num_frames - 1) * 160 + np.array([80, 159]):
    rng = np.random.default_rng(num_frames)
    waveform = rng.normal(size=(3, num_samples)).astype(np.float32)
    shape = [n if k else None for n, k in zip(waveform.shape, known)]
    function = tf.function(
      lambda waveform: features.power_spectrogram(waveform, engine="fft"),
      input_signature=[tf.TensorSpec(shape)],
    )
    expected = _numpy_spectrogram(waveform)
    assert expected.shape == (3, num_frames, 513)
    np.testing.assert_allclose(function(waveform), expected, rtol=1e-5)


def _numpy_spectrogram(waveform):
  window = np.hanning(401)[:-1]
  padded = np.pad(waveform.astype(np.float64), ((0, 0), (200, 200)), "reflect")
  frames = np.lib.stride_tricks.sliding_window_view(padded, 400, axis=1)
  return np.abs(np.fft.rfft(frames[:, ::160] * window, 1024)) ** 2


_matmul = tf.matmul


def _bfloat16_matmul(a, b):
  # What a TPU does with a float32 product.
  a = tf.cast(tf.cast(a, tf.bfloat16), tf.float32)
  b = tf.cast(tf.cast(b, tf.bfloat16), tf.float32)
  return _matmul(a, b)


def test_exact_matmul_is_exact_where_operands_are_rounded_to_bfloat16(
  monkeypatch,
):
  rng = np.random.default_rng(0)
  a = rng.lognormal(sigma=5.0, size=(50, 513)).astype(np.float32)
  b = rng.uniform(size=(513, 64))
  exact = a.astype(np.float64) @ b

  def worst(product):
    return np.max(np.abs(product.numpy() / exact - 1))

  plain = worst(tf.matmul(a, tf.constant(b, tf.float32)))
  monkeypatch.setattr(tf, "matmul", _bfloat16_matmul)
  assert worst(tf.matmul(a, tf.constant(b, tf.float32))) > 1e-3
  assert worst(features.exact_matmul(tf.constant(a), b)) < 2 * plain


def _cancelling_terms():
  """Sums of 200 terms of up to 1 that come to 1e-4 of them; and to nothing."""
  rng = np.random.default_rng(1)
  b = rng.uniform(-1, 1, size=(200, 20))
  a = rng.uniform(-1, 1, size=(60, 200))
  a -= (1 - 1e-5) * a @ b @ np.linalg.pinv(b)
  a[:20] *= 1e-6
  a[20:40] = np.round(a[20:40] * 32768) / 32768
  a[0] = 0.0
  return a.astype(np.float32), b


def _fixed_point_product(a, b):
  numbers, unit = features.fixed_point(tf.constant(a))
  # The last bit is kept for the sum of two, here of two equal ones.
  return features.fixed_point_matmul(numbers + numbers, b) * (unit / 2)


def test_fixed_point_sums_are_those_of_float64_and_know_no_order(monkeypatch):
  a, b = _cancelling_terms()
  product = _fixed_point_product(a, b).numpy()
  exact = a.astype(np.float64) @ b
  # 200 terms that are each off by 2^-31 of the greatest, at random.
  limit = np.abs(a).max(axis=1, keepdims=True) * 2e-8
  assert (np.abs(product - exact) <= limit).all()
  plain = a @ b.astype(np.float32)
  assert (np.abs(plain - exact) > limit).any()
  order = np.random.default_rng(2).permutation(200)
  others = [
    _fixed_point_product(a[:, order], b[order]),
    tf.function(lambda: _fixed_point_product(a, b), jit_compile=True)(),
  ]
  monkeypatch.setattr(tf, "matmul", _bfloat16_matmul)
  others.append(_fixed_point_product(a, b))
  for other in others:
    np.testing.assert_array_equal(product, other)


def test_the_mirrored_product_is_that_with_every_second_row_negated():
  a, b = _cancelling_terms()
  numbers, unit = features.fixed_point(tf.constant(a[:, :199]))
  product = features.fixed_point_matmul(numbers, b[:199], mirrored=True)
  actual = (product * unit).numpy()
  negated = b[:199] * np.resize([1.0, -1.0], [199, 1])
  exact = a[:, :199].astype(np.float64) @ np.concatenate(
    [b[:199], negated], axis=1
  )
  limit = np.abs(a).max(axis=1, keepdims=True) * 2e-8
  assert actual.shape == (60, 40)
  assert (np.abs(actual - exact) <= limit + 1e-7 * np.abs(exact)).all()


@pytest.mark.parametrize("num_terms", [256, 257, 819])
def test_the_greatest_sums_in_fixed_point_are_whole(monkeypatch, num_terms):
  """Of slices that are all as large as they can be, in any order."""
  monkeypatch.setattr(tf, "matmul", _bfloat16_matmul)
  number = 2**31 - 128 if num_terms == 256 else 2**31 - 2**24 // 2
  a = np.full([4, num_terms], number, np.int32)
  a[1] = -number
  a[2, ::2] = -number
  a[3, ::3] = number - 1
  b = np.full(num_terms, number / 2.0**31)
  b[1::2] *= -1
  b[2::3] += 2.0**-31
  product = features.fixed_point_matmul(tf.constant(a), b[:, np.newaxis])
  exact = [math.fsum(x * y for x, y in zip(row.tolist(), b)) for row in a]
  np.testing.assert_allclose(product[:, 0], exact, rtol=2e-7)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_fixed_point_row_that_is_not_finite_stays_so(bad):
  a, b = _cancelling_terms()
  a[5, 7] = bad
  product = _fixed_point_product(a, b).numpy()
  assert not np.isfinite(product[5]).any()
  assert np.isfinite(np.delete(product, 5, axis=0)).all()


def test_fixed_point_sums_of_too_many_terms_are_refused():
  with pytest.raises(ValueError, match="820 terms .* 819"):
    features.fixed_point_matmul(tf.ones([1, 820], tf.int32), np.ones([820, 1]))


# Even windows and transforms (centred) have bins that mirror each other about
# the middle one, which 1022 and 1026 have not.
@pytest.mark.parametrize("alignment", features.ALIGNMENTS)
@pytest.mark.parametrize("window_samples", [400, 401, 800])
@pytest.mark.parametrize("fft_samples", [1022, 1023, 1024, 1026])
def test_the_folded_transform_is_that_of_numpy(
  alignment, window_samples, fft_samples
):
  waveform = np.random.default_rng(3).normal(size=(1, 4000)).astype(np.float32)
  actual = features.power_spectrogram(
    tf.constant(waveform),
    window_samples=window_samples,
    fft_samples=fft_samples,
    alignment=alignment,
    engine="matmul",
  )
  edge = fft_samples // 2 if alignment == "audax" else window_samples // 2
  padded = np.pad(waveform[0].astype(np.float64), edge, "reflect")
  frames = np.lib.stride_tricks.sliding_window_view(padded, window_samples)
  window = (
    np.hanning(window_samples)
    if alignment == "audax"
    else np.hanning(window_samples + 1)[:-1]
  )
  spectrum = np.fft.rfft(frames[::160] * window, fft_samples)
  np.testing.assert_allclose(
    actual[0], np.abs(spectrum) ** 2, rtol=1e-4, atol=1e-9
  )


@pytest.mark.parametrize("engine", ["fft", "matmul", "fft32"])
@pytest.mark.parametrize("alignment", features.ALIGNMENTS)
@pytest.mark.parametrize(
  "bins",
  [range(3, 500), [256], [512], range(250, 260), range(5, 100), []],
  ids=str,
)
def test_filters_sum_the_bins(engine, alignment, bins):
  waveform = np.random.default_rng(3).normal(size=(1, 4000)).astype(np.float32)
  filters = np.zeros([513, 3])
  # One leaves nothing out, so that no bin is there twice.
  filters[bins, 0] = 1.0
  filters[bins, 1] = np.random.default_rng(5).uniform(size=len(bins))
  options = dict(alignment=alignment, engine=engine)
  power = features.power_spectrogram(waveform, **options).numpy()
  actual = features.power_spectrogram(waveform, filters=filters, **options)
  np.testing.assert_allclose(actual, power @ filters, rtol=1e-5, atol=1e-9)


def test_faint_bins_that_mirror_a_loud_one_keep_their_digits():
  """They are differences of sums that are nearly equal."""
  tone = 0.5 * np.sin(2 * np.pi * 700.3 / 16000 * np.arange(16000))
  noise = 1e-5 * np.random.default_rng(6).normal(size=16000)
  waveform = (tone + noise)[np.newaxis].astype(np.float32)
  fft, matmul = (
    np.sqrt(features.power_spectrogram(waveform, engine=engine))
    for engine in ("fft", "matmul")
  )
  # From 7187 to 7422 Hz: 7299.7 mirrors the tone. Away from its ends.
  faint = (0, slice(3, -3), slice(460, 475))
  loudest = fft.max()
  assert np.median(fft[faint]) < 1e-5 * loudest
  # Two sums rounded to float32 would be off by 3e-8.
  np.testing.assert_allclose(
    matmul[faint], fft[faint], rtol=0, atol=1e-9 * loudest
  )


@pytest.mark.parametrize("gain", [1.0, 1e-3, 1e-6])
def test_the_engines_agree_on_samples_between_the_steps_of_16_bits(gain):
  """As after resampling; what is faint beside a loud tone as well."""
  rng = np.random.default_rng(4)
  time = np.arange(16000) / 16000
  samples = np.sin(2 * np.pi * 300.3 * time) + 1e-4 * rng.normal(size=16000)
  waveform = (0.5 * gain * samples)[np.newaxis].astype(np.float32)
  fft, matmul = (
    features.LogMel(engine=engine, min_power=1e-30)(waveform)
    for engine in ("fft", "matmul")
  )
  np.testing.assert_allclose(matmul, fft, atol=2e-4)


def _square_wave(num_samples):
  return np.sign(np.sin(2 * np.pi * 440 / 16000 * (np.arange(num_samples) + 1)))


@pytest.mark.parametrize("engine", ["fft", "matmul"])
@pytest.mark.parametrize("alignment", features.ALIGNMENTS)
@pytest.mark.parametrize(
  "samples",
  [
    np.zeros(16000),
    np.ones(16000),
    _square_wave(16000),
    np.eye(1, 16000, 8000)[0],
    _square_wave(1600),
  ],
  ids=["silence", "dc", "square", "impulse", "0.1 s"],
)
def test_hard_inputs_are_finite_and_of_the_right_shape(
  samples, alignment, engine
):
  layer = features.LogMel(alignment=alignment, engine=engine)
  out = layer(samples[np.newaxis].astype(np.float32)).numpy()
  assert np.isfinite(out).all()
  # 0.2 s of audax's padding hold 3 frames more than the centred 1 / hop + 1.
  more = {"centred": 1, "audax": 4}[alignment]
  assert out.shape == (1, len(samples) // 160 + more, 64)
  assert (out >= np.float32(np.log(1e-8))).all()


@pytest.mark.parametrize("engine", ["fft", "matmul"])
def test_ten_minutes_are_finite_and_of_the_right_shape(engine):
  samples = _square_wave(600 * 16000).astype(np.float32)
  out = features.LogMel(engine=engine)(samples[np.newaxis]).numpy()
  assert out.shape == (1, 60001, 64)
  assert np.isfinite(out).all()
  # A steady sound: the middle of the long clip is as that of a short one.
  short = features.LogMel(engine=engine)(samples[np.newaxis, :16000]).numpy()
  np.testing.assert_allclose(out[0, 40:60], short[0, 40:60], atol=1e-3)


def test_the_front_end_stays_float32_under_mixed_precision():
  waveform = _square_wave(16000)[np.newaxis].astype(np.float32)
  expected = features.LogMel()(waveform).numpy()
  with toy.precision("mixed_bfloat16"):
    actual = features.LogMel()(waveform)
  assert actual.dtype == tf.float32
  np.testing.assert_array_equal(actual, expected)


def test_slaneys_scale_has_the_centres_of_his_auditory_toolbox():
  # 13 linear filters 66.67 Hz apart from 200 Hz, 27 logarithmic ones each
  # 1.0711703 times the last: mfcc.m, 1998.
  centres_hz = 200 + 200 / 3 * np.arange(13)
  ratios = 1.0711703 ** np.arange(1, 28)
  centres_hz = np.append(centres_hz, centres_hz[-1] * ratios)
  mels = features.hz_to_mel(centres_hz, "slaney")
  np.testing.assert_allclose(np.diff(mels), 1.0, atol=1e-5)
  np.testing.assert_allclose(
    features.mel_to_hz(mels, "slaney"), centres_hz, rtol=1e-12
  )


def test_area_normalised_filters_have_area_1():
  options = dict(num_mels=20, fft_samples=65536, sample_rate_hz=16000)
  for scale in features.MEL_SCALES:
    filters = features.mel_filterbank(
      **options,
      lower_hz=60.0,
      upper_hz=7800.0,
      mel_scale=scale,
      area_normalised=True,
    )
    area = filters.sum(axis=0) * 16000 / 65536
    np.testing.assert_allclose(area, 1.0, rtol=1e-3)


def test_an_unknown_scale_is_refused():
  with pytest.raises(ValueError, match="'bark'.*slaney"):
    features.LogMel(mel_scale="bark")


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


@pytest.mark.parametrize("engine", features.ENGINES)
def test_silence_beside_sound_is_finite_in_a_graph(engine):
  """TensorFlow moves constants about in a graph, which eagerly it does not."""
  waveform = np.zeros([2, 16000], np.float32)
  waveform[0, :8000] = _golden_waveform()[0, :8000]
  expected = features.LogMel(engine="fft")(waveform)
  layer = features.LogMel(engine=engine)
  actual = tf.function(lambda waveform: layer(waveform))(waveform)
  # In float32 the faintest bands are the worst.
  limit = 0.1 if engine == "fft32" else 2e-4
  np.testing.assert_allclose(actual, expected, atol=limit)


@pytest.mark.parametrize(
  "layer", [features.LogMel(engine="fft"), features.LogSpectrogram()]
)
def test_another_engine_can_be_asked_for(layer):
  waveform = _golden_waveform()[:, :8000]
  other = type(layer)(engine="matmul")(waveform)
  np.testing.assert_array_equal(layer(waveform, engine="matmul"), other)
  assert np.any(other.numpy() != layer(waveform).numpy())


def test_float32_is_enough_for_bands_that_can_be_heard():
  waveform = _golden_waveform()
  expected = features.LogMel(engine="fft")(waveform).numpy()
  actual = features.LogMel(engine="fft32")(waveform).numpy()
  heard = expected > np.log(1e-4)
  assert heard.mean() > 0.4
  np.testing.assert_allclose(actual[heard], expected[heard], atol=2e-3)
