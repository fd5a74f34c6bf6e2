# SPDX-License-Identifier: Apache-2.0
"""Embedding to logits, where that is more than one dense layer."""

from __future__ import annotations

import gin
import tensorflow as tf


@gin.register
class NormHead(tf.keras.layers.Layer):
  """A layer norm and a dense layer: CED's head."""

  def __init__(self, epsilon: float = 1e-5):
    """Builds the layer norm; the dense layer needs the number of classes.

    Args:
      epsilon: Added to the layer norm's variance.
    """
    # The loss needs float32, whatever the policy.
    super().__init__(dtype=tf.float32)
    self.units = None  # Set by the tagger, before the head is built.
    self.norm = tf.keras.layers.LayerNormalization(
      epsilon=epsilon, dtype=tf.float32
    )

  def build(self, input_shape):
    self.dense = tf.keras.layers.Dense(self.units, dtype=tf.float32)
    super().build(input_shape)

  def call(self, embedding: tf.Tensor) -> tf.Tensor:
    """Computes the logits.

    Args:
      embedding: float32 [batch, embedding_size].

    Returns:
      float32 [batch, units].
    """
    return self.dense(self.norm(embedding))
