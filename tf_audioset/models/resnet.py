# SPDX-License-Identifier: Apache-2.0
"""ResNet 18, 34, 50, 101, 152 and 200.

Reference: He et al., "Deep Residual Learning for Image Recognition", 2016;
200 from "Identity Mappings in Deep Residual Networks", 2016. The stride of a
bottleneck is in its 3x3 convolution ("v1.5"), as in torchvision.
"""

from __future__ import annotations

import gin
import tensorflow as tf

from tf_audioset.kernels import ops
from tf_audioset.models import layers
from tf_audioset.runtime.errors import UserError

# Blocks in the four stages, and whether they are bottlenecks.
_STAGES = {
  18: ((2, 2, 2, 2), False),
  34: ((3, 4, 6, 3), False),
  50: ((3, 4, 6, 3), True),
  101: ((3, 4, 23, 3), True),
  152: ((3, 8, 36, 3), True),
  200: ((3, 24, 36, 3), True),
}
# Of stem, pool and the last three stages, 2 each.
_FRAME_STRIDE = 32
# A bottleneck widens its output by this.
_EXPANSION = 4


@gin.register
class ResNet(layers.Backbone):
  """Features to embedding."""

  def __init__(
    self,
    depth: int = 18,
    width: int = 64,
    batch_norm_momentum: float = 0.9,
    batch_norm_epsilon: float = 1e-5,
  ):
    """Builds the layers.

    Args:
      depth: 18, 34, 50, 101, 152 or 200.
      width: Channels of the stem and of the first stage; each later stage has
        twice those of the one before.
      batch_norm_momentum: Share of the old running statistics that stays.
      batch_norm_epsilon: Added to the variance.

    Raises:
      UserError: If there is no such depth.
    """
    super().__init__(
      "resnet",
      depth=depth,
      width=width,
      batch_norm_momentum=batch_norm_momentum,
      batch_norm_epsilon=batch_norm_epsilon,
    )
    if depth not in _STAGES:
      raise UserError(f"ResNet.depth is {depth}; allowed are {[*_STAGES]}.")
    blocks_a_stage, bottleneck = _STAGES[depth]
    norm = dict(momentum=batch_norm_momentum, epsilon=batch_norm_epsilon)
    self.stem = _conv_norm(width, 7, 2, norm, padding="valid")
    self._pool = tf.keras.layers.MaxPool2D(3, 2, padding="same")
    self.blocks_a_stage = tuple(blocks_a_stage)
    self.blocks = []
    in_channels = width
    for stage, num_blocks in enumerate(blocks_a_stage):
      for i in range(num_blocks):
        stride = 2 if stage and not i else 1
        block = _Block(width << stage, stride, in_channels, bottleneck, norm)
        in_channels = block.out_channels
        self.blocks.append(block)
    self.embedding_size = in_channels
    self.frame_stride = _FRAME_STRIDE

  def call(
    self,
    features: tf.Tensor,
    training: bool = False,
    seed: tf.Tensor | None = None,
    pool: layers.Pool = ops.mean,
  ) -> tf.Tensor:
    """Computes the embedding.

    Args:
      features: float [batch, num_frames, num_bands, channels].
      training: Whether batch norm uses, and records, the batch's statistics.
      seed: Not used: nothing here is random.
      pool: Takes the last feature map, in place of its mean.

    Returns:
      float [batch, embedding_size], averaged over time and bands; or what
      `pool` returns.
    """
    del seed
    # The reference pads 3 on each side here; elsewhere "same" is its padding.
    x = tf.pad(features, [[0, 0], [3, 3], [3, 3], [0, 0]])
    x = tf.nn.relu(self.stem(x, training=training))
    x = self._pool(x)
    for block in self.blocks:
      x = block(x, training=training)
    return pool(x)


class _Block(tf.keras.layers.Layer):
  """Two 3x3 convolutions, or 1x1, 3x3, 1x1, around a shortcut."""

  def __init__(self, channels, stride, in_channels, bottleneck, norm):
    super().__init__()
    self.out_channels = channels * (_EXPANSION if bottleneck else 1)
    if bottleneck:
      self.convs = [
        _conv_norm(channels, 1, 1, norm),
        _conv_norm(channels, 3, stride, norm),
        _conv_norm(self.out_channels, 1, 1, norm),
      ]
    else:
      self.convs = [
        _conv_norm(channels, 3, stride, norm),
        _conv_norm(channels, 3, 1, norm),
      ]
    self.projection = None
    if stride != 1 or in_channels != self.out_channels:
      self.projection = _conv_norm(self.out_channels, 1, stride, norm)

  def call(self, x, training=False):
    shortcut = x
    if self.projection is not None:
      shortcut = self.projection(x, training=training)
    *first, last = self.convs
    for conv in first:
      x = tf.nn.relu(conv(x, training=training))
    return tf.nn.relu(last(x, training=training) + shortcut)


def _conv_norm(channels, size, stride, norm, padding="same"):
  conv = layers.Conv2D(
    channels,
    size,
    stride,
    padding=padding,
    use_bias=False,
    # He et al., "Delving Deep into Rectifiers", 2015, by the fan-out.
    kernel_initializer=tf.keras.initializers.VarianceScaling(
      2.0, "fan_out", "untruncated_normal"
    ),
  )
  return layers.ConvNorm(conv, **norm)
