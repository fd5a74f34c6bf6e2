# SPDX-License-Identifier: Apache-2.0
"""The mean over time and bands."""

from __future__ import annotations

import tensorflow as tf


def mean(x: tf.Tensor, *, keepdims: bool = False) -> tf.Tensor:
  """Averages in float32: in bfloat16 a sum of thousands loses most of them.

  Args:
    x: float [batch, num_frames, num_bands, channels].
    keepdims: Whether the averaged axes stay, with length 1.

  Returns:
    [batch, channels] or [batch, 1, 1, channels], of the type of `x`.
  """
  result = tf.reduce_mean(
    tf.cast(x, tf.float32), axis=[1, 2], keepdims=keepdims
  )
  return tf.cast(result, x.dtype)
