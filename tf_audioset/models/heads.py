# SPDX-License-Identifier: Apache-2.0
"""The heads: what makes logits of a clip from what the backbone has found.

A head that has to see the backbone's last feature map has a method `pool`,
which the backbone calls in the place of its mean over time and bands. The norm
of a backbone that has one follows. A head with a method `frame_logits` pools
bands alone, and so gets frames. `tagger.HEAD_CONTRACT` has the shapes.
"""

from __future__ import annotations

import gin
import tensorflow as tf

from tf_audioset.runtime import gin_config

# The attention's sigmoid is kept this far from 0 and 1, as PSLA does.
_LEAST_ATTENTION = 1e-7


# The loss needs float32, whatever the policy, so all heads compute in it.
@gin.register
class LinearHead(tf.keras.layers.Dense):
  """One dense layer on the mean over time and bands, the default."""

  def __init__(self):
    """Makes the layer, whose units the tagger sets."""
    super().__init__(1, dtype=tf.float32)


@gin.register
class MeanMaxHead(tf.keras.layers.Layer):
  """A dense layer on mean plus maximum over time of the mean over bands.

  Reference: Kong et al., "PANNs", 2020, whose CNN14 pools so.
  """

  def __init__(self):
    """Makes the head; the dense layer needs the number of classes."""
    super().__init__(dtype=tf.float32)
    self.units = None  # Set by the tagger, before the head is built.

  def build(self, input_shape):
    self.dense = tf.keras.layers.Dense(self.units, dtype=tf.float32)
    super().build(input_shape)

  def pool(self, feature_map: tf.Tensor) -> tf.Tensor:
    """Pools bands, then time.

    Args:
      feature_map: float [batch, out_frames, out_bands, channels].

    Returns:
      [batch, channels] of the same type.
    """
    frames = _mean_over_bands(feature_map)
    pooled = tf.reduce_mean(frames, axis=1) + tf.reduce_max(frames, axis=1)
    return tf.cast(pooled, feature_map.dtype)

  def call(self, embedding: tf.Tensor) -> tf.Tensor:
    """Computes the logits.

    Args:
      embedding: float32 [batch, embedding_size].

    Returns:
      float32 [batch, units].
    """
    return self.dense(embedding)


@gin.register
class AttentionHead(tf.keras.layers.Layer):
  """A mean over time of the logits of frames, weighted class by class.

  Each part gives each frame an attention a = sigmoid(...) and a logit c, and
  the clip the logit sum_t(a c) / sum_t(a). Several parts are added with weights
  that are learned.

  References: Gong et al., "PSLA", 2021, of which the result is a mean of
  probabilities; Schmid et al., "Efficient Large-Scale Audio Tagging via
  Transformer-to-CNN Knowledge Distillation", 2023, whose logits these are.
  """

  def __init__(self, num_heads: int = 1):
    """Makes the head; its layers need the number of classes.

    Args:
      num_heads: The number of parts, at least 1.

    Raises:
      UserError: If there are none.
    """
    super().__init__(dtype=tf.float32)
    gin_config.check_integer("AttentionHead.num_heads", num_heads, 1, None)
    self.units = None  # Set by the tagger, before the head is built.
    self._num_heads = num_heads

  def build(self, input_shape):
    self.part_weights = None
    if self._num_heads > 1:
      self.part_weights = self.add_weight(
        name="part_weights",
        shape=[self._num_heads],
        initializer=tf.keras.initializers.Constant(1 / self._num_heads),
      )
    # PSLA's: He's of one part; of several PyTorch's default, which is smaller.
    scale = 2.0 if self._num_heads == 1 else 1 / 3

    def dense():
      return tf.keras.layers.Dense(
        self.units,
        kernel_initializer=tf.keras.initializers.VarianceScaling(
          scale, "fan_in", "uniform"
        ),
        dtype=tf.float32,
      )

    self.attentions = [dense() for _ in range(self._num_heads)]
    self.classifiers = [dense() for _ in range(self._num_heads)]
    super().build(input_shape)

  def pool(self, feature_map: tf.Tensor) -> tf.Tensor:
    """Averages over bands.

    Args:
      feature_map: float [batch, out_frames, out_bands, channels].

    Returns:
      [batch, out_frames, channels] of the same type.
    """
    return tf.cast(_mean_over_bands(feature_map), feature_map.dtype)

  def call(self, frames: tf.Tensor) -> tf.Tensor:
    """Computes the logits of clips.

    Args:
      frames: float32 [batch, num_frames, embedding_size].

    Returns:
      float32 [batch, units].
    """
    logits = []
    for attend, classify in zip(self.attentions, self.classifiers):
      attention = tf.clip_by_value(
        tf.sigmoid(attend(frames)), _LEAST_ATTENTION, 1 - _LEAST_ATTENTION
      )
      weighted = tf.reduce_sum(attention * classify(frames), axis=1)
      logits.append(weighted / tf.reduce_sum(attention, axis=1))
    return self._added(logits)

  def frame_logits(self, frames: tf.Tensor) -> tf.Tensor:
    """Computes the logits of frames.

    Args:
      frames: As for `call`.

    Returns:
      float32 [batch, num_frames, units].
    """
    return self._added([classify(frames) for classify in self.classifiers])

  def _added(self, logits):
    if self.part_weights is None:
      return logits[0]
    return tf.add_n(
      [w * x for w, x in zip(tf.unstack(self.part_weights), logits)]
    )


def _mean_over_bands(feature_map):
  # In float32: bfloat16 has 8 bits, of which a sum loses some.
  return tf.reduce_mean(tf.cast(feature_map, tf.float32), axis=2)


@gin.register
class NormHead(tf.keras.layers.Layer):
  """A layer norm and a dense layer: CED's head."""

  def __init__(self, epsilon: float = 1e-5):
    """Builds the layer norm; the dense layer needs the number of classes.

    Args:
      epsilon: Added to the layer norm's variance.
    """
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
