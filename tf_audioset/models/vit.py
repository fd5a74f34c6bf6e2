# SPDX-License-Identifier: Apache-2.0
"""The vision transformer of CED: Tiny, Mini, Small and Base.

References: Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021; Dinkel et
al., "CED: Consistent Ensemble Distillation for Audio Tagging", ICASSP 2024.
"""

from __future__ import annotations

import gin
import tensorflow as tf

from tf_audioset.models import layers, stochastic
from tf_audioset.runtime import gin_config
from tf_audioset.runtime.errors import UserError

# Width and number of heads: table 1 of CED.
_VARIANTS = {
  "tiny": (192, 3),
  "mini": (256, 4),
  "small": (384, 6),
  "base": (768, 12),
}
# The MLP's hidden layer is this much wider than the tokens.
_EXPANSION = 4


@gin.register
class ViT(layers.Backbone):
  """Features to embedding: the mean over the tokens of all patches."""

  def __init__(
    self,
    variant: str = "tiny",
    depth: int = 12,
    patch_size: int = 16,
    max_frames: int = 1012,
    stochastic_depth_rate: float = 0.0,
  ):
    """Builds the layers.

    Args:
      variant: "tiny", "mini", "small" or "base".
      depth: Number of blocks.
      patch_size: Frames and bands of a patch; patches do not overlap.
      max_frames: Longer features are cut into chunks of this length. The last
        chunk is filled with zeros.
      stochastic_depth_rate: Rate of the last block; it rises linearly from 0
        in the first.

    Raises:
      UserError: If there is no such variant, there are no blocks, a chunk is
        shorter than a patch, or the rate is not in [0, 1).
    """
    super().__init__(
      "vit",
      variant=variant,
      depth=depth,
      patch_size=patch_size,
      max_frames=max_frames,
      stochastic_depth_rate=stochastic_depth_rate,
    )
    if variant not in _VARIANTS:
      raise UserError(
        f"ViT.variant is {variant!r}; allowed are {[*_VARIANTS]}."
      )
    if depth < 1:
      raise UserError(f"ViT.depth is {depth}; at least 1 is needed.")
    if not 1 <= patch_size <= max_frames:
      raise UserError(
        f"ViT.patch_size is {patch_size}; allowed is 1 to ViT.max_frames, "
        f"{max_frames}."
      )
    gin_config.check_share("ViT.stochastic_depth_rate", stochastic_depth_rate)
    self.embedding_size, num_heads = _VARIANTS[variant]
    self.min_frames = self._patch_size = patch_size
    self._max_frames = max_frames
    # Of both branches of each block.
    self._drop_rates = [
      stochastic_depth_rate * i / max(depth - 1, 1)
      for i in range(depth)
      for _ in range(2)
    ]
    self.patches = layers.Conv2D(self.embedding_size, patch_size, patch_size)
    self.positions = _Positions(max_frames // patch_size)
    self.branches = []
    for _ in range(depth):
      self.branches.append(_Attention(self.embedding_size, num_heads))
      self.branches.append(_MLP(self.embedding_size))
    self.norm = _layer_norm()

  def call(
    self,
    features: tf.Tensor,
    training: bool = False,
    seed: tf.Tensor | None = None,
  ) -> tf.Tensor:
    """Computes the embedding.

    Args:
      features: float [batch, num_frames, num_bands, 1], of any number of
        frames; those of fewer than a patch are filled up with zeros.
      training: Whether blocks are dropped.
      seed: int32 [2], of stochastic depth.

    Returns:
      float [batch, embedding_size].

    Raises:
      UserError: If the features have fewer bands than a patch, or others than
        at the first call, or if blocks are to be dropped without a seed.
    """
    if features.shape[2] < self._patch_size:
      raise UserError(
        f"features of {features.shape[2]} bands: ViT.patch_size is "
        f"{self._patch_size}."
      )
    batch = _size(features, 0)
    x = self.patches(self._chunks(features), training=training)
    x = self.positions(x)
    # [chunks, time, frequency, width] to [chunks, tokens, width].
    x = tf.reshape(x, [-1, _size(x, 1) * x.shape[2], self.embedding_size])
    drop = stochastic.depth(self._drop_rates, x, seed, training=training)
    for number, branch in enumerate(self.branches):
      x += drop(branch(x, training=training), number)
    x = tf.reshape(
      self.norm(x, training=training), [batch, -1, self.embedding_size]
    )
    # In float32: in bfloat16 a sum over thousands loses most of them.
    return tf.cast(tf.reduce_mean(tf.cast(x, tf.float32), axis=1), x.dtype)

  def _chunks(self, features):
    """Cuts [batch, num_frames, ...] to [batch * num_chunks, chunk_frames, ...].

    The chunks of a clip are neighbours in the batch.
    """
    num_frames = _size(features, 1)
    if isinstance(num_frames, int):
      chunk_frames = min(max(num_frames, self.min_frames), self._max_frames)
    else:
      chunk_frames = tf.clip_by_value(
        num_frames, self.min_frames, self._max_frames
      )
    missing = -num_frames % chunk_frames
    features = tf.pad(features, [[0, 0], [0, missing], [0, 0], [0, 0]])
    return tf.reshape(features, [-1, chunk_frames, *features.shape[2:]])


class _Positions(layers.Layer):
  """Adds what is learned for each time and for each frequency."""

  def __init__(self, max_times):
    super().__init__()
    self._max_times = max_times

  def build(self, input_shape):
    _, _, num_frequencies, width = input_shape
    self.time_table, self.frequency_table = (
      self.add_weight(
        name=name, shape=[*shape, width], initializer=_initializer()
      )
      for name, shape in (
        ("time_table", [self._max_times, 1]),
        ("frequency_table", [1, num_frequencies]),
      )
    )
    super().build(input_shape)

  def call(self, x):
    if x.shape[2] != self.frequency_table.shape[1]:
      raise UserError(
        f"features of {x.shape[2]} patches in frequency; this ViT was built "
        f"for {self.frequency_table.shape[1]}."
      )
    times, frequencies = (
      self.cast(table) for table in (self.time_table, self.frequency_table)
    )
    return x + times[: _size(x, 1)] + frequencies


class _Attention(tf.keras.layers.Layer):
  """The first branch of a block: layer norm, multi-head self-attention."""

  def __init__(self, width, num_heads):
    super().__init__()
    self._num_heads = num_heads
    self.norm = _layer_norm()
    self.qkv = _dense(3 * width)
    self.project = _dense(width)

  def call(self, x, training=False):
    batch, num_tokens, width = _size(x, 0), _size(x, 1), x.shape[-1]
    head_width = width // self._num_heads
    qkv = self.qkv(self.norm(x, training=training), training=training)
    qkv = tf.reshape(qkv, [batch, num_tokens, 3, self._num_heads, head_width])
    # Each is [batch, heads, tokens, head_width].
    query, key, value = tf.unstack(tf.transpose(qkv, [2, 0, 3, 1, 4]))
    logits = tf.matmul(query * head_width**-0.5, key, transpose_b=True)
    shares = tf.nn.softmax(tf.cast(logits, tf.float32))
    x = tf.matmul(tf.cast(shares, value.dtype), value)
    x = tf.reshape(tf.transpose(x, [0, 2, 1, 3]), [batch, num_tokens, width])
    return self.project(x, training=training)


class _MLP(tf.keras.layers.Layer):
  """The second branch of a block: layer norm, widen, GELU, narrow."""

  def __init__(self, width):
    super().__init__()
    self.norm = _layer_norm()
    self.widen = _dense(_EXPANSION * width, gelu="exact")
    self.narrow = _dense(width)

  def call(self, x, training=False):
    x = self.widen(self.norm(x, training=training), training=training)
    return self.narrow(x, training=training)


def _size(x, axis):
  """Returns the length of an axis: a number if it is known."""
  return x.shape[axis] or tf.shape(x)[axis]


def _dense(units, gelu=None):
  return layers.Dense(units, gelu, kernel_initializer=_initializer())


def _layer_norm():
  return layers.LayerNorm(epsilon=1e-6)


def _initializer():
  return tf.keras.initializers.TruncatedNormal(stddev=0.02)
