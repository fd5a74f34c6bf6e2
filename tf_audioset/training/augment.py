# SPDX-License-Identifier: Apache-2.0
"""Augmentation of batches on the device, stateless: the seed is an argument.

TimeRoll and Gain are for waveforms, SpecAugment and Mixup for features.

Only operations that XLA compiles for a TPU: TensorFlow 2.15 cannot compile
`stateless_gamma` or a stateless shuffle, so Beta comes from a table of its
inverse distribution function and a permutation from sorting uniforms.
"""

from __future__ import annotations

import math

import gin
import numpy as np
import scipy.special
import tensorflow as tf

from tf_audioset.runtime import gin_config, randomness
from tf_audioset.runtime.errors import UserError

# A TPU moves pieces of so many samples, 10 ms, much faster than single ones.
_PIECE_SAMPLES = 160


@gin.register
class TimeRoll:
  """Moves each clip in time; what leaves at one end comes in at the other.

  Reference: EAT (Chen et al., 2024) rolls by any time, CED by half a clip.
  """

  def __init__(self, max_share: float = 0.5):
    """Sets how far.

    Args:
      max_share: Of a clip, to both sides: 0.5 moves it to anywhere.

    Raises:
      UserError: If the share is not above 0 and at most 0.5.
    """
    if not 0 < max_share <= 0.5:
      raise UserError(
        f"TimeRoll.max_share is {max_share}; allowed is above 0, to 0.5, which "
        "moves a clip to anywhere. Tagger.time_roll = None switches it off."
      )
    self._max_share = max_share

  def __call__(self, waveform: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Moves each clip by a time of its own, uniform and a multiple of 10 ms.

    Args:
      waveform: [batch, num_samples], of any type; num_samples is known. If it
        is no multiple of 160, times are multiples of a shorter one.
      seed: int32 [2].

    Returns:
      Like `waveform`.
    """
    batch, num_samples = tf.shape(waveform)[0], waveform.shape[1]
    piece = math.gcd(num_samples, _PIECE_SAMPLES)
    num_pieces = num_samples // piece
    farthest = int(self._max_share * num_pieces)
    # As far as half a clip to the left and to the right is the same.
    num_shifts = min(2 * farthest + 1, num_pieces)
    draw = randomness.uniform([batch], seed) * num_shifts
    shift = tf.cast(tf.floor(draw), tf.int32) - farthest
    source = (tf.range(num_pieces) - shift[:, tf.newaxis]) % num_pieces
    pieces = tf.reshape(waveform, [batch, num_pieces, piece])
    rolled = tf.gather(pieces, source, batch_dims=1)
    return tf.reshape(rolled, tf.shape(waveform))


@gin.register
class Gain:
  """Makes each clip louder or softer.

  Reference: Koutini et al., "Efficient Training of Audio Transformers with
  Patchout", 2022, from whose code, with -7 ... 6 dB, the range is.
  """

  def __init__(self, low_db: float = -7.0, high_db: float = 7.0):
    """Sets the range.

    Args:
      low_db: The least gain, in decibels.
      high_db: The greatest.

    Raises:
      UserError: If the range is empty or not finite.
    """
    if not -math.inf < low_db <= high_db < math.inf:
      raise UserError(
        f"Gain.low_db is {low_db} and Gain.high_db is {high_db}: the first "
        "must be at most the second, and both finite."
      )
    self._low_db, self._high_db = float(low_db), float(high_db)

  def __call__(self, waveform: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Multiplies each clip by a factor of its own, uniform in decibels.

    Args:
      waveform: float32 [batch, num_samples].
      seed: int32 [2].

    Returns:
      Like `waveform`; nothing is clipped.
    """
    draw = randomness.uniform([tf.shape(waveform)[0], 1], seed)
    gain_db = self._low_db + draw * (self._high_db - self._low_db)
    return waveform * tf.exp(gain_db * (math.log(10) / 20))


@gin.register
class SpecAugment:
  """Masks bands and stretches of time.

  Reference: Park et al., "SpecAugment", Interspeech 2019, without time warping.
  """

  def __init__(
    self,
    num_freq_masks: int = 2,
    max_freq_bands: int = 8,
    num_time_masks: int = 2,
    max_time_frames: int = 50,
    mask_value: float = 0.0,
  ):
    """Sets the number of masks, their greatest widths and what they write.

    Args:
      num_freq_masks: Masks over bands, an example.
      max_freq_bands: A mask's width is uniform on 0 ... this, in bands.
      num_time_masks: Masks over time, an example.
      max_time_frames: A mask's width is uniform on 0 ... this, in frames.
      mask_value: What a masked cell holds, in log units.

    Raises:
      UserError: If a number or a width is negative.
    """
    for name, value in (
      ("num_freq_masks", num_freq_masks),
      ("max_freq_bands", max_freq_bands),
      ("num_time_masks", num_time_masks),
      ("max_time_frames", max_time_frames),
    ):
      gin_config.check_not_negative(f"SpecAugment.{name}", value)
    self._freq = (num_freq_masks, max_freq_bands)
    self._time = (num_time_masks, max_time_frames)
    self._mask_value = float(mask_value)  # gin may have a whole number.

  def __call__(self, features: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Masks each example on its own.

    Args:
      features: float32 [batch, num_frames, num_bands].
      seed: int32 [2].

    Returns:
      float32 [batch, num_frames, num_bands].
    """
    freq_seed, time_seed = randomness.split(seed, 2)
    batch, num_frames, num_bands = tf.unstack(tf.shape(features))
    masked = (
      _stretches(batch, num_bands, *self._freq, freq_seed)[:, tf.newaxis, :]
      | (_stretches(batch, num_frames, *self._time, time_seed)[..., tf.newaxis])
    )
    return tf.where(masked, self._mask_value, features)


def _stretches(batch, size, num_masks, max_width, seed):
  """Draws the union of `num_masks` stretches a row, bool [batch, size].

  Width uniform on 0 ... max_width, start uniform on 0 ... size - width.
  """
  uniform = randomness.uniform([2, batch, num_masks, 1], seed)
  # An axis shorter than the widest mask is at most masked whole.
  max_width = tf.minimum(max_width, size)
  width = tf.floor(uniform[0] * tf.cast(max_width + 1, tf.float32))
  start = tf.floor(uniform[1] * (tf.cast(size, tf.float32) - width + 1.0))
  position = tf.cast(tf.range(size), tf.float32)
  inside = (start <= position) & (position < start + width)
  return tf.reduce_any(inside, axis=1)


@gin.register
class Mixup:
  """Convex combinations of pairs of examples, lambda ~ Beta(alpha, alpha).

  Reference: Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018.
  """

  # Between two neighbours of the table lies 1 / 4096 of the probability.
  _TABLE_SIZE = 4097

  def __init__(self, alpha: float = gin.REQUIRED):
    """Tabulates the inverse distribution function.

    Args:
      alpha: Parameter of Beta(alpha, alpha); 0 switches Mixup off. The table
        is made for 1 and below: at 5 the variance is 0.1 % too great, at 50
        it is 2 %.

    Raises:
      UserError: If alpha is negative.
    """
    if alpha < 0:
      raise UserError(f"Mixup.alpha is {alpha}; it must be 0 (off) or more.")
    self._alpha = alpha
    if alpha:
      probability = np.linspace(0.0, 1.0, self._TABLE_SIZE)
      self._quantiles = scipy.special.betaincinv(
        alpha, alpha, probability
      ).astype(np.float32)

  def draw_lambda(self, batch: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Draws float32 [batch], each from Beta(alpha, alpha)."""
    place = randomness.uniform([batch], seed) * (self._TABLE_SIZE - 1)
    below = tf.floor(place)
    index = tf.cast(below, tf.int32)
    low = tf.gather(self._quantiles, index)
    high = tf.gather(
      self._quantiles, tf.minimum(index + 1, self._TABLE_SIZE - 1)
    )
    return low + (place - below) * (high - low)

  def __call__(
    self, features: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes each example with the one that a random permutation gives it.

    Args:
      features: float32 [batch, num_frames, num_bands].
      targets: float32 [batch, num_classes].
      seed: int32 [2].

    Returns:
      Mixed features and targets, of the same shapes, with one lambda an
      example for both.
    """
    if not self._alpha:
      return features, targets
    lambda_seed, partner_seed = randomness.split(seed, 2)
    batch = tf.shape(features)[0]
    weight = self.draw_lambda(batch, lambda_seed)
    partner = tf.argsort(randomness.uniform([batch], partner_seed))
    weight_3d = weight[:, tf.newaxis, tf.newaxis]
    weight_2d = weight[:, tf.newaxis]
    return (
      weight_3d * features + (1 - weight_3d) * tf.gather(features, partner),
      weight_2d * targets + (1 - weight_2d) * tf.gather(targets, partner),
    )
