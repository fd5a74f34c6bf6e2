# SPDX-License-Identifier: Apache-2.0
"""Depthwise convolutions as products against TensorFlow's own."""

import numpy as np
import pytest
import tensorflow as tf

from tf_audioset.models import depthwise


def _tensorflows(x, kernel):
  return tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "SAME")


def _value_and_gradients(function, x, kernel, upstream):
  with tf.GradientTape() as tape:
    tape.watch([x, kernel])
    y = function(x, kernel)
  return y, *tape.gradient(y, [x, kernel], upstream)


@pytest.mark.parametrize("size", [3, 7])
@pytest.mark.parametrize(
  ("num_frames", "num_bands"),
  # Several tiles, the last in part; one; fewer frames than the kernel has.
  [(40, 16), (63, 8), (32, 4), (16, 2), (5, 2), (1, 1), (9, 130)],
)
def test_value_and_gradients(num_frames, num_bands, size):
  shape = [2, num_frames, num_bands, 3]
  x, upstream = (
    tf.random.stateless_normal(shape, [seed, 0]) for seed in (1, 2)
  )
  kernel = tf.random.stateless_normal([size, size, 3, 1], [3, 0])
  ours, theirs = (
    _value_and_gradients(function, x, kernel, upstream)
    for function in (depthwise.by_products, _tensorflows)
  )
  for our, their in zip(ours, theirs):
    limit = 1e-6 * np.abs(their).max()
    np.testing.assert_allclose(our, their, rtol=1e-4, atol=limit)


@pytest.mark.parametrize(
  ("dtype", "size", "stride", "compiled", "is_product"),
  [
    ("bfloat16", 5, 1, True, True),
    ("bfloat16", 3, 1, True, False),
    ("bfloat16", 5, 2, True, False),
    ("bfloat16", 5, 1, False, False),
    ("float32", 5, 1, True, False),
  ],
)
def test_large_ones_are_products_in_bfloat16_under_xla(
  dtype, size, stride, compiled, is_product
):
  layer = depthwise.DepthwiseConv2D(size, stride, padding="same", dtype=dtype)
  x = tf.random.stateless_normal([2, 40, 8, 16], [1, 2])
  expected = layer(tf.cast(x, dtype))
  function = tf.function(layer, jit_compile=compiled)
  actual = function(tf.cast(x, dtype))
  graph = function.get_concrete_function(tf.cast(x, dtype)).graph
  types = {op.type for op in graph.get_operations()}
  assert ("DepthwiseConv2dNative" not in types) == is_product
  np.testing.assert_allclose(
    tf.cast(actual, tf.float32), tf.cast(expected, tf.float32), atol=2e-2
  )
