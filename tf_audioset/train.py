# SPDX-License-Identifier: Apache-2.0
r"""Trains a tagger: restore, step, summarise, evaluate, save, export.

  python -m tf_audioset.train --gin_file=gin/efficientnet_b0.gin \
      --data_dir=DIR --workdir=DIR [--tpu=NAME] [--gin_bindings='a.b = 1']...

The same command continues a run that was stopped. In the work directory:

  config.gin        every value the run used
  checkpoints/      the newest few, model and optimizer
  best/             the model with the best validation mAP so far
  summaries/        for TensorBoard
  saved_model/1/    the export, as TF Serving wants it
"""

from __future__ import annotations

import math
import os
import sys
import time

import gin
import tensorflow as tf
from absl import flags

from tf_audioset import (
  augment,  # noqa: F401  Imported for gin, as are features, losses, models.
  cli,
  config,
  data,
  distribution,
  evaluation,
  export,
  features,  # noqa: F401
  losses,  # noqa: F401
  optimization,
  records,
  trainer,
)
from tf_audioset import tagger as tagger_lib
from tf_audioset.models import convnext, efficientnet, resnet  # noqa: F401

FLAGS = flags.FLAGS
flags.DEFINE_multi_string(
  "gin_file", None, "Experiment, such as gin/efficientnet_b0.gin. Repeatable."
)
flags.DEFINE_multi_string(
  "gin_bindings", [], "A line of gin that has the last word. Repeatable."
)
flags.DEFINE_string("data_dir", None, "What tools/make_tfrecords.py wrote.")
flags.DEFINE_string("workdir", None, "Where checkpoints and the export go.")
flags.DEFINE_string(
  "tpu",
  None,
  "TPU name or grpc:// address, or 'local' on a TPU VM. Without it: the GPUs "
  "or the CPU of this machine.",
)


@gin.configurable
def train(
  strategy: tf.distribute.Strategy,
  data_dir: str,
  workdir: str,
  *,
  model=gin.REQUIRED,
  optimizer=gin.REQUIRED,
  schedule=gin.REQUIRED,
  pipeline: data.Pipeline = gin.REQUIRED,
  base_learning_rate: float = gin.REQUIRED,
  global_batch_size: int = gin.REQUIRED,
  num_epochs: int = gin.REQUIRED,
  steps_per_loop: int = 100,
  seed: int = 0,
  training_split: str = "train",
  validation_split: str = "eval",
  holdout_percent: int = 0,
  training_percent: int = 100,
  clip_norm: float | None = None,
  precision: str = "float32",
  initial_checkpoint: str = "",
  checkpoints_to_keep: int = 3,
  exported: str = "last",
) -> None:
  """Trains from the last checkpoint, or from scratch, to the end.

  Args:
    strategy: Where the replicas are.
    data_dir: Prepared data.
    workdir: Output, and where an earlier run's checkpoints are.
    model: num_classes -> `Tagger`.
    optimizer: schedule -> optimizer.
    schedule: (peak, steps_per_epoch, num_epochs) -> schedule.
    pipeline: Makes the batches.
    base_learning_rate: Peak for a batch of 256; scaled with the batch.
    global_batch_size: Clips a step, over all replicas.
    num_epochs: Passes over the training split.
    steps_per_loop: Steps in one call of the compiled loop, and so between two
      lines of the log; an epoch's last loop may be shorter.
    seed: Of everything that is random.
    training_split: Its name in the data.
    validation_split: Its name in the data; evaluated after each epoch.
    holdout_percent: If not 0, so much of the training split, chosen by a hash
      of the ids, is left out of training and evaluated after each epoch in
      place of `validation_split`.
    training_percent: So much of the training split is used, chosen by the same
      hash from its other end.
    clip_norm: Gradients are scaled down to this global norm; None: never.
    precision: "float32", or "mixed_bfloat16" for the backbone's activations;
      front end, head and loss are float32 in any case.
    initial_checkpoint: A checkpoint, or a folder of them, whose weights a new
      run starts from; with another number of classes, without its head.
    checkpoints_to_keep: The newest so many stay.
    exported: "last" or "best" (by validation mAP, which then is no longer an
      unbiased estimate).

  Raises:
    ValueError: If the data, the configuration and the checkpoints do not fit.
  """
  if exported not in ("last", "best"):
    raise ValueError(f"train.exported is {exported!r}: allowed are last, best.")
  if min(num_epochs, steps_per_loop, global_batch_size) < 1:
    raise ValueError(
      "train.num_epochs, train.steps_per_loop and train.global_batch_size "
      f"must be at least 1; they are {num_epochs}, {steps_per_loop} and "
      f"{global_batch_size}."
    )
  replicas = strategy.num_replicas_in_sync
  if global_batch_size % replicas:
    raise ValueError(
      f"train.global_batch_size, {global_batch_size}, does not divide by the "
      f"{replicas} replicas."
    )
  if not (0 <= holdout_percent < 100 and 1 <= training_percent <= 100):
    raise ValueError(
      f"train.holdout_percent is {holdout_percent}, allowed is 0 to 99; "
      f"train.training_percent is {training_percent}, allowed is 1 to 100."
    )
  if precision not in ("float32", "mixed_bfloat16"):
    raise ValueError(
      f"train.precision is {precision!r}: allowed are float32, mixed_bfloat16."
    )
  training = records.find_split(data_dir, training_split)
  if holdout_percent:
    validation = training.part(0, holdout_percent)
  else:
    validation = records.find_split(data_dir, validation_split)
  first_percent = max(holdout_percent, 100 - training_percent)
  if first_percent:
    training = training.part(first_percent, 100)
  if training.classes is None:
    raise ValueError(
      f"{data_dir}: no class list; put class_labels_indices.csv beside the "
      "records."
    )
  num_classes = len(training.classes)
  steps_per_epoch = max(1, training.num_clips // global_batch_size)
  total_steps = steps_per_epoch * num_epochs

  tf.keras.mixed_precision.set_global_policy(precision)
  with strategy.scope():
    tagger = _build(model, num_classes, pipeline.crop_samples)
    rate = optimization.scaled_learning_rate(
      base_learning_rate, global_batch_size
    )
    optimizer = optimizer(schedule(rate, steps_per_epoch, num_epochs))
    optimization.create_slots(optimizer, tagger.trainable_variables)
    best_map = tf.Variable(-1.0, trainable=False)
  # Everything is built: what gin has not been asked for by now is a mistake.
  config.check_all_used()

  checkpoint = tf.train.Checkpoint(
    model=tagger, optimizer=optimizer, best_map=best_map
  )
  newest = tf.train.CheckpointManager(
    checkpoint, os.path.join(workdir, "checkpoints"), checkpoints_to_keep
  )
  best = tf.train.CheckpointManager(
    tf.train.Checkpoint(model=tagger), os.path.join(workdir, "best"), 1
  )
  first_step = _restore(checkpoint, newest, optimizer, total_steps)
  if initial_checkpoint and newest.latest_checkpoint is None:
    _start_from(initial_checkpoint, tagger)
  _write_text(os.path.join(workdir, "config.gin"), config.operative())

  steps = trainer.Trainer(
    strategy,
    tagger,
    optimizer,
    global_batch_size=global_batch_size,
    seed=seed,
    clip_norm=clip_norm,
  )
  evaluator = evaluation.Evaluator(
    strategy,
    tagger,
    pipeline,
    validation,
    num_classes=num_classes,
    batch_size=global_batch_size,
  )
  batches = iter(
    strategy.distribute_datasets_from_function(
      lambda context: pipeline.training(
        training,
        num_classes=num_classes,
        batch_size=global_batch_size,
        seed=seed,
        first_step=first_step,
        context=context,
      )
    )
  )
  print(
    f"{training.num_clips} training and {validation.num_clips} validation "
    f"clips, {num_classes} classes; {distribution.describe(strategy)}; "
    f"{total_steps} steps of {global_batch_size} clips, from step {first_step}",
    flush=True,
  )

  log = _Log(workdir, total_steps, first_step, global_batch_size)
  step = first_step
  while step < total_steps:
    num_steps = min(steps_per_loop, steps_per_epoch - step % steps_per_epoch)
    values = steps.train(batches, tf.constant(num_steps))
    values = {name: float(value) for name, value in values.items()}
    step += num_steps
    log.loop(step, num_steps, values)
    if not math.isfinite(values["loss"]):
      raise ValueError(
        f"the loss is {values['loss']} at step {step}, learning rate "
        f"{values['learning_rate']:.3g}; the newest checkpoint is from before."
      )
    if step % steps_per_epoch == 0:
      result = evaluator.evaluate()
      log.epoch(step, step // steps_per_epoch, result.summary())
      if result.summary()["mAP"] > best_map.numpy():
        best_map.assign(result.summary()["mAP"])
        best.save(step)
      newest.save(step)
      log.resume_clock()

  path = {"last": newest, "best": best}[exported].latest_checkpoint
  exportable = _build(model, num_classes, pipeline.crop_samples)
  tf.train.Checkpoint(model=exportable).restore(
    path
  ).expect_partial().assert_existing_objects_matched()
  saved_model = os.path.join(workdir, "saved_model", "1")
  export.export(
    exportable,
    saved_model,
    classes=training.classes,
    min_samples=pipeline.crop_samples,
    padding=pipeline.padding,
  )
  print(f"exported the {exported} checkpoint to {saved_model}", flush=True)


def _build(model, num_classes: int, num_samples: int) -> tagger_lib.Tagger:
  """A tagger with its variables made."""
  tagger = model(num_classes=num_classes)
  tagger(tf.zeros([1, num_samples]))
  return tagger


def _restore(checkpoint, manager, optimizer, total_steps: int) -> int:
  """Continues from the newest checkpoint, if any; returns the step."""
  path = manager.latest_checkpoint
  if path is None:
    return 0
  try:
    checkpoint.restore(path).assert_consumed()
  except (AssertionError, ValueError, tf.errors.OpError) as e:
    raise ValueError(
      f"{path} does not fit this model and optimizer: continue with the "
      f"configuration it was made with, or choose another --workdir."
    ) from e
  step = int(optimizer.iterations.numpy())
  print(f"continuing from {path} at step {step} of {total_steps}", flush=True)
  return step


def _start_from(path: str, tagger: tagger_lib.Tagger) -> None:
  """Sets the weights to a checkpoint's, but for a head of another size."""
  path = tf.train.latest_checkpoint(path) or path
  part = tf.Module()
  part.backbone = tagger.backbone
  try:
    shapes = tf.train.load_checkpoint(path).get_variable_to_shape_map()
    num_classes = shapes["model/head/bias/.ATTRIBUTES/VARIABLE_VALUE"][0]
    if num_classes == tagger.head.units:
      part.head = tagger.head
    status = tf.train.Checkpoint(model=part).restore(path)
    status.expect_partial().assert_existing_objects_matched()
  except (AssertionError, KeyError, ValueError, tf.errors.OpError) as e:
    raise ValueError(
      f"train.initial_checkpoint: {path} is no checkpoint of this model."
    ) from e
  new = "" if num_classes == tagger.head.units else "; the head is new"
  print(f"starting from {path}, of {num_classes} classes{new}", flush=True)


def _write_text(path: str, text: str) -> None:
  tf.io.gfile.makedirs(os.path.dirname(path))
  with tf.io.gfile.GFile(path, "w") as file:
    file.write(text)


class _Log:
  """The live line, the lines that stay, and TensorBoard's summaries."""

  def __init__(self, workdir, total_steps, first_step, batch_size):
    folder = os.path.join(workdir, "summaries")
    self._train = tf.summary.create_file_writer(os.path.join(folder, "train"))
    self._validation = tf.summary.create_file_writer(
      os.path.join(folder, "validation")
    )
    self._total_steps = total_steps
    self._first_step = first_step
    self._batch_size = batch_size
    self._live = sys.stdout.isatty()
    self._begin = self._lap = time.monotonic()

  def resume_clock(self) -> None:
    """Leaves what was between, an evaluation, out of clips a second."""
    self._lap = time.monotonic()

  def loop(self, step: int, num_steps: int, values: dict[str, float]) -> None:
    now = time.monotonic()
    clips_per_second = num_steps * self._batch_size / (now - self._lap)
    seconds_per_step = (now - self._begin) / (step - self._first_step)
    left = _clock(seconds_per_step * (self._total_steps - step))
    self._lap = now
    with self._train.as_default(step):
      for name, value in values.items():
        tf.summary.scalar(name, value)
      tf.summary.scalar("clips_per_second", clips_per_second)
    line = (
      f"step {step}/{self._total_steps}  loss {values['loss']:.4f}  "
      f"learning rate {values['learning_rate']:.2e}  "
      f"{clips_per_second:.1f} clips/s  {left} left"
    )
    if self._live:  # The line is rewritten in place; \033[K clears its rest.
      print(f"\r{line}\033[K", end="", flush=True)
    else:
      print(line, flush=True)

  def epoch(self, step: int, epoch: int, summary: dict[str, float]) -> None:
    with self._validation.as_default(step):
      for name in ("mAP", "mAUC", "dprime"):
        tf.summary.scalar(name, summary[name])
    self._train.flush()
    self._validation.flush()
    start = "\r\033[K" if self._live else ""
    print(
      f"{start}epoch {epoch}, step {step}: mAP {summary['mAP']:.4f}  "
      f"mAUC {summary['mAUC']:.4f}  d' {summary['dprime']:.4f}",
      flush=True,
    )


def _clock(seconds: float) -> str:
  """61 -> "0:01:01"."""
  minutes, seconds = divmod(round(seconds), 60)
  return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def main() -> None:
  config.load(FLAGS.gin_file, FLAGS.gin_bindings)
  train(distribution.strategy(FLAGS.tpu), FLAGS.data_dir, FLAGS.workdir)


if __name__ == "__main__":
  cli.run(main, prog="train", required=["gin_file", "data_dir", "workdir"])
