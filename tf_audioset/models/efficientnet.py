# SPDX-License-Identifier: Apache-2.0
"""EfficientNet B0 to B7.

Reference: Tan and Le, "EfficientNet: Rethinking Model Scaling for
Convolutional Neural Networks", 2019.
"""

from __future__ import annotations

import math

import gin
import tensorflow as tf

from tf_audioset.kernels import ops
from tf_audioset.models import layers, stochastic
from tf_audioset.runtime import gin_config
from tf_audioset.runtime.errors import UserError

# Width and depth multipliers: table 8 of the authors' code, section 3.3.
_VARIANTS = {
  "b0": (1.0, 1.0),
  "b1": (1.0, 1.1),
  "b2": (1.1, 1.2),
  "b3": (1.2, 1.4),
  "b4": (1.4, 1.8),
  "b5": (1.6, 2.2),
  "b6": (1.8, 2.6),
  "b7": (2.0, 3.1),
}
# Of B0, table 1: expansion, kernel size, stride, output channels, blocks.
_STAGES = (
  (1, 3, 1, 16, 1),
  (6, 3, 2, 24, 2),
  (6, 5, 2, 40, 2),
  (6, 3, 2, 80, 3),
  (6, 5, 1, 112, 3),
  (6, 5, 2, 192, 4),
  (6, 3, 1, 320, 1),
)
_STEM_CHANNELS = 32
_STEM_STRIDE = 2
_HEAD_CHANNELS = 1280
# Squeeze-and-excitation squeezes to this share of the block's input.
_SQUEEZE = 0.25


@gin.register
class EfficientNet(layers.Backbone):
  """Features to embedding."""

  def __init__(
    self,
    variant: str = "b0",
    stochastic_depth_rate: float = 0.2,
    se_bias: bool = True,
    batch_norm_momentum: float = 0.9,
    batch_norm_epsilon: float = 1e-5,
  ):
    """Builds the layers.

    Args:
      variant: "b0" to "b7".
      stochastic_depth_rate: Rates are on a line that begins with 0 at the first
        block and would reach this one block after the last, as the authors'.
      se_bias: Whether the squeeze-and-excitation convolutions have a bias.
      batch_norm_momentum: Share of the old running statistics that stays.
      batch_norm_epsilon: Added to the variance.

    Raises:
      UserError: If there is no such variant, or the rate is not in [0, 1).
    """
    super().__init__(
      "efficientnet",
      variant=variant,
      stochastic_depth_rate=stochastic_depth_rate,
      se_bias=se_bias,
      batch_norm_momentum=batch_norm_momentum,
      batch_norm_epsilon=batch_norm_epsilon,
    )
    if variant not in _VARIANTS:
      raise UserError(
        f"EfficientNet.variant is {variant!r}; allowed are {[*_VARIANTS]}."
      )
    width, depth = _VARIANTS[variant]
    norm = dict(momentum=batch_norm_momentum, epsilon=batch_norm_epsilon)
    in_channels = _round_channels(_STEM_CHANNELS * width)
    self.stem = _conv_norm(in_channels, 3, _STEM_STRIDE, norm)
    self.blocks_a_stage = tuple(
      math.ceil(num_blocks * depth) for *_, num_blocks in _STAGES
    )
    self.blocks = []
    for (expansion, size, stride, channels, _), num_blocks in zip(
      _STAGES, self.blocks_a_stage
    ):
      channels = _round_channels(channels * width)
      for i in range(num_blocks):
        self.blocks.append(
          _Block(
            in_channels,
            channels,
            expansion,
            size,
            1 if i else stride,
            se_bias,
            norm,
          )
        )
        in_channels = channels
    gin_config.check_share(
      "EfficientNet.stochastic_depth_rate", stochastic_depth_rate
    )
    self._drop_rates = [
      stochastic_depth_rate * i / len(self.blocks)
      for i in range(len(self.blocks))
    ]
    self.embedding_size = _round_channels(_HEAD_CHANNELS * width)
    self.frame_stride = _STEM_STRIDE * math.prod(s for _, _, s, _, _ in _STAGES)
    self.head = _conv_norm(self.embedding_size, 1, 1, norm)

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
      training: Whether batch norm uses, and records, the batch's statistics,
        and blocks are dropped.
      seed: int32 [2], of stochastic depth.
      pool: Takes the last feature map, in place of its mean.

    Returns:
      float [batch, embedding_size], averaged over time and bands; or what
      `pool` returns.

    Raises:
      UserError: If blocks are to be dropped without a seed.
    """
    drop = stochastic.depth(self._drop_rates, features, seed, training=training)
    x = ops.silu(self.stem(features, training=training), training=training)
    for number, block in enumerate(self.blocks):
      branch = block(x, training=training)
      if block.has_shortcut:
        branch = drop(branch, number) + x
      x = branch
    x = ops.silu(self.head(x, training=training), training=training)
    return pool(x)


class _Block(tf.keras.layers.Layer):
  """The branch of a mobile inverted bottleneck: expand, depthwise, project."""

  def __init__(
    self, in_channels, channels, expansion, size, stride, se_bias, norm
  ):
    super().__init__()
    inner = in_channels * expansion
    self.has_shortcut = stride == 1 and in_channels == channels
    self.expand = None
    if expansion != 1:
      self.expand = _conv_norm(inner, 1, 1, norm)
    conv = layers.DepthwiseConv2D(
      size,
      stride,
      padding="same",
      use_bias=False,
      depthwise_initializer=_initializer(),
    )
    self.depthwise = layers.ConvNorm(conv, **norm)
    squeezed = max(1, int(in_channels * _SQUEEZE))
    self.squeeze = _conv(squeezed, 1, 1, use_bias=se_bias)
    self.excite = _conv(inner, 1, 1, use_bias=se_bias)
    self.project = _conv_norm(channels, 1, 1, norm)

  def call(self, x, training=False):
    if self.expand is not None:
      x = ops.silu(self.expand(x, training=training), training=training)
    x = self.depthwise(x, training=training)
    x = ops.gated_silu(x, self._gate, training=training)
    return self.project(x, training=training)

  def _gate(self, mean):
    return tf.sigmoid(self.excite(tf.nn.silu(self.squeeze(mean))))


def _round_channels(channels: float) -> int:
  """Returns the nearest multiple of 8 of at least 90 % of `channels`."""
  rounded = max(8, int(channels + 4) // 8 * 8)
  return rounded if rounded >= 0.9 * channels else rounded + 8


def _conv(channels, size, stride, use_bias):
  return layers.Conv2D(
    channels,
    size,
    stride,
    padding="same",
    use_bias=use_bias,
    kernel_initializer=_initializer(),
  )


def _conv_norm(channels, size, stride, norm):
  return layers.ConvNorm(_conv(channels, size, stride, use_bias=False), **norm)


def _initializer():
  return tf.keras.initializers.VarianceScaling(
    2.0, "fan_out", "truncated_normal"
  )
