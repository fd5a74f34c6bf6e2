# SPDX-License-Identifier: Apache-2.0
"""The loss of each example; the trainer averages over the global batch."""

from __future__ import annotations

import tensorflow as tf


def sigmoid_cross_entropy(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
  """Binary cross-entropy, averaged over classes.

  Args:
    targets: float32 [batch, num_classes] in [0, 1]; Mixup makes them soft.
    logits: float32 [batch, num_classes].

  Returns:
    float32 [batch].
  """
  return tf.reduce_mean(
    tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=logits),
    axis=-1,
  )
