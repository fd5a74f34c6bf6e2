# SPDX-License-Identifier: Apache-2.0
"""Dropout and stochastic depth whose randomness is an argument.

Keras's own layers keep a hidden state, which a resumed run cannot repeat.
"""

from __future__ import annotations

import tensorflow as tf

from tf_audioset import randomness


def dropout(x: tf.Tensor, rate: float, seed: tf.Tensor) -> tf.Tensor:
  """Zeroes each element with probability `rate` and scales the others up.

  Args:
    x: Any float tensor.
    rate: In [0, 1).
    seed: int32 [2].

  Returns:
    Like `x`, with the same expectation.

  Reference: Srivastava et al., "Dropout", 2014.
  """
  return _drop(x, rate, seed, tf.shape(x)) if rate else x


def drop_path(
  x: tf.Tensor, rate: float, seed: tf.Tensor, layer: int
) -> tf.Tensor:
  """Zeroes a residual branch of whole examples, and scales the others up.

  Args:
    x: float [batch, ...], the branch before it is added.
    rate: In [0, 1).
    seed: int32 [2].
    layer: Number of the branch; each draws on its own.

  Returns:
    Like `x`, with the same expectation.

  Raises:
    ValueError: If there is a rate but no seed.

  Reference: Huang et al., "Deep Networks with Stochastic Depth", 2016.
  """
  if not rate:
    return x
  if seed is None:
    raise ValueError("stochastic depth in training needs a seed.")
  shape = tf.concat([tf.shape(x)[:1], tf.ones([x.shape.rank - 1], tf.int32)], 0)
  return _drop(x, rate, randomness.fold_in(seed, layer), shape)


def _drop(x, rate, seed, shape):
  keep = randomness.uniform(shape, seed) >= rate
  return tf.where(keep, x / (1.0 - rate), tf.zeros([], x.dtype))
