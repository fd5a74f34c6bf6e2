# SPDX-License-Identifier: Apache-2.0
"""The TPU's forms have the plain ops' values and gradients, and only there."""

import contextlib
import functools

import gin
import numpy as np
import pytest
import tensorflow as tf

from tf_audioset.kernels import choice, ops, tpu
from tf_audioset.models import convnext
from tf_audioset.models import layers as layers_lib
from tf_audioset.runtime.errors import UserError

# Sizes of features: audax's odd ones, 10 s, and more bands.
_FEATURES = [(501, 64), (504, 64), (1001, 64), (501, 80), (1001, 128)]
# Results are rounded to 8 bits, and so is what a gradient is made of.
_TOLERANCE = 2**-7


@contextlib.contextmanager
def _plain_kernels():
  """Binds what `kernels.engine = 'reference'` in a .gin file does."""
  with gin.unlock_config():
    gin.bind_parameter("kernels.engine", "reference")
  try:
    yield
  finally:
    gin.clear_config()


def _random(shape, seed):
  return tf.cast(tf.random.stateless_normal(shape, [seed, 0]), tf.bfloat16)


def _value_and_gradients(function, inputs, upstream):
  with tf.GradientTape() as tape:
    tape.watch(inputs)
    y = function(*inputs)
    loss = tf.reduce_sum(tf.cast(y, tf.float32) * upstream)
  return y, *tape.gradient(loss, inputs)


def _compare(function, plain, inputs):
  """Ours of bfloat16 compiled by XLA; the plain one of float32 as it is."""
  wide = [tf.cast(x, tf.float32) for x in inputs]
  # Not the same everywhere, so that a tap out of its place is seen. An input,
  # since what is constant is computed by TensorFlow, not by XLA.
  upstream = _random(plain(*wide).shape, 3)
  upstream = tf.cast(upstream, tf.float32)
  compiled = tf.function(_value_and_gradients, jit_compile=True)
  actual = compiled(function, inputs, upstream)
  for a, e in zip(actual, _value_and_gradients(plain, wide, upstream)):
    a, e = np.float32(tf.cast(a, tf.float32)), np.float32(e)
    assert a.shape == e.shape
    np.testing.assert_allclose(a, e, rtol=0, atol=_TOLERANCE * np.abs(e).max())


@pytest.mark.parametrize(("num_frames", "num_bands"), _FEATURES)
@pytest.mark.parametrize(
  ("size", "reduction", "channels", "stride"),
  # ConvNeXt's first and last stages, and EfficientNet's first ones.
  [(7, 4, 16, 1), (7, 32, 24, 1), (5, 8, 8, 1), (3, 2, 32, 2), (5, 4, 144, 2)],
)
def test_depthwise_convolution(
  num_frames, num_bands, size, reduction, channels, stride
):
  shape = [2, num_frames // reduction, num_bands // reduction, channels]
  inputs = [_random(shape, 1), _random([size, size, channels, 1], 2)]
  assert tpu.has_depthwise_conv2d(*inputs, stride)
  strides = [1, stride, stride, 1]
  _compare(
    functools.partial(tpu.depthwise_conv2d, stride=stride),
    lambda x, k: tf.nn.depthwise_conv2d(x, k, strides, "SAME"),
    inputs,
  )


@pytest.mark.parametrize("num_frames", [1, 2, 5])
def test_depthwise_convolution_of_less_than_the_kernel_reaches(num_frames):
  _compare(
    functools.partial(tpu.depthwise_conv2d, stride=1),
    lambda x, k: tf.nn.depthwise_conv2d(x, k, [1, 1, 1, 1], "SAME"),
    [_random([2, num_frames, 3, 8], 1), _random([7, 7, 8, 1], 2)],
  )


@pytest.mark.parametrize(
  ("in_channels", "out_channels"),
  [(96, 384), (384, 96), (128, 512), (512, 128)],
)
def test_dense(in_channels, out_channels):
  _compare(
    tpu.dense,
    lambda x, kernel, bias: x @ kernel + bias,
    [
      _random([2, 31, 4, in_channels], 1),
      _random([in_channels, out_channels], 2),
      _random([out_channels], 3),
    ],
  )


@pytest.mark.parametrize("shape", [(2, 31, 4, 96), (2, 31, 4, 128), (9, 128)])
def test_layer_norm(shape):
  x = 3 + _random(shape, 1)
  gamma, beta = (_random(shape[-1:], seed) for seed in (2, 3))

  def ours(x, gamma, beta):
    wide = (tf.cast(v, tf.float32) for v in (gamma, beta))
    return tpu.layer_norm(x, *wide, epsilon=1e-6)

  def plain(x, gamma, beta):
    mean, variance = tf.nn.moments(x, [-1], keepdims=True)
    return (x - mean) / tf.sqrt(variance + 1e-6) * gamma + beta

  _compare(ours, plain, [x, gamma, beta])


@pytest.mark.parametrize("offset", [0, 1, 100, -3e4])
def test_layer_norm_of_a_constant_is_its_offsets(offset):
  x = tf.fill([2, 3, 4, 96], tf.cast(offset, tf.bfloat16))
  beta = tf.linspace(-1.0, 1.0, 96)
  y, gradient, *_ = tf.function(_value_and_gradients, jit_compile=True)(
    lambda x: tpu.layer_norm(x, tf.ones([96]), beta, 1e-6), [x], 1.0
  )
  expected = np.broadcast_to(beta, y.shape)
  np.testing.assert_allclose(tf.cast(y, tf.float32), expected, atol=4e-3)
  assert np.isfinite(tf.cast(gradient, tf.float32)).all()


def _layers(channels):
  """A small ConvNeXt block's parts, and a depthwise convolution."""
  block = convnext._Block(channels, approximate_gelu=False)
  return [layers_lib.DepthwiseConv2D(7, padding="same"), block]


def _trained(layers, x, jit_compile):
  """Value and gradients in training, and the types of the graph's ops."""

  @tf.function(jit_compile=jit_compile)
  def train(x):
    with tf.GradientTape() as tape:
      y = x
      for layer in layers:
        y = layer(y, training=True)
      loss = tf.reduce_sum(tf.square(tf.cast(y, tf.float32)))
    variables = [v for layer in layers for v in layer.trainable_variables]
    return y, *tape.gradient(loss, variables)

  graph = train.get_concrete_function(x).graph
  return train(x), {op.type for op in graph.get_operations()}


@pytest.fixture
def bfloat16_policy():
  before = tf.keras.mixed_precision.global_policy()
  tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
  yield
  tf.keras.mixed_precision.set_global_policy(before)


@pytest.mark.parametrize("channels", [24, 128])
def test_a_block_has_the_values_of_plain_kernels(channels, bfloat16_policy):
  layers = _layers(channels)
  x = _random([2, 31, 4, channels], 1)
  for layer in layers:
    layer(x)
  layers[1].scale.assign(tf.ones([channels]))
  ours, types = _trained(layers, x, jit_compile=True)
  assert "DepthwiseConv2dNative" not in types
  with _plain_kernels():
    plain, types = _trained(layers, x, jit_compile=True)
  assert "DepthwiseConv2dNative" in types
  for a, e in zip(ours, plain):
    a, e = (np.float32(tf.cast(v, tf.float32)) for v in (a, e))
    np.testing.assert_allclose(a, e, rtol=0, atol=4e-2 * np.abs(e).max())


def _engine(dtype, training, jit_compile):
  """Returns what is chosen while a function is traced."""
  seen = []
  tf.function(
    lambda: seen.append(choice.engine(tf.zeros([2, 3], dtype), training)),
    autograph=False,
    jit_compile=jit_compile,
  ).get_concrete_function()
  return seen[0]


@pytest.mark.parametrize(
  ("dtype", "training", "jit_compile", "expected"),
  [
    (tf.bfloat16, True, True, "tpu"),
    (tf.bfloat16, False, True, "tpu"),
    (tf.float32, True, True, "reference"),
    (tf.bfloat16, True, False, "cpu"),
    (tf.float32, True, False, "cpu"),
    (tf.bfloat16, False, False, "inference"),
  ],
)
def test_the_engine_is_chosen_by_where_the_graph_will_run(
  dtype, training, jit_compile, expected
):
  assert _engine(dtype, training, jit_compile) == expected


def test_eagerly_kernels_are_plain():
  assert choice.engine(tf.zeros([2], tf.bfloat16), True) == "reference"


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_reference_kernels_are_plain_everywhere(training, jit_compile):
  with _plain_kernels():
    assert _engine(tf.bfloat16, training, jit_compile) == "reference"


def test_there_is_no_other_engine():
  with pytest.raises(UserError, match="kernels.engine is 'fast': allowed are"):
    choice.engine(tf.zeros([2]), True, engine="fast")


def test_unknown_lengths_have_plain_kernels():
  @tf.function(jit_compile=True)
  def convolved(x):
    kernel = tf.ones([7, 7, 8, 1], tf.bfloat16)
    return ops.depthwise_conv2d(x, kernel, 1, training=False)

  graph = convolved.get_concrete_function(
    tf.TensorSpec([2, None, 4, 8], tf.bfloat16)
  ).graph
  types = {op.type for op in graph.get_operations()}
  assert "DepthwiseConv2dNative" in types


@pytest.mark.parametrize("width", [8, 16])
def test_a_convolution_and_its_norm(width):
  shape = [4, 31, 4, width]
  # Means as far from zero as those of a residual stream.
  x = _random(shape, 1) + tf.cast(tf.linspace(-2.0, 2.0, width), tf.bfloat16)
  kernel = _random([1, 1, width, 6 * width], 2)
  gamma, beta = (
    tf.random.stateless_normal([6 * width], [seed, 0]) for seed in (4, 5)
  )
  inputs = [x, kernel, gamma, beta]
  assert tpu.has_conv_norm(x, kernel, 1)

  def plain(x, kernel, gamma, beta):
    z = tf.nn.conv2d(x, kernel, 1, "SAME")
    mean, variance = tf.nn.moments(z, [0, 1, 2])
    return tf.nn.batch_normalization(z, mean, variance, beta, gamma, 1e-3)

  _compare(lambda *inputs: tpu.conv_norm(*inputs, 1e-3)[0], plain, inputs)


def test_statistics_are_recorded_as_kerass(bfloat16_policy):
  x = 3 + 2 * _random([4, 31, 4, 8], 1)
  layers = []
  for _ in range(2):
    conv = layers_lib.Conv2D(48, 1, padding="same", use_bias=False)
    layer = layers_lib.ConvNorm(conv, momentum=0.9, epsilon=1e-3)
    layer(x)
    layers.append(layer)
  layers[1].set_weights(layers[0].get_weights())
  (ours, _), (plain, _) = (
    _trained([layer], x, jit_compile)
    for layer, jit_compile in zip(layers, (True, False))
  )
  for a, e in zip(layers[0].weights, layers[1].weights):
    np.testing.assert_allclose(a, e, rtol=2e-3, atol=2e-3)
  assert np.abs(layers[0].norm.moving_mean).max() > 0.1
