# SPDX-License-Identifier: Apache-2.0
"""ConvNeXt Tiny, Small, Base, Large and XLarge.

Reference: Liu et al., "A ConvNet for the 2020s", 2022.
"""

from __future__ import annotations

import gin
import tensorflow as tf

from tf_audioset.kernels import ops
from tf_audioset.models import layers, stochastic
from tf_audioset.runtime import gin_config
from tf_audioset.runtime.errors import UserError

# Blocks and channels of the four stages: section 3.1 of the paper.
_VARIANTS = {
  "tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
  "small": ((3, 3, 27, 3), (96, 192, 384, 768)),
  "base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
  "large": ((3, 3, 27, 3), (192, 384, 768, 1536)),
  "xlarge": ((3, 3, 27, 3), (256, 512, 1024, 2048)),
}
_LAYER_SCALE = 1e-6
_STEM_STRIDE = 4


@gin.register
class ConvNeXt(layers.Backbone):
  """Features to embedding."""

  # In run.json: earlier versions padded, so that their weights are for others.
  kind = "ConvNeXt without padding"

  def __init__(
    self,
    variant: str = "tiny",
    stochastic_depth_rate: float = 0.1,
    final_norm: bool = True,
    approximate_gelu: bool = False,
  ):
    """Builds the layers.

    Args:
      variant: "tiny", "small", "base", "large" or "xlarge".
      stochastic_depth_rate: Rate of the last block; the first has 0, and those
        between are on a line.
      final_norm: Whether a layer norm follows the pooling (audax has none).
      approximate_gelu: The tanh approximation of GELU (audax) or the exact.

    Raises:
      UserError: If there is no such variant, or the rate is not in [0, 1).
    """
    super().__init__(
      "convnext",
      variant=variant,
      stochastic_depth_rate=stochastic_depth_rate,
      final_norm=final_norm,
      approximate_gelu=approximate_gelu,
    )
    if variant not in _VARIANTS:
      raise UserError(
        f"ConvNeXt.variant is {variant!r}; allowed are {[*_VARIANTS]}."
      )
    blocks_a_stage, channels_a_stage = _VARIANTS[variant]
    self.stages = []
    for stage, (num_blocks, channels) in enumerate(
      zip(blocks_a_stage, channels_a_stage)
    ):
      # The stem reduces by 4, then norms; the later reductions norm first.
      reduction = [
        _reducing_conv(channels, 2 if stage else _STEM_STRIDE),
        _layer_norm(),
      ]
      if stage:
        reduction.reverse()
      blocks = [_Block(channels, approximate_gelu) for _ in range(num_blocks)]
      self.stages.append((reduction, blocks))
    gin_config.check_share(
      "ConvNeXt.stochastic_depth_rate", stochastic_depth_rate
    )
    num_blocks = sum(blocks_a_stage)
    self._drop_rates = [
      stochastic_depth_rate * i / (num_blocks - 1) for i in range(num_blocks)
    ]
    self.norm = _layer_norm() if final_norm else None
    self.embedding_size = channels_a_stage[-1]
    # Fewer frames or bands would leave nothing: reductions do not pad.
    self.min_size = _STEM_STRIDE * 2 ** (len(channels_a_stage) - 1)
    self.frame_stride = self.min_size

  def call(
    self,
    features: tf.Tensor,
    training: bool = False,
    seed: tf.Tensor | None = None,
    pool: layers.Pool = ops.mean,
  ) -> tf.Tensor:
    """Computes the embedding.

    Args:
      features: float [batch, num_frames, num_bands, channels], at least
        `min_size` frames and bands. Where a graph is made for any number of
        frames, its caller has to see to that, as exports do, which pad.
      training: Whether blocks are dropped.
      seed: int32 [2], of stochastic depth.
      pool: Takes the last feature map, in place of its mean. The final norm
        follows it.

    Returns:
      float [batch, embedding_size], averaged over time and bands; or of the
      shape that `pool` returns.

    Raises:
      UserError: If there are too few frames or bands, or blocks are to be
        dropped without a seed.
    """
    _, num_frames, num_bands, _ = features.shape
    for size in (num_frames, num_bands):
      if size is not None and size < self.min_size:
        raise UserError(
          f"ConvNeXt takes at least {self.min_size} frames and "
          f"{self.min_size} bands; these are {num_frames} frames and "
          f"{num_bands} bands. Pipeline.crop_seconds sets the number of "
          "frames, LogMel.num_mels that of bands."
        )
    drop = stochastic.depth(self._drop_rates, features, seed, training=training)
    x = features
    number = 0
    for reduction, blocks in self.stages:
      for part in reduction:
        x = part(x, training=training)
      for block in blocks:
        x += drop(block(x, training=training), number)
        number += 1
    x = pool(x)
    return x if self.norm is None else self.norm(x, training=training)


class _Block(layers.Layer):
  """The branch of a block: depthwise 7x7, norm, widen, GELU, narrow, scale."""

  def __init__(self, channels, approximate_gelu):
    super().__init__()
    self._channels = channels
    # Not a grouped Conv2D, which on a CPU is 20 times slower.
    self.depthwise = layers.DepthwiseConv2D(
      7, padding="same", depthwise_initializer=_initializer()
    )
    self.norm = _layer_norm()
    self.widen = layers.Dense(
      4 * channels,
      gelu="tanh" if approximate_gelu else "exact",
      kernel_initializer=_initializer(),
    )
    self.narrow = layers.Dense(channels, kernel_initializer=_initializer())

  def build(self, input_shape):
    self.scale = self.add_weight(
      name="layer_scale",
      shape=[self._channels],
      initializer=tf.keras.initializers.Constant(_LAYER_SCALE),
    )
    super().build(input_shape)

  def call(self, x, training=False):
    x = self.depthwise(x, training=training)
    x = self.norm(x, training=training)
    x = self.widen(x, training=training)
    x = self.narrow(x, training=training)
    return x if self.scale is None else x * self.cast(self.scale)

  def fold(self):
    """Multiplies the weights of `narrow` by the scale."""
    self.narrow.set_weight("kernel", self.narrow.kernel * self.scale)
    self.narrow.set_weight("bias", self.narrow.bias * self.scale)
    self.scale = None


def _reducing_conv(channels, stride):
  """Takes `stride` frames and bands for one; a rest that is less is left out.

  So do the authors' code, timm, keras.applications and audax.
  """
  return layers.Conv2D(
    channels,
    stride,
    stride,
    padding="valid",
    kernel_initializer=_initializer(),
  )


def _layer_norm():
  return layers.LayerNorm(epsilon=1e-6)


def _initializer():
  return tf.keras.initializers.TruncatedNormal(stddev=0.02)
