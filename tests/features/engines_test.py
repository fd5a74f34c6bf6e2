# SPDX-License-Identifier: Apache-2.0
"""The front ends against golden values, NumPy in float64 and one another."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tests import reference, toy
from tf_audioset import features
from tf_audioset.features import engines, matmul
from tf_audioset.runtime import tf_internals
from tf_audioset.runtime.errors import UserError

_ENGINES = pytest.mark.parametrize("engine", ["fft", "matmul"])
_ALIGNMENTS = pytest.mark.parametrize("alignment", features.ALIGNMENTS)


def _waveforms():
  with np.load(reference.golden("frontend.npz")) as golden:
    return golden["waveform_5s"]


def _as_float(waveform):
  return waveform.astype(np.float32) / 32768


def _worst_errors(actual, expected):
  """Returns the greatest error in log units by mel power.

  The powers are at least 1e-4, at least 1e-6, and below; 0 where there is none.
  """
  power = np.exp(expected)
  error = np.abs(actual - expected)
  bands = (
    power >= 1e-4,
    (power >= 1e-6) & (power < 1e-4),
    power < 1e-6,
  )
  return [error[band].max(initial=0.0) for band in bands]


def _assert_within(actual, expected, limits):
  assert actual.shape == expected.shape
  for worst, limit in zip(_worst_errors(actual, expected), limits):
    assert worst <= limit


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
@_ENGINES
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_log_mel_equals_the_golden_values(
  alignment, key, num_mels, engine, dtype
):
  with np.load(reference.golden("frontend.npz")) as golden:
    expected = golden[key]
  waveform = _waveforms()
  layer = features.LogMel(alignment=alignment, num_mels=num_mels, engine=engine)
  actual = layer(waveform if dtype == "int16" else _as_float(waveform)).numpy()
  assert actual.dtype == np.float32
  _assert_within(actual, expected, _LIMITS[alignment])
  if alignment == "centred":
    # Those golden values are of float64. fft is as exact as the float32 that it
    # returns, and matmul four times as exact as a float32 product.
    limits = {"fft": (2e-6, 2e-6, 4e-6), "matmul": (7e-5, 5e-4, 3e-3)}
    _assert_within(actual, expected, limits[engine])


@_ENGINES
def test_log_spectrogram_equals_the_golden_values(engine):
  with np.load(reference.golden("frontend.npz")) as golden:
    expected = golden["log_spectrogram_5s_clip0"]
  layer = features.LogSpectrogram(alignment="audax", engine=engine)
  actual = layer(_waveforms()[:1]).numpy()[0]
  # Below 1e-6 the golden values, themselves of a float32 FFT, are off by 0.1.
  assert expected.shape == (504, 513)
  _assert_within(actual, expected, (5e-4, 5e-3, np.inf))


_einsum = tf.einsum


def _bfloat16_einsum(equation, *operands):
  """Does what a TPU does with a float32 product."""
  rounded = [tf.cast(tf.cast(x, tf.bfloat16), tf.float32) for x in operands]
  return _einsum(equation, *rounded)


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_matmul_does_not_notice_that_hardware_rounds_to_bfloat16(
  monkeypatch, dtype
):
  waveform = _waveforms()[:2, :16000]
  if dtype == "float32":
    waveform = _as_float(waveform) * np.float32(0.7)
  layer = features.LogMel(engine="matmul")
  expected = layer(waveform).numpy()
  monkeypatch.setattr(tf, "einsum", _bfloat16_einsum)
  np.testing.assert_array_equal(layer(waveform), expected)


def test_a_product_of_parts_is_as_exact_as_its_sums(monkeypatch):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 50, 200)).astype(np.float32)
  matrix = rng.uniform(-1, 1, size=(200, 30))
  exact = x.astype(np.float64) @ matrix
  monkeypatch.setattr(tf, "einsum", _bfloat16_einsum)

  def worst(product):
    return np.abs(product - exact).max()

  # What is left is the rounding of the sums in float32.
  assert worst(matmul.exact_matmul(tf.constant(x), matrix, 3)) < 5e-5
  assert worst(matmul.exact_matmul(tf.constant(x), matrix, 2)) < 1e-3
  plain = tf.constant(matrix, tf.float32)
  assert worst(tf.einsum("brn,nm->brm", x, plain)) > 1e-2


def test_whole_numbers_of_17_bits_are_multiplied_without_rounding(monkeypatch):
  monkeypatch.setattr(tf, "einsum", _bfloat16_einsum)
  numbers = np.arange(-(2**16), 2**16 + 1, dtype=np.int32)
  # With one term each, and a matrix that bfloat16 holds, no sum is rounded.
  x = numbers.reshape(1, -1, 1)
  actual = matmul.exact_matmul(tf.constant(x), np.array([[1.0, -0.5]]), 2)
  np.testing.assert_array_equal(actual[0], numbers[:, None] * [1.0, -0.5])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@_ENGINES
def test_what_is_not_finite_stays_so(engine, bad):
  waveform = _as_float(_waveforms()[:2, :8000])
  expected = features.LogMel(engine=engine)(waveform).numpy()
  waveform[1, 4000] = bad
  actual = features.LogMel(engine=engine)(waveform).numpy()
  assert np.isnan(actual[1, 25]).all()
  np.testing.assert_allclose(actual[0], expected[0], atol=1e-5)


def _hard_clips():
  """Loud tones beside what is faint, in 16 bits."""
  rng = np.random.default_rng(4)
  time = np.arange(32000) / 16000
  noise = rng.normal(size=time.shape)
  clips = [
    0.98 * np.sin(2 * np.pi * 440 * time) + 1e-5 * noise,
    0.5 * np.sin(2 * np.pi * 700.3 * time) + 3e-5 * noise,
    0.98 * np.sign(np.sin(2 * np.pi * 440 * time)),
    0.1 * noise,
    0.9 * np.sin(2 * np.pi * (100 + 1900 * time) * time),
    np.where(time < 1, 0.9 * np.sin(2 * np.pi * 1000 * time), 0),
  ]
  return np.round(np.clip(clips, -1, 0.9999) * 32768).astype(np.int16)


@_ALIGNMENTS
@pytest.mark.parametrize("num_mels", [64, 128])
def test_the_engines_agree(alignment, num_mels):
  layer = features.LogMel(alignment=alignment, num_mels=num_mels)
  clips = _hard_clips()
  expected = layer(clips, engine="fft").numpy()
  for waveform in (clips, _as_float(clips)):
    actual = layer(waveform, engine="matmul").numpy()
    _assert_within(actual, expected, _LIMITS["centred"])


@pytest.mark.parametrize("gain", [1.0, 1e-3, 1e-6])
def test_the_engines_agree_on_samples_between_the_steps_of_16_bits(gain):
  """As after resampling; what is faint beside a loud tone as well."""
  rng = np.random.default_rng(4)
  time = np.arange(16000) / 16000
  samples = np.sin(2 * np.pi * 300.3 * time) + 1e-4 * rng.normal(size=16000)
  waveform = (0.5 * gain * samples)[np.newaxis].astype(np.float32)
  exact, actual = (
    features.LogMel(engine=engine, min_power=1e-30)(waveform)
    for engine in ("fft", "matmul")
  )
  np.testing.assert_allclose(actual, exact, atol=1e-3)


def test_xla_chooses_the_engine(monkeypatch):
  assert engines.choose("auto") is engines.choose("fft")
  waveform = _waveforms()[:, :8000]
  exact, product = (
    features.LogMel(engine=engine)(waveform).numpy()
    for engine in ("fft", "matmul")
  )
  assert np.any(exact != product)
  np.testing.assert_array_equal(features.LogMel()(waveform), exact)
  monkeypatch.setattr(tf_internals, "in_xla", lambda: True)
  np.testing.assert_array_equal(features.LogMel()(waveform), product)


def _powers(waveform, engine, filters=None, **options):
  stft = features.Stft(**options)
  return engines.choose(engine)(tf.convert_to_tensor(waveform), stft, filters)


def _numpy_powers(waveform, stft=None):
  """Returns the powers by NumPy's FFT in float64, written independently."""
  stft = stft or features.Stft()
  is_centred = stft.alignment == "centred"
  edge = (stft.window_samples if is_centred else stft.fft_samples) // 2
  padded = np.pad(
    waveform.astype(np.float64), [(0, 0), (edge, edge)], "reflect"
  )
  frames = np.lib.stride_tricks.sliding_window_view(
    padded, stft.window_samples, axis=1
  )[:, :: stft.hop_samples]
  window = (
    np.hanning(stft.window_samples + 1)[:-1]
    if is_centred
    else np.hanning(stft.window_samples)
  )
  return np.abs(np.fft.rfft(frames * window, stft.fft_samples)) ** 2


@pytest.mark.parametrize(
  ("engine", "compiled"), [("fft", False), ("matmul", False), ("matmul", True)]
)
def test_powers_equal_numpys(engine, compiled):
  waveform = np.random.default_rng(0).normal(size=(2, 3200)).astype(np.float32)
  function = tf.function(
    lambda waveform: _powers(waveform, engine), jit_compile=compiled
  )
  actual = function(waveform).numpy()
  assert actual.shape == (2, 21, 513)
  np.testing.assert_allclose(
    actual, _numpy_powers(waveform), rtol=1e-3, atol=1e-3
  )


# Half of a window of 400 samples is 1, 2, 3 or 20 hops; one hop is longer.
@_ENGINES
@_ALIGNMENTS
@pytest.mark.parametrize("hop_samples", [10, 80, 160, 200, 250, 500])
@pytest.mark.parametrize("known", [True, False])
def test_any_hop_is_that_of_numpy(engine, alignment, hop_samples, known):
  waveform = np.random.default_rng(7).normal(size=(2, 2317)).astype(np.float32)
  options = dict(alignment=alignment, hop_samples=hop_samples)
  function = tf.function(
    lambda waveform: _powers(waveform, engine, **options),
    input_signature=[
      tf.TensorSpec(waveform.shape if known else [None, None], tf.float32)
    ],
  )
  expected = _numpy_powers(waveform, features.Stft(**options))
  actual = function(waveform)
  assert actual.shape == expected.shape
  np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)


@_ALIGNMENTS
@pytest.mark.parametrize("window_samples", [400, 401, 800])
@pytest.mark.parametrize("fft_samples", [1022, 1023, 1024, 1026])
def test_any_transform_is_that_of_numpy(alignment, window_samples, fft_samples):
  waveform = np.random.default_rng(3).normal(size=(1, 4000)).astype(np.float32)
  options = dict(
    window_samples=window_samples, fft_samples=fft_samples, alignment=alignment
  )
  actual = _powers(tf.constant(waveform), "matmul", **options)
  expected = _numpy_powers(waveform, features.Stft(**options))
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("known", [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("num_frames", [2, 256, 257, 512, 513, 769])
def test_the_pieces_of_a_long_clip_are_those_of_numpy(num_frames, known):
  for num_samples in (num_frames - 1) * 160 + np.array([80, 159]):
    rng = np.random.default_rng(num_frames)
    waveform = rng.normal(size=(3, num_samples)).astype(np.float32)
    shape = [n if k else None for n, k in zip(waveform.shape, known)]
    function = tf.function(
      lambda waveform: _powers(waveform, "fft"),
      input_signature=[tf.TensorSpec(shape)],
    )
    expected = _numpy_powers(waveform)
    assert expected.shape == (3, num_frames, 513)
    np.testing.assert_allclose(function(waveform), expected, rtol=1e-5)


@pytest.mark.parametrize("engine", ["fft", "matmul", "fft32"])
@_ALIGNMENTS
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
  powers = _numpy_powers(waveform, features.Stft(alignment=alignment))
  actual = _powers(waveform, engine, filters, alignment=alignment)
  np.testing.assert_allclose(actual, powers @ filters, rtol=5e-5, atol=1e-6)


def _gradient(layer, waveform, *, compiled=False, **options):
  """Returns the gradient of a sum of the features to a float waveform."""

  @tf.function(jit_compile=compiled)
  def gradient(waveform):
    with tf.GradientTape() as tape:
      tape.watch(waveform)
      log_mel = layer(waveform, **options)
      weights = tf.cos(tf.range(tf.size(log_mel), dtype=tf.float32))
      total = tf.reduce_sum(tf.reshape(log_mel, [-1]) * weights)
    return tape.gradient(total, waveform)

  return gradient(tf.constant(waveform)).numpy()


@_ALIGNMENTS
@pytest.mark.parametrize(
  ("engine", "compiled"), [("fft", False), ("matmul", False), ("matmul", True)]
)
def test_the_log_mel_can_be_differentiated(alignment, engine, compiled):
  # 2 clips of 2 pieces each.
  rng = np.random.default_rng(8)
  waveform = 0.1 * rng.normal(size=(2, 41000)).astype(np.float32)
  layer = features.LogMel(alignment=alignment)
  gradient = _gradient(layer, waveform, compiled=compiled, engine=engine)
  # TensorFlow's own gradient of the transform as a whole.
  expected = _gradient(layer, waveform, engine="fft32")
  np.testing.assert_allclose(gradient, expected, atol=2e-3 * expected.max())
  # And by a difference in a random direction, in float64.
  direction = rng.normal(size=waveform.shape)
  filters = features.mel_filterbank(
    num_mels=64,
    fft_samples=1024,
    sample_rate_hz=16000,
    lower_hz=60.0,
    upper_hz=7800.0,
  )

  def total(waveform):
    stft = features.Stft(alignment=alignment)
    log_mel = np.log(_numpy_powers(waveform, stft) @ filters).ravel()
    return log_mel @ np.cos(np.arange(log_mel.size))

  step = 1e-7
  slope = (
    total(waveform + step * direction) - total(waveform - step * direction)
  ) / (2 * step)
  # float32 cosines of numbers up to 33,000.
  np.testing.assert_allclose(np.vdot(gradient, direction), slope, rtol=0.01)


def test_what_a_cpu_makes_can_run_on_a_gpu():
  """An export is made on one machine and served on another."""
  kernels = pytest.importorskip("tensorflow.python.framework.kernels")
  graph = (
    tf.function(features.LogMel())
    .get_concrete_function(tf.TensorSpec([None, None]))
    .graph.as_graph_def()
  )
  registered = functools.cache(kernels.get_registered_kernels_for_op)
  if not any(k.device_type == "GPU" for k in registered("RFFT").kernel):
    pytest.skip("needs a TensorFlow that was built for GPUs")

  def runs(node):
    return any(
      all(
        node.attr[constraint.name].type in constraint.allowed_values.list.type
        for constraint in kernel.constraint
      )
      for kernel in registered(node.op).kernel
      if kernel.device_type in ("GPU", "DEFAULT")
    )

  assert {"RFFT", "MatMul"} <= {node.op for node in toy.nodes(graph)}
  # Functions and arguments are the runtime's.
  of_the_runtime = {"_Arg", "_Retval", "While", "StatelessWhile", "Placeholder"}
  lacking = {
    node.op
    for node in toy.nodes(graph)
    if node.op not in of_the_runtime and not runs(node)
  }
  assert lacking == set()


def _square_wave(num_samples):
  return np.sign(np.sin(2 * np.pi * 440 / 16000 * (np.arange(num_samples) + 1)))


@_ENGINES
@_ALIGNMENTS
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


def test_ten_minutes_are_finite_and_of_the_right_shape():
  samples = _square_wave(600 * 16000).astype(np.float32)
  out = features.LogMel(engine="fft")(samples[np.newaxis]).numpy()
  assert out.shape == (1, 60001, 64)
  assert np.isfinite(out).all()
  # A steady sound: the middle of the long clip is as that of a short one.
  short = features.LogMel(engine="fft")(samples[np.newaxis, :16000]).numpy()
  np.testing.assert_allclose(out[0, 40:60], short[0, 40:60], atol=1e-3)


@pytest.mark.parametrize(
  "engine", [name for name in features.ENGINES if name != "auto"]
)
def test_silence_beside_sound_is_finite_in_a_graph(engine):
  """TensorFlow moves constants about in a graph, which eagerly it does not."""
  waveform = np.zeros([2, 16000], np.float32)
  waveform[0, :8000] = _as_float(_waveforms()[0, :8000])
  expected = features.LogMel(engine="fft")(waveform)
  layer = features.LogMel(engine=engine)
  actual = tf.function(lambda waveform: layer(waveform))(waveform)
  # In float32 the faintest bands are the worst.
  limit = {"fft": 1e-5, "matmul": 2e-3, "fft32": 0.1}[engine]
  np.testing.assert_allclose(actual, expected, atol=limit)


def test_float32_is_enough_for_bands_that_can_be_heard():
  waveform = _as_float(_waveforms())
  expected = features.LogMel(engine="fft")(waveform).numpy()
  actual = features.LogMel(engine="fft32")(waveform).numpy()
  heard = expected > np.log(1e-4)
  assert heard.mean() > 0.4
  np.testing.assert_allclose(actual[heard], expected[heard], atol=2e-3)


def test_tflites_fft_has_powers_of_two_only():
  with pytest.raises(UserError, match="400 samples: TFLite has only powers"):
    _powers(tf.zeros([1, 8000]), "fft32", fft_samples=400)


@_ENGINES
def test_a_clip_that_is_too_short_to_be_reflected_is_refused(engine):
  with pytest.raises((UserError, tf.errors.InvalidArgumentError)):
    features.LogMel(engine=engine)(tf.zeros([1, 200]))
  assert features.LogMel(engine=engine)(tf.zeros([1, 201])).shape == (1, 2, 64)
