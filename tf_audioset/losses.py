# SPDX-License-Identifier: Apache-2.0
"""The loss of each example; the trainer averages over the global batch.

A loss also says what the logits mean: `log_scores` turns them into the
logarithms of the scores that are judged and served.
"""

from __future__ import annotations

import gin
import tensorflow as tf


@gin.register
class MultiLabel:
  """Any number of classes a clip: sigmoid cross-entropy, mean over classes."""

  def __init__(self, label_smoothing: float = 0.0):
    """Sets the smoothing.

    Args:
      label_smoothing: Share of each target that is replaced by 1/2.

    Raises:
      ValueError: If it is not in [0, 1).
    """
    self._smoothing = _checked(label_smoothing, "MultiLabel")

  def __call__(self, targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """The loss of each clip.

    Args:
      targets: float32 [batch, num_classes] in [0, 1]; Mixup makes them soft.
      logits: float32 [batch, num_classes].

    Returns:
      float32 [batch].
    """
    targets = targets * (1 - self._smoothing) + self._smoothing / 2
    return tf.reduce_mean(
      tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=logits),
      axis=-1,
    )

  def log_scores(self, logits: tf.Tensor) -> tf.Tensor:
    """float32 [batch, num_classes]: log of each class's own probability."""
    return tf.math.log_sigmoid(logits)


@gin.register
class MultiClass:
  """One class a clip: softmax cross-entropy.

  A clip with several labels is taken to be each of them in equal shares.
  """

  def __init__(self, label_smoothing: float = 0.0):
    """Sets the smoothing.

    Args:
      label_smoothing: Share of the target that is spread over all classes.

    Raises:
      ValueError: If it is not in [0, 1).
    """
    self._smoothing = _checked(label_smoothing, "MultiClass")

  def __call__(self, targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """The loss of each clip; see `MultiLabel`. 0 for one without a label."""
    labels = tf.reduce_sum(targets, axis=-1, keepdims=True)
    targets = tf.math.divide_no_nan(targets, labels)
    uniform = tf.math.divide_no_nan(labels, labels) / logits.shape[-1]
    targets = targets * (1 - self._smoothing) + uniform * self._smoothing
    return tf.nn.softmax_cross_entropy_with_logits(targets, logits)

  def log_scores(self, logits: tf.Tensor) -> tf.Tensor:
    """float32 [batch, num_classes]: log of probabilities whose sum is 1."""
    return tf.nn.log_softmax(logits)


def _checked(label_smoothing: float, owner: str) -> float:
  if not 0 <= label_smoothing < 1:
    raise ValueError(
      f"{owner}.label_smoothing is {label_smoothing}; allowed is 0 <= x < 1."
    )
  return label_smoothing
