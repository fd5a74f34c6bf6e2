# SPDX-License-Identifier: Apache-2.0
"""A convolution and its norm, folded and not, against their definitions."""

import numpy as np
import pytest
import tensorflow as tf

from tf_audioset.models import layers
from tf_audioset.runtime import precision

# Twice the rounding to 24 and to 8 bits of sums of some dozens of products.
_TOLERANCES = {"float32": 1e-5, "mixed_bfloat16": 3e-2}


def _layer(kind, stride, padding, **norm):
  arguments = dict(strides=stride, padding=padding, use_bias=False)
  if kind == "depthwise":
    conv = layers.DepthwiseConv2D(3, **arguments)
  else:
    conv = layers.Conv2D(16, 3, **arguments)
  return layers.ConvNorm(conv, **norm)


@pytest.mark.parametrize("policy", _TOLERANCES)
@pytest.mark.parametrize(
  ("kind", "padding"),
  [("depthwise", "same"), ("full", "same"), ("full", "valid")],
)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("folded", [False, True])
def test_outside_of_training_the_norm_is_the_recorded_one(
  kind, stride, padding, policy, folded
):
  with precision.policy(policy):
    layer = _layer(kind, stride, padding, momentum=0.9, epsilon=1e-5)
  x = tf.random.stateless_normal([2, 9, 7, 8], [1, 2])
  assert layer(x).dtype == layer.compute_dtype
  norm = layer.norm
  rng = np.random.default_rng(0)
  for variable in (norm.gamma, norm.beta, norm.moving_mean):
    variable.assign(rng.uniform(-1, 1, variable.shape))
  # From far below epsilon to far above.
  variances = 10 ** rng.uniform(-8, 0.3, norm.moving_variance.shape)
  norm.moving_variance.assign(variances)
  # In float64, by their definitions.
  wide = np.asarray(tf.cast(x, layer.compute_dtype), np.float64)
  kernel = np.float64(layer.conv.trainable_variables[0])
  if kind == "depthwise":
    convolved = tf.nn.depthwise_conv2d(
      wide, kernel, [1, stride, stride, 1], padding.upper()
    )
  else:
    convolved = tf.nn.conv2d(wide, kernel, stride, padding.upper())
  gamma, beta, mean, variance = map(np.float64, norm.weights)
  expected = gamma * (convolved - mean) / np.sqrt(variance + 1e-5) + beta

  if folded:
    layer.fold()
    layer.conv.fold()
    assert len(layer.variables) == 2
    assert {v.dtype.name for v in layer.variables} == {layer.compute_dtype}
  np.testing.assert_allclose(
    np.float64(layer(tf.cast(x, layer.compute_dtype))),
    expected,
    rtol=0,
    atol=_TOLERANCES[policy] * np.abs(expected).max(),
  )


def test_in_training_the_norm_is_the_batchs():
  layer = _layer("full", 1, "same", momentum=0.75, epsilon=1e-3)
  x = tf.random.stateless_normal([4, 9, 7, 8], [1, 2])
  outputs = layer(x, training=True)
  np.testing.assert_allclose(np.mean(outputs, (0, 1, 2)), 0, atol=1e-5)
  np.testing.assert_allclose(np.std(outputs, (0, 1, 2)), 1, atol=2e-3)
  np.testing.assert_allclose(
    layer.norm.moving_mean,
    0.25 * np.mean(layer.conv(x), (0, 1, 2)),
    rtol=1e-4,
    atol=1e-6,
  )
