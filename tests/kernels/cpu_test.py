# SPDX-License-Identifier: Apache-2.0
"""The CPU's own ways have TensorFlow's values and gradients, and only there."""

import numpy as np
import pytest
import tensorflow as tf

from tf_audioset.kernels import cpu, ops
from tf_audioset.models import layers as layers_lib

# Sums of bfloat16 products, rounded to bfloat16 (8 bits).
_TOLERANCES = {"float32": 1e-5, "bfloat16": 2e-2}


def _gradients(function, x, *variables):
  with tf.GradientTape() as tape:
    tape.watch(x)
    y = function(x)
    # Not the same everywhere, so that a tap out of its place is seen.
    weights = tf.random.stateless_normal(y.shape, [3, 4])
    loss = tf.reduce_sum(tf.cast(y, tf.float32) * weights)
  return tape.gradient(loss, [x, *variables])


def _assert_close(actual, expected, tolerance):
  for a, e in zip(actual, expected):
    a, e = (np.asarray(tf.cast(x, tf.float64)) for x in (a, e))
    np.testing.assert_allclose(a, e, atol=tolerance * np.abs(e).max(), rtol=0)


def _compare(layer, reference, shape, dtype):
  """Gradients of ours in a graph; of Keras's in float32, of the same values."""
  x = tf.cast(tf.random.stateless_normal(shape, [1, 2]), dtype)
  layer.build(shape)
  reference.build(shape)
  for ours, theirs in zip(layer.weights, reference.weights):
    ours.assign(tf.cast(tf.cast(ours, dtype), tf.float32))
    theirs.assign(ours)
  ours = tf.function(
    lambda x: _gradients(lambda x: layer(x, training=True), x, *layer.weights)
  )
  expected = _gradients(reference, tf.cast(x, tf.float32), *reference.weights)
  _assert_close(ours(x), expected, _TOLERANCES[dtype])
  return ours.get_concrete_function(x).graph


@pytest.mark.parametrize(
  ("width", "padding"), [(4, "same"), (4, "valid"), (2, "same")]
)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_convolution(size, stride, width, padding):
  arguments = dict(filters=136, kernel_size=size, strides=stride)
  graph = _compare(
    layers_lib.Conv2D(**arguments, padding=padding, dtype="mixed_bfloat16"),
    tf.keras.layers.Conv2D(**arguments, padding=padding),
    [2, 7, width, 128],
    "bfloat16",
  )
  assert "Conv2DBackpropFilter" not in {
    op.type for op in graph.get_operations()
  }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("size", "stride"), [(7, 1), (5, 1), (5, 2), (3, 2)])
def test_depthwise_convolution(size, stride, dtype):
  arguments = dict(kernel_size=size, strides=stride, padding="same")
  policy = "mixed_bfloat16" if dtype == "bfloat16" else "float32"
  graph = _compare(
    layers_lib.DepthwiseConv2D(**arguments, dtype=policy),
    tf.keras.layers.DepthwiseConv2D(**arguments),
    [2, 13, 6, 24],
    dtype,
  )
  (gradient,) = (
    op
    for op in graph.get_operations()
    if op.type == "DepthwiseConv2dNativeBackpropFilter"
  )
  assert gradient.get_attr("padding") == b"EXPLICIT"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("function", [tf.nn.gelu, tf.nn.silu])
def test_elementwise(function, dtype):
  x = tf.cast(tf.linspace(-8.0, 8.0, 301), dtype)
  ours = tf.function(
    lambda x: _gradients(lambda x: cpu.elementwise(function, x), x)
  )
  expected = _gradients(function, tf.cast(x, tf.float64))
  _assert_close(ours(x), expected, _TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gated(dtype):
  x = tf.cast(tf.random.stateless_normal([2, 7, 5, 3], [1, 2]), dtype)
  kernel = tf.Variable(tf.random.stateless_normal([3, 3], [5, 6]))

  def gate(mean):
    return tf.sigmoid(5 * mean @ tf.cast(kernel, mean.dtype))

  def ours(x):
    return cpu.gated(tf.nn.silu, x, gate)

  def plain(x):
    y = tf.nn.silu(x)
    return y * gate(tf.reduce_mean(y, [1, 2], keepdims=True))

  wide = tf.cast(x, tf.float64)
  actual = tf.function(lambda x: _gradients(ours, x, kernel))(x)
  expected = _gradients(plain, wide, kernel)
  _assert_close(actual, expected, _TOLERANCES[dtype])
  _assert_close([tf.function(ours)(x)], [plain(wide)], _TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_gradient_of_a_bias_is_a_sum_of_thousands(dtype):
  bias = tf.Variable(tf.cast([0.5, -1.0, 2.0], dtype))
  x = tf.cast(tf.random.stateless_normal([2, 400, 10, 3], [1, 2]), dtype)

  def ours(x):
    return cpu.add_bias(x, tf.convert_to_tensor(bias))

  actual = tf.function(lambda x: _gradients(ours, x, bias))(x)
  bias64 = tf.Variable(tf.cast(bias, tf.float64))
  expected = _gradients(lambda x: x + bias64, tf.cast(x, tf.float64), bias64)
  _assert_close(actual, expected, _TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layer_norm(dtype):
  gamma, beta = tf.Variable([0.5, -1.0, 2.0, 1.0]), tf.Variable([0.0, 1, 2, 3])
  # Variances from far below epsilon to far above.
  scale = 10 ** tf.random.stateless_uniform([2, 30, 10, 1], [3, 4], -4.0, 1.0)
  x = scale * (3 + tf.random.stateless_normal([2, 30, 10, 4], [1, 2]))
  x = tf.cast(x, dtype)

  def ours(x):
    return cpu.layer_norm(x, gamma, beta, 1e-3)

  reference = tf.keras.layers.LayerNormalization(dtype="float64")
  reference.build(x.shape)
  reference.set_weights([gamma, beta])
  actual = tf.function(lambda x: _gradients(ours, x, gamma, beta))(x)
  wide = tf.cast(x, tf.float64)
  expected = _gradients(reference, wide, *reference.weights)
  _assert_close(actual, expected, _TOLERANCES[dtype])
  _assert_close([ours(x)], [reference(wide)], _TOLERANCES[dtype])


def _op_types(training, jit_compile):
  layers = [
    layers_lib.Conv2D(
      128, 3, padding="same", use_bias=False, dtype="mixed_bfloat16"
    ),
    layers_lib.DepthwiseConv2D(5, padding="same", use_bias=False),
  ]
  x = tf.zeros([1, 8, 8, 128])
  for layer in layers:
    layer.build(x.shape)

  @tf.function(jit_compile=jit_compile)
  def gradients(x):
    def both(x):
      for layer in layers:
        x = layer(x, training=training)
      return ops.silu(x, training=training)

    return _gradients(both, x)

  graph = gradients.get_concrete_function(x).graph
  return {op.type for op in graph.get_operations()}


@pytest.mark.parametrize(
  ("training", "jit_compile"), [(False, False), (True, True)]
)
def test_elsewhere_they_are_tensorflows_ops(training, jit_compile):
  ours, plain = _op_types(True, False), _op_types(training, jit_compile)
  # What is called is compiled by XLA on its own.
  assert "StatefulPartitionedCall" in ours or "PartitionedCall" in ours
  assert not {"StatefulPartitionedCall", "PartitionedCall"} & plain
  assert "Conv2DBackpropInput" in plain
