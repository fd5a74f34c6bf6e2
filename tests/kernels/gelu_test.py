# SPDX-License-Identifier: Apache-2.0
"""GELU against SciPy's distribution function in float64."""

import numpy as np
import tensorflow as tf
from scipy import special

from tf_audioset.kernels import ops


def _gelu(x):
  return ops.gelu(x, "exact", training=True)


def _value_and_gradient(function, x):
  with tf.GradientTape() as tape:
    tape.watch(x)
    y = function(x)
  return y, tape.gradient(y, x)


def _as_on_tpu(function, x):
  """Of bfloat16, compiled by XLA: float64."""
  compiled = tf.function(_value_and_gradient, jit_compile=True)
  return [
    tf.cast(result, tf.float64).numpy() for result in compiled(function, x)
  ]


def _exact(x):
  distribution = special.ndtr(x)
  density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
  return x * distribution, distribution + x * density


def _every_bfloat16():
  bits = tf.constant(np.arange(1 << 16, dtype=np.uint16))
  x = tf.bitcast(bits, tf.bfloat16)
  return x[tf.math.is_finite(x)]


def test_every_bfloat16_is_right_to_half_of_its_last_bit():
  x = _every_bfloat16()
  wide = tf.cast(x, tf.float64).numpy()
  common = (np.abs(wide) > 1e-3) & (np.abs(wide) < 3)
  for ours, theirs, exact, fitted in zip(
    _as_on_tpu(_gelu, x),
    _as_on_tpu(tf.nn.gelu, x),
    _exact(wide),
    (3.2e-6, 8e-6),
  ):
    assert (np.abs(ours - exact) <= np.abs(exact) * 2**-8 + fitted).all()
    rounded = tf.cast(tf.cast(exact, tf.bfloat16), tf.float64).numpy()
    assert np.mean((ours != rounded)[common]) < 0.001
    assert np.mean((theirs != rounded)[common]) > 0.25


def test_the_tails():
  x = tf.constant([8, 1e4, 1e38, -8, -1e4, -1e38, 0], tf.bfloat16)
  y, gradient = _as_on_tpu(_gelu, x)
  np.testing.assert_array_equal(y[:3], tf.cast(x[:3], tf.float64))
  np.testing.assert_allclose(y[3:], 0.0, atol=1e-12)
  np.testing.assert_allclose(gradient, [1, 1, 1, 0, 0, 0, 0.5], atol=1e-12)


def test_what_is_not_finite_stays_so():
  x = tf.constant([np.nan, np.inf], tf.bfloat16)
  y, gradient = _as_on_tpu(_gelu, x)
  assert np.isnan(y[0]) and np.isnan(gradient[0])
  assert y[1] == np.inf


def test_elsewhere_it_is_that_of_tensorflow():
  x = tf.linspace(-4.0, 4.0, 100)
  both = tf.function(_value_and_gradient, jit_compile=True)
  for ours, theirs in zip(both(_gelu, x), both(tf.nn.gelu, x)):
    np.testing.assert_array_equal(ours, theirs)
