# SPDX-License-Identifier: Apache-2.0
"""An experiment: every value of a run in one object, and what it builds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import gin
import tensorflow as tf

from tf_audioset.data import labels, records
from tf_audioset.data import pipeline as pipeline_lib

# Imported for gin, which finds the parts of a .gin file by their names.
from tf_audioset.features import decibels, layers  # noqa: F401
from tf_audioset.models import (  # noqa: F401
  convnext,
  efficientnet,
  heads,
  resnet,
  vit,
)
from tf_audioset.models import tagger as tagger_lib
from tf_audioset.runtime import distribution, gin_config, messages
from tf_audioset.runtime import precision as precision_lib
from tf_audioset.runtime.errors import UserError
from tf_audioset.serving import export
from tf_audioset.training import (  # noqa: F401
  augment,
  averaging,
  durations,
  losses,
  optimizers,
  run_data,
  trainer,
)
from tf_audioset.training import run as run_lib
from tf_audioset.training import workdir as workdir_lib
from tf_audioset.weights import pretrained  # noqa: F401

_PRECISIONS = ("float32", "mixed_bfloat16")


class Parts(NamedTuple):
  """What trains, with all its variables."""

  trainer: trainer.Trainer
  tagger: tagger_lib.Tagger
  optimizer: optimizers.Optimizer
  average: averaging.Average | None


@gin.configurable("train")
@dataclasses.dataclass(frozen=True)
class Experiment:
  """The values of a run, which a .gin file binds as `train.NAME`.

  Attributes:
    model: num_classes -> `Tagger`.
    optimizer: schedule -> optimizer.
    schedule: (peak, steps_per_epoch, num_epochs) -> schedule.
    pipeline: Makes the batches.
    base_learning_rate: Peak for a batch of 256; scaled with the batch.
    learning_rate_scaling: How: "linear", "sqrt" or "none".
    global_batch_size: Clips per step, over all replicas.
    num_epochs: Length of the run in epochs; or
    num_steps: in steps; or
    num_draws: in clips that are drawn. The model is validated after each epoch
      and at the end.
    epoch_clips: Clips that are drawn in an epoch, after which the model is
      validated; None: as many as the training split has.
    steps_per_loop: Steps in one call of the compiled loop, and so between two
      lines of the log; an epoch's last loop may be shorter.
    checkpoint_steps: A checkpoint is saved after the loop that reaches the next
      multiple of it, and after each epoch.
    seed: Decides everything that is random.
    training_split: Its name in the data.
    validation_split: Its name in the data; evaluated after each epoch.
    holdout_percent: If not 0, this share of the training split, chosen by a
      hash of the ids, is left out of training and evaluated after each epoch in
      place of `validation_split`.
    training_percent: The share of the training split that is used, chosen by
      the same hash from its other end.
    clip_norm: Gradients are scaled down to this global norm; None: never.
    accumulate_steps: Each replica splits its clips into this many micro-batches
      and updates once: for batches that do not fit its memory.
    precision: "float32", or "mixed_bfloat16" for the backbone's activations;
      front end, head and loss are float32 in any case.
    initial_checkpoint: Weights that a new run starts from, see
      `pretrained.load`; with other classes, without its head.
    allow_other_features: Whether those weights may have been trained with
      another front end, padding or variant of the network.
    checkpoints_to_keep: The number of newest checkpoints that stay.
    exported: "last" or "best" (by validation mAP, which then is no longer an
      unbiased estimate).
    average_share: If given, the exponential moving average of the weights is
      validated as well, and exported; its horizon is this share of the run's
      steps. See `averaging.Average`.

  Raises:
    UserError: If a value is not among those allowed.
  """

  model: Callable[..., tagger_lib.Tagger] = gin.REQUIRED
  optimizer: Callable[..., optimizers.Optimizer] = gin.REQUIRED
  schedule: Callable[
    ..., tf.keras.optimizers.schedules.LearningRateSchedule
  ] = gin.REQUIRED
  pipeline: pipeline_lib.Pipeline = gin.REQUIRED
  base_learning_rate: float = gin.REQUIRED
  global_batch_size: int = gin.REQUIRED
  num_epochs: int | None = None
  num_steps: int | None = None
  num_draws: int | None = None
  epoch_clips: int | None = None
  learning_rate_scaling: str = "linear"
  steps_per_loop: int = 100
  checkpoint_steps: int = 500
  seed: int = 0
  training_split: str = "train"
  validation_split: str = "eval"
  holdout_percent: int = 0
  training_percent: int = 100
  clip_norm: float | None = None
  accumulate_steps: int = 1
  precision: str = "float32"
  initial_checkpoint: str = ""
  allow_other_features: bool = False
  checkpoints_to_keep: int = 3
  exported: str = "last"
  average_share: float | None = None

  def __post_init__(self):
    for name, low, high in (
      ("steps_per_loop", 1, None),
      ("checkpoint_steps", 1, None),
      ("checkpoints_to_keep", 1, None),
      ("global_batch_size", 1, None),
      ("accumulate_steps", 1, None),
      ("holdout_percent", 0, 99),
      ("training_percent", 1, 100),
    ):
      gin_config.check_integer(f"train.{name}", getattr(self, name), low, high)
    for name, low in (
      ("num_epochs", 1),
      ("num_steps", 1),
      ("num_draws", self.global_batch_size),
      ("epoch_clips", self.global_batch_size),
    ):
      if getattr(self, name) is not None:
        gin_config.check_integer(
          f"train.{name}", getattr(self, name), low, None
        )
    durations.check_one(
      "train",
      num_epochs=self.num_epochs,
      num_steps=self.num_steps,
      num_draws=self.num_draws,
    )
    for name, allowed in (
      ("exported", ("last", "best")),
      ("precision", _PRECISIONS),
      ("learning_rate_scaling", optimizers.LEARNING_RATE_SCALINGS),
    ):
      gin_config.check_choice(f"train.{name}", getattr(self, name), allowed)
    gin_config.check_not_negative(
      "train.base_learning_rate", self.base_learning_rate
    )
    if self.clip_norm is not None and not self.clip_norm > 0:
      raise UserError(
        f"train.clip_norm is {self.clip_norm}; it must be above 0, or None: "
        "never."
      )
    averaging.check_share(self.average_share)

  def run(
    self,
    strategy: tf.distribute.Strategy,
    data_dir: str,
    workdir: str,
    *,
    profile_steps: tuple[int, int] | None = None,
    data_workers: Sequence[str] = (),
    take_over: bool = False,
  ) -> None:
    """Trains from the last checkpoint, or from scratch, to the end.

    Args:
      strategy: Where the replicas are.
      data_dir: Prepared data.
      workdir: Output, and where an earlier run's checkpoints are.
      profile_steps: The loops that hold the steps from the first to the second
        are profiled; None: none.
      data_workers: Addresses of processes that make the batches, see
        `data_service`; none: this process does.
      take_over: Take a work directory in a bucket from a run that seems to be
        at work there.

    Raises:
      UserError: If the data, the configuration and the checkpoints do not fit,
        the loss is not finite, or checkpoints cannot be written.
      cli.Stopped: On SIGTERM, after saving.
    """
    run_lib.Run(
      self,
      strategy,
      data_dir,
      workdir,
      profile_steps=profile_steps,
      data_workers=data_workers,
      take_over=take_over,
    ).execute()

  def steps_per_epoch(self, num_clips: int) -> int:
    """Returns the steps in an epoch of a training split of `num_clips`."""
    return durations.steps_per_epoch(
      num_clips, self.global_batch_size, self.epoch_clips
    )

  def total_steps(self, steps_per_epoch: int) -> int:
    """Returns the steps of the run."""
    return durations.total_steps(
      steps_per_epoch=steps_per_epoch,
      batch_size=self.global_batch_size,
      num_epochs=self.num_epochs,
      num_steps=self.num_steps,
      num_draws=self.num_draws,
    )

  def splits(
    self, strategy: tf.distribute.Strategy, data_dir: str
  ) -> run_data.RunData:
    """Finds the clips to train on and those to validate with.

    Raises:
      UserError: If they are missing, have no class list, or the strategy's
        hosts cannot read them.
    """
    chosen = run_data.choose(
      data_dir,
      training_split=self.training_split,
      validation_split=self.validation_split,
      holdout_percent=self.holdout_percent,
      training_percent=self.training_percent,
    )
    if distribution.is_remote(strategy) and (
      chosen.training.needs_python or chosen.validation.needs_python
    ):
      raise UserError(
        f"{data_dir}: FLAC is decoded in Python, which the hosts of this TPU, "
        "other machines, do not have: prepare the data with --codec=pcm16."
      )
    if chosen.training.classes is None:
      raise UserError(
        f"{data_dir}: no class list; put class_labels_indices.csv beside the "
        "records."
      )
    return chosen

  def build(
    self,
    strategy: tf.distribute.Strategy,
    *,
    num_classes: int,
    steps_per_epoch: int = 100,
  ) -> Parts:
    """Makes what trains.

    Args:
      strategy: Where the replicas are.
      num_classes: Width of the logits.
      steps_per_epoch: For the schedule.

    Raises:
      UserError: If a value is not among those allowed.
    """
    replicas = strategy.num_replicas_in_sync
    if self.global_batch_size % (replicas * self.accumulate_steps):
      raise UserError(
        f"train.global_batch_size, {self.global_batch_size}, does not divide "
        f"by the {replicas} replicas times train.accumulate_steps, "
        f"{self.accumulate_steps}: choose a multiple of "
        f"{replicas * self.accumulate_steps}."
      )
    # Keras draws the initial weights from it.
    tf.keras.utils.set_random_seed(self.seed)
    with precision_lib.policy(self.precision), strategy.scope():
      tagger = self._new_tagger(num_classes)
      rate = optimizers.scaled_learning_rate(
        self.base_learning_rate,
        self.global_batch_size,
        self.learning_rate_scaling,
      )
      total_steps = self.total_steps(steps_per_epoch)
      num_epochs = total_steps / steps_per_epoch
      schedule = self.schedule(rate, steps_per_epoch, num_epochs)
      optimizer = self.optimizer(schedule)
      optimizers.create_slots(optimizer, tagger.trained_variables)
      average = None
      if self.average_share is not None:
        average = averaging.Average(
          tagger,
          self._new_tagger(num_classes),
          self.average_share * total_steps,
        )
      steps = trainer.Trainer(
        strategy,
        tagger,
        optimizer,
        global_batch_size=self.global_batch_size,
        seed=self.seed,
        clip_norm=self.clip_norm,
        accumulate_steps=self.accumulate_steps,
        average=average,
      )
    return Parts(steps, tagger, optimizer, average)

  def restored_tagger(
    self, checkpoint: str, num_classes: int, precision: str | None = None
  ) -> tagger_lib.Tagger:
    """Builds a tagger with the weights, or averaged weights, of a checkpoint.

    Args:
      checkpoint: Path of a checkpoint of this experiment.
      num_classes: Width of its logits.
      precision: In place of the experiment's.

    Raises:
      UserError: If the checkpoint cannot be read or is another model's.
    """
    with precision_lib.policy(precision or self.precision):
      tagger = self._new_tagger(num_classes)
    name = "model" if self.average_share is None else averaging.NAME
    with messages.naming_broken(checkpoint):
      try:
        tf.train.Checkpoint(**{name: tagger}).restore(
          checkpoint
        ).expect_partial().assert_existing_objects_matched()
      except (AssertionError, ValueError, tf.errors.OpError) as e:
        raise UserError(
          f"{checkpoint} is no checkpoint of this model, which config.gin "
          "describes: give one of the same work directory."
        ) from e
    return tagger

  def export(
    self,
    checkpoint: str,
    directory: str,
    *,
    workdir_path: str,
    classes: labels.ClassList,
    **options,
  ) -> None:
    """Exports the model of a checkpoint.

    Args:
      checkpoint: Path of the checkpoint.
      directory: Where the SavedModel goes, see `export.export`.
      workdir_path: Work directory of the run, whose configuration is exported
        as well, and the validation at this step, if there was one.
      classes: Those it was trained with.
      **options: For `export.export`.

    Raises:
      UserError: If the checkpoint cannot be read or is another model's.
    """
    tagger = self.restored_tagger(checkpoint, len(classes))
    workdir_lib.refuse_other_model(workdir_path, tagger)
    export.export(
      tagger,
      directory,
      classes=classes,
      min_samples=self.pipeline.crop_samples,
      padding=self.pipeline.padding,
      config_gin=workdir_lib.read_run(workdir_path)[1],
      validation=workdir_lib.validation_of(checkpoint, workdir_path),
      thresholds=workdir_lib.thresholds_of(checkpoint, workdir_path),
      **options,
    )

  def _new_tagger(self, num_classes: int) -> tagger_lib.Tagger:
    """Builds a tagger with its variables."""
    tagger = self.model(num_classes=num_classes)
    rate_hz = getattr(tagger.frontend, "sample_rate_hz", records.SAMPLE_RATE_HZ)
    if rate_hz != records.SAMPLE_RATE_HZ:
      raise UserError(
        f"LogMel.sample_rate_hz is {rate_hz}; records have "
        f"{records.SAMPLE_RATE_HZ}, which is to be bound."
      )
    tagger(tf.zeros([1, self.pipeline.crop_samples]))
    return tagger
