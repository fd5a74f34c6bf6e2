# SPDX-License-Identifier: Apache-2.0
"""Features to features of about mean 0 and standard deviation 1.

Statistics are weights: a checkpoint and an export have them.
"""

from __future__ import annotations

import gin
import tensorflow as tf

from tf_audioset.runtime.errors import UserError


@gin.register
class ScalarNorm(tf.keras.layers.Layer):
  """Subtracts a mean and divides by a standard deviation, for all bands alike.

  A new run takes them from its data, where preparation has measured them.
  """

  def __init__(self, mean: float | None = None, sd: float | None = None):
    """Makes the layer.

    Args:
      mean: In log units; None: that of the data.
      sd: The same for the standard deviation.

    Raises:
      UserError: If one is given without the other, or the sd is not above 0.
    """
    super().__init__(dtype=tf.float32)
    if (mean is None) != (sd is None) or (sd is not None and not sd > 0):
      raise UserError(
        f"ScalarNorm.mean is {mean} and ScalarNorm.sd is {sd}: give both, with "
        "an sd above 0, or neither: they are then the data's."
      )
    self.is_of_data = mean is None
    self._initial = (0.0, 1.0) if mean is None else (float(mean), float(sd))

  def build(self, input_shape):
    self.mean, self.sd = (
      self.add_weight(
        name=name,
        shape=[],
        initializer=tf.keras.initializers.Constant(value),
        trainable=False,
      )
      for name, value in zip(("mean", "sd"), self._initial)
    )
    super().build(input_shape)

  def set(self, mean: float, sd: float) -> None:
    """Sets the statistics."""
    self.mean.assign(mean)
    self.sd.assign(sd)

  def call(self, features: tf.Tensor) -> tf.Tensor:
    """Normalises features, float32 [batch, num_frames, num_bands].

    Args:
      features: float32 [batch, num_frames, num_bands].

    Returns:
      Like `features`.
    """
    return (features - self.mean) / self.sd


@gin.register
class BandNorm(tf.keras.layers.BatchNormalization):
  """A batch norm over bands, as PANNs and CED have it."""

  def __init__(self, momentum: float = 0.99, epsilon: float = 1e-5):
    """Makes the layer.

    Args:
      momentum: Share of the old running statistics that stays.
      epsilon: Added to the variance.
    """
    super().__init__(momentum=momentum, epsilon=epsilon, dtype=tf.float32)
