# SPDX-License-Identifier: Apache-2.0
"""The loss of each example; the trainer averages over the global batch.

A loss also says what the logits mean: `log_scores` turns them into the
logarithms of the scores that are judged and served.
"""

from __future__ import annotations

import gin
import tensorflow as tf

from tf_audioset.runtime import gin_config


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
    self._smoothing = gin_config.check_share(
      "MultiLabel.label_smoothing", label_smoothing
    )

  def __call__(self, targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Computes the loss of each clip.

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
    """Computes the log of each class's own probability, shaped as logits."""
    return tf.math.log_sigmoid(logits)


@gin.register
class MultiClass:
  """One class a clip: softmax cross-entropy.

  Attributes:
    needs_one_label: Whether training refuses clips with several labels. As
      targets they are taken to be each of them in equal shares.
  """

  def __init__(
    self, label_smoothing: float = 0.0, several_labels: str = "refuse"
  ):
    """Sets the smoothing, and what becomes of clips with several labels.

    Args:
      label_smoothing: Share of the target that is spread over all classes.
      several_labels: "refuse", as they may be a mistake in the data or in the
        choice of the loss; or "share".

    Raises:
      UserError: If the smoothing is not in [0, 1), or the other neither.
    """
    self._smoothing = gin_config.check_share(
      "MultiClass.label_smoothing", label_smoothing
    )
    gin_config.check_choice(
      "MultiClass.several_labels", several_labels, ("refuse", "share")
    )
    self.needs_one_label = several_labels == "refuse"

  def __call__(self, targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Computes the loss of each clip, as `MultiLabel`; 0 without a label.

    The shares are those after Mixup: a clip with two labels weighs twice as
    much as its share of the mixture.
    """
    num_labels = tf.reduce_sum(targets, axis=-1)
    targets = tf.math.divide_no_nan(targets, num_labels[..., tf.newaxis])
    targets = targets * (1 - self._smoothing)
    targets += self._smoothing / logits.shape[-1]
    loss = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
    # Of targets that are all 0 the loss is 0, but TensorFlow's gradient of it,
    # for which they have the sum 1, is not.
    return tf.where(num_labels > 0, loss, 0.0)

  def log_scores(self, logits: tf.Tensor) -> tf.Tensor:
    """Computes the log of probabilities whose sum is 1, shaped as logits."""
    return tf.nn.log_softmax(logits)
