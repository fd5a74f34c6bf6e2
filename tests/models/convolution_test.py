# SPDX-License-Identifier: Apache-2.0
"""A convolution that takes its norm with it, against the two one by one."""

import numpy as np
import pytest
import tensorflow as tf

from tf_audioset.models import convolution, depthwise

# Twice the rounding to 24 and to 8 bits of sums of some dozens of products.
_TOLERANCES = {"float32": 1e-5, "mixed_bfloat16": 3e-2}


def _layer(kind, stride, padding, policy):
  arguments = dict(strides=stride, padding=padding, use_bias=False)
  if kind == "depthwise":
    return depthwise.DepthwiseConv2D(3, **arguments, dtype=policy)
  return convolution.Conv2D(16, 3, **arguments, dtype=policy)


@pytest.mark.parametrize("policy", _TOLERANCES)
@pytest.mark.parametrize(
  ("kind", "padding"),
  [("depthwise", "same"), ("full", "same"), ("full", "valid")],
)
@pytest.mark.parametrize("stride", [1, 2])
def test_outside_of_training_it_is_one_with_its_norm(
  kind, stride, padding, policy
):
  layer = _layer(kind, stride, padding, policy)
  norm = tf.keras.layers.BatchNormalization(epsilon=1e-5, dtype=policy)
  x = tf.random.stateless_normal([2, 9, 7, 8], [1, 2])
  first = convolution.normed(layer, norm, x, training=False)
  assert first.dtype == layer.compute_dtype
  rng = np.random.default_rng(0)
  for variable in (norm.gamma, norm.beta, norm.moving_mean):
    variable.assign(rng.uniform(-1, 1, variable.shape))
  # From far below epsilon to far above.
  variances = 10 ** rng.uniform(-8, 0.3, norm.moving_variance.shape)
  norm.moving_variance.assign(variances)

  actual = convolution.normed(layer, norm, x, training=False)
  # In float64, by their definitions.
  x = np.asarray(tf.cast(x, layer.compute_dtype), np.float64)
  if kind == "depthwise":
    kernel = np.float64(layer.depthwise_kernel)
    convolved = tf.nn.depthwise_conv2d(
      x, kernel, [1, stride, stride, 1], padding.upper()
    )
  else:
    kernel = np.float64(layer.kernel)
    convolved = tf.nn.conv2d(x, kernel, stride, padding.upper())
  gamma, beta, mean, variance = map(np.float64, norm.weights)
  expected = gamma * (convolved - mean) / np.sqrt(variance + 1e-5) + beta
  np.testing.assert_allclose(
    np.float64(actual),
    expected,
    rtol=0,
    atol=_TOLERANCES[policy] * np.abs(expected).max(),
  )


def test_in_training_the_norm_is_the_batchs():
  layer = _layer("full", 1, "same", "float32")
  norm = tf.keras.layers.BatchNormalization(momentum=0.75)
  x = tf.random.stateless_normal([4, 9, 7, 8], [1, 2])
  outputs = convolution.normed(layer, norm, x, training=True)
  np.testing.assert_allclose(np.mean(outputs, (0, 1, 2)), 0, atol=1e-5)
  np.testing.assert_allclose(np.std(outputs, (0, 1, 2)), 1, atol=2e-3)
  np.testing.assert_allclose(
    norm.moving_mean, 0.25 * np.mean(layer(x), (0, 1, 2)), rtol=1e-4, atol=1e-6
  )
