# SPDX-License-Identifier: Apache-2.0
"""The whole model: waveform to logits, with what only training does."""

from __future__ import annotations

import inspect
from typing import Protocol

import gin
import tensorflow as tf

from tf_audioset.features import stft
from tf_audioset.models import stochastic
from tf_audioset.runtime import gin_config, randomness
from tf_audioset.runtime.errors import UserError

FRONTEND_CONTRACT = (
  "a front end is called with waveforms, float32 [batch, num_samples], and, if "
  "it has these parameters, with engine, a str or None, and training, a bool; "
  "one whose attribute takes_int16 is true also gets int16 waveforms; it "
  "returns features, "
  "float32 [batch, num_frames, num_bands]"
)
BACKBONE_CONTRACT = (
  "a backbone is called with features, float [batch, num_frames, num_bands, "
  "1], with training, a bool, and, if it has that parameter, with seed, int32 "
  "[2] or None; it returns embeddings, float [batch, embedding_size]. One that "
  "has the parameter pool gives its last feature map, float [batch, "
  "out_frames, out_bands, channels], to that function in place of averaging it"
)
HEAD_CONTRACT = (
  "a head is a Keras layer whose `units` the tagger sets to the number of "
  "classes before it is built; it is called with embeddings, float32 [batch, "
  "embedding_size], and returns logits, float32 [batch, num_classes]. If it "
  "has a method pool, the backbone gets that; and if it has a method "
  "frame_logits, pool returns [batch, out_frames, channels], with which both "
  "the head and that method are called, which returns float32 [batch, "
  "out_frames, num_classes]"
)


class Loss(Protocol):
  """The contract of a loss; see `training/losses.py`."""

  def __call__(self, targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Computes the loss of each clip, float32 [batch]."""

  def log_scores(self, logits: tf.Tensor) -> tf.Tensor:
    """Computes the logarithms of the scores, like the logits."""


class Augmentation(Protocol):
  """The contract of the parts of `training/augment.py`."""

  def __call__(self, *arguments: tf.Tensor):
    """Changes waveforms or features, and targets with Mixup.

    The last argument is a seed.
    """


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
    loss: Loss = gin.REQUIRED,
    head: tf.keras.layers.Layer | None = None,
    input_norm: tf.keras.layers.Layer | None = None,
    time_roll: Augmentation | None = None,
    gain: Augmentation | None = None,
    spec_augment: Augmentation | None = None,
    mixup: Augmentation | None = None,
    dropout_rate: float = 0.0,
    freeze_backbone: bool = False,
  ):
    """Puts the parts together.

    Args:
      num_classes: Width of the logits.
      frontend: Waveforms to features; see `features` and `FRONTEND_CONTRACT`.
      backbone: Features with a channel axis to embedding, see `models/` and
        `BACKBONE_CONTRACT`; a plain `tf.keras.Model` will do.
      loss: What the logits mean, and what is minimised, see `losses.py`.
      head: Embedding to logits, see `HEAD_CONTRACT`; None: one dense layer.
      input_norm: Features to features, before the backbone and after
        augmentation: `features.ScalarNorm` or `BandNorm`; None for none.
      time_roll: `augment.TimeRoll`, or None for none.
      gain: `augment.Gain`, or None for none.
      spec_augment: `augment.SpecAugment`, or None for none.
      mixup: `augment.Mixup`, or None for none.
      dropout_rate: Share of the embedding that training drops.
      freeze_backbone: Whether training changes the head alone: the weights and
        statistics of front end and backbone stay, and nothing is dropped in it.

    Raises:
      UserError: If the dropout rate is not in [0, 1), or the loss is none.
    """
    if not hasattr(loss, "log_scores"):
      raise UserError(
        f"Tagger.loss is {_name(loss)}: a loss is called with targets and "
        "logits and has log_scores, as @MultiLabel() and @MultiClass() do."
      )
    # float32 whatever the policy: Keras would round the waveform.
    super().__init__(name="tagger", dtype=tf.float32)
    self.frontend = frontend
    self.input_norm = input_norm
    self.backbone = backbone
    self.loss_function = loss
    self._time_roll = time_roll
    self._gain = gain
    self._spec_augment = spec_augment
    self._mixup = mixup
    self._dropout_rate = gin_config.check_share(
      "Tagger.dropout_rate", dropout_rate
    )
    self.is_backbone_frozen = freeze_backbone
    # The loss needs float32, too.
    self.head = head or tf.keras.layers.Dense(num_classes, dtype=tf.float32)
    self.head.units = num_classes
    if hasattr(self.head, "pool") and not _takes(backbone, "pool"):
      raise UserError(
        f"Tagger.head is {_name(self.head)}, which takes the backbone's last "
        f"feature map; {_name(backbone)} gives pooled embeddings only: choose "
        "@LinearHead(), or a backbone with a parameter pool, see "
        "docs/extending.md."
      )
    self._backbone_draws = _takes(backbone, "seed")
    self._norm_trains = input_norm is not None and _takes(
      input_norm, "training"
    )
    self._frontend_has_engines = _takes(frontend, "engine")
    self._frontend_trains = _takes(frontend, "training")

  @property
  def trained_variables(self) -> list[tf.Variable]:
    """Returns the variables that an update changes.

    `trainable` stays as Keras has it: the order of the variables, and with it
    the export's, would depend on it.
    """
    trained = self.head if self.is_backbone_frozen else self
    return trained.trainable_variables

  def embed(self, waveform: tf.Tensor, engine: str | None = None) -> tf.Tensor:
    """Computes embeddings, float [batch, embedding_size].

    Args:
      waveform: As for `call`.
      engine: Of the front end, in place of its own; see `features.py`.
    """
    return self.pooled(self.encode(waveform, engine))

  def encode(self, waveform: tf.Tensor, engine: str | None = None) -> tf.Tensor:
    """Computes what the head takes.

    Args:
      waveform: As for `call`.
      engine: As for `embed`.

    Returns:
      float [batch, embedding_size]; for a head of frames [batch, num_frames,
      embedding_size].
    """
    return self._encoded(self.features(waveform, engine), training=False)

  def pooled(self, encoded: tf.Tensor) -> tf.Tensor:
    """Returns embeddings, float [batch, embedding_size], of `encode`'s result.

    That of frames is their mean.
    """
    if encoded.shape.rank == 2:
      return encoded
    mean = tf.reduce_mean(tf.cast(encoded, tf.float32), axis=1)
    return tf.cast(mean, encoded.dtype)

  @property
  def frame_samples(self) -> int | None:
    """Returns the samples from one of the head's frames to the next.

    None if the head has no frames, or front end and backbone do not tell their
    steps, in `hop_samples` and `frame_stride`.
    """
    hop = getattr(self.frontend, "hop_samples", None)
    stride = getattr(self.backbone, "frame_stride", None)
    if not hasattr(self.head, "frame_logits") or None in (hop, stride):
      return None
    return hop * stride

  def frame_logits(self, encoded: tf.Tensor) -> tf.Tensor:
    """Computes the logits of each frame.

    Args:
      encoded: What `encode` returns, for a head of frames.

    Returns:
      float32 [batch, num_frames, num_classes].
    """
    return self.head.frame_logits(tf.cast(encoded, tf.float32))

  def call(self, waveform: tf.Tensor) -> tf.Tensor:
    """Computes the logits of each clip, from all of it.

    `loss_function.log_scores` makes scores of them.

    Args:
      waveform: int16 or float32 [batch, num_samples], mono; full scale of the
        float is +-1.

    Returns:
      float32 [batch, num_classes].
    """
    return self.logits(self.encode(waveform))

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
    encoded = self._encoded(features, training=training, seed=path_seed)
    encoded = stochastic.dropout(encoded, self._dropout_rate, drop_seed)
    return self.logits(encoded), targets

  def logits(self, encoded: tf.Tensor) -> tf.Tensor:
    """Computes the logits of clips.

    Args:
      encoded: As `encode` returns it.

    Returns:
      float32 [batch, num_classes].

    Raises:
      UserError: If the head breaks `HEAD_CONTRACT`.
    """
    logits = self.head(encoded)
    if logits.shape.rank != 2 or logits.shape[-1] != self.head.units:
      raise UserError(
        f"{_name(self.head)} returned {_described(logits)} for "
        f"{self.head.units} classes: {HEAD_CONTRACT}."
      )
    return logits

  def features(
    self,
    waveform: tf.Tensor,
    engine: str | None = None,
    *,
    training: bool = False,
  ) -> tf.Tensor:
    """Computes the features of waveforms.

    Args:
      waveform: As for `call`.
      engine: As for `embed`.
      training: Whether a batch norm of the front end uses, and records, the
        batch's statistics.

    Returns:
      float32 [batch, num_frames, num_bands].

    Raises:
      UserError: If the front end breaks `FRONTEND_CONTRACT`.
    """
    options = {"engine": engine} if self._frontend_has_engines else {}
    if self._frontend_trains:
      options["training"] = training
    if not getattr(self.frontend, "takes_int16", False):
      waveform = stft.to_float(waveform)
    features = self.frontend(waveform, **options)
    if not tf.is_tensor(features) or features.shape.rank != 3:
      raise UserError(
        f"{_name(self.frontend)} returned {_described(features)}: "
        f"{FRONTEND_CONTRACT}."
      )
    return features

  def _encoded(self, features, *, training, seed=None):
    """Calls the backbone and checks what it returns."""
    options = {"seed": seed} if self._backbone_draws else {}
    if hasattr(self.head, "pool"):
      options["pool"] = self.head.pool
    if self.input_norm is not None:
      norm_options = {"training": training} if self._norm_trains else {}
      features = self.input_norm(features, **norm_options)
    encoded = self.backbone(
      # TFLite does not have [..., tf.newaxis].
      tf.expand_dims(features, -1),
      training=training,
      **options,
    )
    rank = 3 if hasattr(self.head, "frame_logits") else 2
    if not tf.is_tensor(encoded) or encoded.shape.rank != rank:
      raise UserError(
        f"{_name(self.backbone)} returned {_described(encoded)}: "
        f"{BACKBONE_CONTRACT}."
      )
    return encoded

  def augmented(
    self,
    waveform: tf.Tensor,
    targets: tf.Tensor,
    seed: tf.Tensor,
    *,
    training: bool = False,
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes what the backbone is trained on; arguments as `train_logits`.

    `training` is whether a batch norm of the front end uses, and records, the
    batch's statistics.

    Returns:
      float32 features [batch, num_frames, num_bands] and targets.
    """
    if self._time_roll is not None:
      waveform = self._time_roll(waveform, randomness.fold_in(seed, 0))
    if self._gain is not None:
      waveform = stft.to_float(waveform)
      waveform = self._gain(waveform, randomness.fold_in(seed, 1))
    features = self.features(waveform, training=training)
    return self.augment(features, targets, seed)

  def augment(
    self, features: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Augments features: SpecAugment, then Mixup."""
    mask_seed, mix_seed = randomness.split(seed, 2)
    if self._spec_augment is not None:
      features = self._spec_augment(features, mask_seed)
    if self._mixup is not None:
      features, targets = self._mixup(features, targets, mix_seed)
    return features, targets


def _takes(part, parameter: str) -> bool:
  """Returns whether a layer or function has a parameter of that name."""
  return parameter in inspect.signature(getattr(part, "call", part)).parameters


def _name(part) -> str:
  return getattr(part, "__name__", type(part).__name__)


def _described(value) -> str:
  """Returns a value's type and shape in words."""
  if not tf.is_tensor(value):
    return f"a {type(value).__name__}"
  return f"{value.dtype.name} {value.shape.as_list()}"
