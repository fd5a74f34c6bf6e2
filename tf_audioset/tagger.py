# SPDX-License-Identifier: Apache-2.0
"""The whole model: waveform to logits, with what only training does."""

from __future__ import annotations

import inspect

import gin
import tensorflow as tf

from tf_audioset import config, randomness
from tf_audioset.models import stochastic


@gin.register
class Tagger(tf.keras.Model):
  """Front end, augmentation, backbone and head.

  Training is `train_logits`; everything else is `embed` and `call`, which are
  deterministic and change nothing.
  """

  def __init__(
    self,
    num_classes: int,
    frontend: tf.keras.layers.Layer = gin.REQUIRED,
    backbone: tf.keras.layers.Layer = gin.REQUIRED,
    loss: object = gin.REQUIRED,
    head: tf.keras.layers.Layer | None = None,
    spec_augment: object | None = None,
    mixup: object | None = None,
    dropout_rate: float = 0.0,
    freeze_backbone: bool = False,
  ):
    """Puts the parts together.

    Args:
      num_classes: Width of the logits.
      frontend: Waveform [batch, num_samples] to features [batch, num_frames,
        num_bands]; see `features.py`. If its `call` has a parameter `training`,
        as one with a batch norm has, it is told.
      backbone: Features with a channel axis to embedding, see `models/`.
      loss: What the logits mean, and what is minimised, see `losses.py`.
      head: Embedding to logits, a layer whose `units` are set here; see
        `models/heads.py`. None: one dense layer.
      spec_augment: `augment.SpecAugment`, or None for none.
      mixup: `augment.Mixup`, or None for none.
      dropout_rate: Share of the embedding that training drops.
      freeze_backbone: Whether training changes the head alone: the weights and
        statistics of front end and backbone stay, and nothing is dropped in it.

    Raises:
      ValueError: If the dropout rate is not in [0, 1).
    """
    # float32 whatever the policy: Keras would round the waveform.
    super().__init__(name="tagger", dtype=tf.float32)
    self.frontend = frontend
    self.backbone = backbone
    self.loss_function = loss
    self._spec_augment = spec_augment
    self._mixup = mixup
    self._dropout_rate = config.check_share("Tagger.dropout_rate", dropout_rate)
    self.is_backbone_frozen = freeze_backbone
    # The loss needs float32, too.
    self.head = head or tf.keras.layers.Dense(num_classes, dtype=tf.float32)
    self.head.units = num_classes
    call = getattr(frontend, "call", frontend)
    self._frontend_trains = "training" in inspect.signature(call).parameters

  @property
  def trained_variables(self) -> list[tf.Variable]:
    """Those that an update changes; `trainable` stays as Keras has it, whose
    order of the variables, and so the export's, would depend on it.
    """
    trained = self.head if self.is_backbone_frozen else self
    return trained.trainable_variables

  def embed(self, waveform: tf.Tensor, engine: str | None = None) -> tf.Tensor:
    """[batch, num_samples] int16 or float32 to [batch, embedding_size].

    Args:
      waveform: As for `call`.
      engine: Of the front end, in place of its own; see `features.py`.
    """
    features = self.frontend(to_float(waveform), engine=engine)
    return self.backbone(tf.expand_dims(features, -1), training=False)

  def call(self, waveform: tf.Tensor) -> tf.Tensor:
    """The logits of each clip, from all of it.

    `loss_function.log_scores` makes scores of them.

    Args:
      waveform: int16 or float32 [batch, num_samples], mono; full scale of the
        float is +-1.

    Returns:
      float32 [batch, num_classes].
    """
    return self.head(self.embed(waveform))

  def train_logits(
    self, waveform: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Logits and targets after augmentation, in training mode.

    Args:
      waveform: int16 or float32 [batch, num_samples].
      targets: float32 [batch, num_classes].
      seed: int32 [2]; the same seed gives the same result.

    Returns:
      float32 logits and targets, both [batch, num_classes].
    """
    augment_seed, path_seed, drop_seed = randomness.split(seed, 3)
    training = not self.is_backbone_frozen
    features, targets = self.augmented(
      waveform, targets, augment_seed, training=training
    )
    embedding = self.backbone(
      features[..., tf.newaxis],
      training=training,
      seed=path_seed,
    )
    embedding = stochastic.dropout(embedding, self._dropout_rate, drop_seed)
    return self.head(embedding), targets

  def augmented(
    self,
    waveform: tf.Tensor,
    targets: tf.Tensor,
    seed: tf.Tensor,
    *,
    training: bool = False,
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """What the backbone is trained on; the arguments are as in `train_logits`.

    `training` is whether a batch norm of the front end uses, and records, the
    batch's statistics.

    Returns:
      float32 features [batch, num_frames, num_bands] and targets.
    """
    options = {"training": training} if self._frontend_trains else {}
    features = self.frontend(to_float(waveform), **options)
    return self.augment(features, targets, seed)

  def augment(
    self, features: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """`augmented`, from features; SpecAugment, then Mixup."""
    mask_seed, mix_seed = randomness.split(seed, 2)
    if self._spec_augment is not None:
      features = self._spec_augment(features, mask_seed)
    if self._mixup is not None:
      features, targets = self._mixup(features, targets, mix_seed)
    return features, targets


def to_float(waveform: tf.Tensor) -> tf.Tensor:
  """int16 to float32 in [-1, 1); float32 stays as it is."""
  if waveform.dtype == tf.int16:
    return tf.cast(waveform, tf.float32) / 32768.0
  return waveform
