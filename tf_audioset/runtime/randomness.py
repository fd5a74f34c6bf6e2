# SPDX-License-Identifier: Apache-2.0
"""Stateless random numbers, the same on every device and under XLA.

TensorFlow's default algorithm depends on the device, and XLA turns the same
random bits into other floats than the kernels do; Philox's bits are the same
everywhere, and the floats are made from them here. Seeds are integer tensors
of shape [2].

Reference: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def uniform(shape: Sequence[int] | tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
  """Draws float32 of `shape`, uniform on the multiples of 2**-24 in [0, 1)."""
  upper_24_bits = tf.bitwise.bitwise_and(
    tf.bitwise.right_shift(bits(shape, seed), 8), 0xFFFFFF
  )
  return tf.cast(upper_24_bits, tf.float32) * 2.0**-24


def bits(shape: Sequence[int] | tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
  """Draws int32 of `shape`, uniform on all 2**32 values."""
  return tf.random.stateless_uniform(
    shape, seed, None, None, tf.int32, alg="philox"
  )


def split(seed: tf.Tensor, num: int) -> list[tf.Tensor]:
  """Makes `num` seeds whose streams are independent."""
  return tf.unstack(
    tf.random.experimental.stateless_split(seed, num, alg="philox")
  )


def fold_in(seed: tf.Tensor, number: int | tf.Tensor) -> tf.Tensor:
  """Makes a seed from a seed and an integer (a replica, a layer)."""
  return tf.random.experimental.stateless_fold_in(seed, number, alg="philox")
