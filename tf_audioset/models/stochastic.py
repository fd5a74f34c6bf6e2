# SPDX-License-Identifier: Apache-2.0
"""Dropout and stochastic depth whose randomness is an argument.

Keras's own layers keep a hidden state, which a resumed run cannot repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from tf_audioset.runtime import randomness


def dropout(x: tf.Tensor, rate: float, seed: tf.Tensor) -> tf.Tensor:
  """Zeroes each channel with probability `rate` and scales the others up.

  Args:
    x: float [batch, channels] or [batch, num_frames, channels]; all frames of a
      clip lose the same channels.
    rate: In [0, 1).
    seed: int32 [2].

  Returns:
    Like `x`, with the same expectation.

  Reference: Srivastava et al., "Dropout", 2014.
  """
  if not rate:
    return x
  shape = tf.shape(x)
  if x.shape.rank == 3:
    shape = tf.stack([shape[0], 1, shape[2]])
  return _drop(x, rate, randomness.uniform(shape, seed))


def depth(
  rates: Sequence[float], x: tf.Tensor, seed: tf.Tensor, *, training: bool
) -> Callable[[tf.Tensor, int], tf.Tensor]:
  """Zeroes residual branches of whole examples, and scales the others up.

  Args:
    rates: Of all branches of a model, each in [0, 1).
    x: float [batch, ...], the model's input.
    seed: int32 [2].
    training: Whether anything is dropped.

  Returns:
    A function of a branch, float [batch, ...], before it is added, and its
    number: it gives the like, with the same expectation.

  Raises:
    ValueError: If there is a rate but no seed.

  Reference: Huang et al., "Deep Networks with Stochastic Depth", 2016.
  """
  if not training or not any(rates):
    return lambda branch, _: branch
  if seed is None:
    raise ValueError("stochastic depth in training needs a seed.")
  # For all at once: drawing for each by itself is a tenth of a step's ops.
  draws = randomness.uniform([len(rates), x.shape[0] or tf.shape(x)[0]], seed)

  def drop(branch, number):
    if not rates[number]:
      return branch
    draw = tf.reshape(draws[number], [-1] + [1] * (branch.shape.rank - 1))
    return _drop(branch, rates[number], draw)

  return drop


def _drop(x, rate, draw):
  return tf.where(draw >= rate, x / (1.0 - rate), tf.zeros([], x.dtype))
