# SPDX-License-Identifier: Apache-2.0
"""The training run: restore, step, summarise, evaluate, save, export."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
import re
import signal
from collections.abc import Callable, Sequence

import gin
import numpy as np
import tensorflow as tf

from tf_audioset import (
  augment,  # noqa: F401  Imported for gin, as are features, losses, models.
  checkpoints,
  cli,
  config,
  dashboard,
  data,
  decibels,  # noqa: F401
  distribution,
  evaluation,
  export,
  features,  # noqa: F401
  labels,
  losses,  # noqa: F401
  messages,
  optimization,
  pretrained,
  records,
  reporting,
  run_data,
  storage,
  trainer,
)
from tf_audioset import tagger as tagger_lib
from tf_audioset.models import (  # noqa: F401
  convnext,
  efficientnet,
  heads,
  resnet,
  vit,
)

# Folder of the work directory.
_THRESHOLDS = "thresholds"
# Sets of pictures that TensorBoard shows after the first, over a run.
_NUM_PICTURES = 10


@gin.configurable
def train(
  strategy: tf.distribute.Strategy,
  data_dir: str,
  workdir: str,
  *,
  profile_steps: tuple[int, int] | None = None,
  data_workers: Sequence[str] = (),
  model: Callable[..., tagger_lib.Tagger] = gin.REQUIRED,
  optimizer: Callable[..., optimization.Optimizer] = gin.REQUIRED,
  schedule: Callable[
    ..., tf.keras.optimizers.schedules.LearningRateSchedule
  ] = gin.REQUIRED,
  pipeline: data.Pipeline = gin.REQUIRED,
  base_learning_rate: float = gin.REQUIRED,
  global_batch_size: int = gin.REQUIRED,
  num_epochs: int = gin.REQUIRED,
  steps_per_loop: int = 100,
  checkpoint_steps: int = 500,
  seed: int = 0,
  training_split: str = "train",
  validation_split: str = "eval",
  holdout_percent: int = 0,
  training_percent: int = 100,
  clip_norm: float | None = None,
  accumulate_steps: int = 1,
  precision: str = "float32",
  initial_checkpoint: str = "",
  allow_other_features: bool = False,
  checkpoints_to_keep: int = 3,
  exported: str = "last",
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
    model: num_classes -> `Tagger`.
    optimizer: schedule -> optimizer.
    schedule: (peak, steps_per_epoch, num_epochs) -> schedule.
    pipeline: Makes the batches.
    base_learning_rate: Peak for a batch of 256; scaled with the batch.
    global_batch_size: Clips a step, over all replicas.
    num_epochs: Passes over the training split.
    steps_per_loop: Steps in one call of the compiled loop, and so between two
      lines of the log; an epoch's last loop may be shorter.
    checkpoint_steps: A checkpoint is saved after the loop that reaches the next
      multiple of it, and after each epoch.
    seed: Of everything that is random.
    training_split: Its name in the data.
    validation_split: Its name in the data; evaluated after each epoch.
    holdout_percent: If not 0, so much of the training split, chosen by a hash
      of the ids, is left out of training and evaluated after each epoch in
      place of `validation_split`.
    training_percent: So much of the training split is used, chosen by the same
      hash from its other end.
    clip_norm: Gradients are scaled down to this global norm; None: never.
    accumulate_steps: Each replica takes its clips in so many parts, one after
      another, before it updates: for batches that do not fit its memory.
    precision: "float32", or "mixed_bfloat16" for the backbone's activations;
      front end, head and loss are float32 in any case.
    initial_checkpoint: Whose weights a new run starts from, see
      `pretrained.load`; with other classes, without its head.
    allow_other_features: Whether those weights may have been trained with
      another front end, padding or variant of the network.
    checkpoints_to_keep: The newest so many stay.
    exported: "last" or "best" (by validation mAP, which then is no longer an
      unbiased estimate).

  Raises:
    ValueError: If the data, the configuration and the checkpoints do not fit,
      the loss is not finite, or checkpoints cannot be written.
    cli.Stopped: On SIGTERM, after saving.
  """
  storage.check_no_pattern(workdir)
  storage.check_bucket(workdir)
  if exported not in ("last", "best"):
    raise ValueError(f"train.exported is {exported!r}: allowed are last, best.")
  for name, value, low, high in (
    ("num_epochs", num_epochs, 1, None),
    ("steps_per_loop", steps_per_loop, 1, None),
    ("checkpoint_steps", checkpoint_steps, 1, None),
    ("checkpoints_to_keep", checkpoints_to_keep, 1, None),
    ("global_batch_size", global_batch_size, 1, None),
    ("accumulate_steps", accumulate_steps, 1, None),
    ("holdout_percent", holdout_percent, 0, 99),
    ("training_percent", training_percent, 1, 100),
  ):
    if not isinstance(value, int) or value < low or (high and value > high):
      raise ValueError(
        f"train.{name} is {value!r}; it must be a whole number, "
        + (f"{low} to {high}." if high else f"at least {low}.")
      )
  config.check_not_negative("train.base_learning_rate", base_learning_rate)
  if clip_norm is not None and not clip_norm > 0:
    raise ValueError(
      f"train.clip_norm is {clip_norm}; it must be above 0, or None: never."
    )
  replicas = strategy.num_replicas_in_sync
  if global_batch_size % (replicas * accumulate_steps):
    raise ValueError(
      f"train.global_batch_size, {global_batch_size}, does not divide by the "
      f"{replicas} replicas times train.accumulate_steps, {accumulate_steps}: "
      f"choose a multiple of {replicas * accumulate_steps}."
    )
  if distribution.is_remote(strategy):
    for name, path in (("data_dir", data_dir), ("workdir", workdir)):
      if "://" not in path:
        raise ValueError(
          f"--{name}={path}: the hosts of this TPU are other machines, which "
          "do not see this one's disk: give a folder of a bucket, gs://..."
        )
    if data_workers:
      raise ValueError(
        "--data_service is for a pipeline on this machine; the hosts of this "
        "TPU are others: leave the flag out."
      )
  has_peers = distribution.has_peers(strategy)
  stop = _Stop(has_peers=has_peers)
  chosen = run_data.choose(
    data_dir,
    training_split=training_split,
    validation_split=validation_split,
    holdout_percent=holdout_percent,
    training_percent=training_percent,
  )
  training, validation = chosen.training, chosen.validation
  if distribution.is_remote(strategy) and (
    training.needs_python or validation.needs_python
  ):
    raise ValueError(
      f"{data_dir}: FLAC is decoded in Python, which the hosts of this TPU, "
      "other machines, do not have: prepare the data with --codec=pcm16."
    )
  if training.classes is None:
    raise ValueError(
      f"{data_dir}: no class list; put class_labels_indices.csv beside the "
      "records."
    )
  num_classes = len(training.classes)
  steps_per_epoch = max(1, training.num_clips // global_batch_size)
  total_steps = steps_per_epoch * num_epochs

  steps, tagger, optimizer = build(
    strategy,
    num_classes=num_classes,
    steps_per_epoch=steps_per_epoch,
    model=model,
    optimizer=optimizer,
    schedule=schedule,
    pipeline=pipeline,
    base_learning_rate=base_learning_rate,
    global_batch_size=global_batch_size,
    num_epochs=num_epochs,
    seed=seed,
    clip_norm=clip_norm,
    accumulate_steps=accumulate_steps,
    precision=precision,
  )
  remarks = run_data.check_labels(
    chosen, tagger.loss_function, needs_metrics=exported == "best"
  )
  with strategy.scope():
    best_map = tf.Variable(-1.0, trainable=False)
    best_step = tf.Variable(0, trainable=False, dtype=tf.int64)
    # Of the epoch that has begun.
    bad_records = tf.Variable(0, trainable=False, dtype=tf.int64)
  # Everything is built: what gin has not been asked for by now is a mistake.
  config.check_all_used()

  is_chief = distribution.is_chief(strategy)
  lock = None  # Held until this returns.
  if is_chief and tf.io.gfile.exists(workdir):
    lock = _lock(workdir)  # What follows mends what it finds.
  newest = checkpoints.Checkpoints(
    tf.train.Checkpoint(
      model=tagger,
      optimizer=optimizer,
      best_map=best_map,
      best_step=best_step,
      bad_records=bad_records,
    ),
    os.path.join(workdir, "checkpoints"),
    checkpoints_to_keep,
    is_chief,
    has_peers,
    may_lack=["bad_records"],
  )
  best = checkpoints.Checkpoints(
    tf.train.Checkpoint(model=tagger),
    os.path.join(workdir, "best"),
    1,
    is_chief,
    has_peers,
  )
  run_file = os.path.join(workdir, "run.json")
  fixed = {
    "model": f"{type(tagger.backbone).__name__}, "
    f"{tagger.count_params()} parameters",
    "number of classes": num_classes,
    "class list": _digest(json.dumps(training.classes.to_json())),
    "global batch size": global_batch_size,
    "seed": seed,
    "training clips": training.num_clips,
    "training data": training.digest(),
    "validation data": validation.digest(),
  }
  config_file = os.path.join(workdir, "config.gin")
  if newest.newest:
    _refuse_changes(run_file, fixed)
    _show_changes(config_file)
  restored = newest.restore()
  if restored is None and initial_checkpoint:
    about = pretrained.load(
      initial_checkpoint,
      tagger,
      training.classes,
      config_gin=config.operative(),
      allow_other_features=allow_other_features,
    )
    print(about, flush=True)
  elif restored is None and tagger.is_backbone_frozen:
    raise ValueError(
      "Tagger.freeze_backbone is True, but the weights are random: give those "
      "to start from with --init_from."
    )
  first_step = int(optimizer.iterations.numpy())
  if not distribution.is_same_in_all(strategy, first_step):
    raise ValueError(
      f"--workdir={workdir}: not all workers found the same checkpoint there, "
      f"this one that of step {first_step}: it must be one folder that all of "
      "them see."
    )
  stop.saved(first_step)
  if is_chief:
    tf.io.gfile.makedirs(workdir)
    lock = lock or _lock(workdir)
    storage.write_json(
      run_file, {**fixed, "classes": training.classes.to_json()}
    )
    storage.write_file(config_file, config.operative().encode())

  evaluator = evaluation.Evaluator(
    strategy,
    tagger,
    pipeline,
    validation,
    num_classes=num_classes,
    batch_size=global_batch_size,
  )
  batches = iter(
    distribution.batches(
      strategy,
      lambda context: pipeline.training(
        training,
        num_classes=num_classes,
        batch_size=global_batch_size,
        seed=seed,
        first_step=first_step,
        context=context,
        workers=data_workers,
      ).apply(
        # Or several workers would ask one another in each step if it has ended.
        tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
      ),
    )
  )
  report = reporting.Report(
    workdir,
    total_steps=total_steps,
    first_step=first_step,
    batch_size=global_batch_size,
    classes=training.classes,
    is_chief=is_chief,
  )
  report.config(config.operative())
  if restored:
    report.say(f"continuing from {restored} at step {first_step}")
  report.say(
    f"{training.num_clips} training and {validation.num_clips} validation "
    f"clips, {num_classes} classes; {distribution.describe(strategy)}; "
    f"{total_steps} steps of {global_batch_size} clips, from step {first_step}"
    + ("" if restored or initial_checkpoint else " and random weights")
  )
  report.say(f"validation: {chosen.about}")
  for line in remarks:
    report.say(line)
  if training.num_clips < global_batch_size:
    report.say(
      f"warning: a batch of {global_batch_size} clips is more than the "
      f"{training.num_clips} there are: an epoch is one step, in which clips "
      "come more than once: lower train.global_batch_size"
    )

  def show_pictures(at_step: int) -> None:
    report.pictures(
      at_step,
      lambda: dashboard.augment(
        tagger,
        pipeline,
        training,
        batch_size=global_batch_size,
        seed=seed,
        step=at_step,
      ),
    )

  if first_step == 0:
    show_pictures(0)

  def not_finite(what: str, at_step: int) -> ValueError:
    ids = pipeline.training_ids(
      training, batch_size=global_batch_size, seed=seed, step=at_step
    )
    return ValueError(
      f"{what} not finite in step {at_step}, counted from 0, learning rate "
      f"{steps.learning_rate(at_step):.3g}; the newest checkpoint is "
      f"{newest.newest or 'none'}. Lower train.base_learning_rate, bind "
      "train.clip_norm = 1.0, or look for damage in the clips of the step: "
      f"{', '.join(ids) or 'without ids'}"
    )

  step = first_step
  report.resume_clock()
  while True:
    if step and step % steps_per_epoch == 0:
      # Saved already: after a stop in here, the evaluation is made again.
      epoch = step // steps_per_epoch
      result, thresholds, f1, loss = evaluator.evaluate(report.validating)
      report.epoch(step, epoch, result, loss)
      if is_chief:
        _write_thresholds(workdir, step, validation, thresholds, f1)
      mean_ap = np.float32(result.summary()["mAP"])  # As `best_map` holds it.
      if np.isnan(mean_ap) and exported == "best":
        raise ValueError(
          "train.exported = 'best': no checkpoint can be the best, as no class "
          "has positive and negative validation clips: validate on more clips, "
          "or export the last."
        )
      if mean_ap > best_map.numpy():
        best_map.assign(mean_ap)
        best_step.assign(step)
        best.save(step)
      bad_records.assign(0)
      # Without an index, all clips before these would be read.
      is_due = epoch % max(1, num_epochs // _NUM_PICTURES) == 0
      if is_due and training.index is not None and step < total_steps:
        show_pictures(step)
      report.resume_clock()
    if step >= total_steps:
      break
    num_steps = min(steps_per_loop, steps_per_epoch - step % steps_per_epoch)
    stop.postpone()
    with _profiled(workdir, profile_steps, step, step + num_steps):
      values = steps.train(batches, tf.constant(num_steps))
      values = {name: value.numpy().item() for name, value in values.items()}
    if values["first_bad_step"] >= 0:
      raise not_finite("the loss or its gradient is", values["first_bad_step"])
    bad_records.assign_add(values["bad_records"])
    if bad_records.numpy() > pipeline.max_bad_records:
      raise ValueError(
        f"{bad_records.numpy()} records of this epoch are bad, named above; "
        f"Pipeline.max_bad_records is {pipeline.max_bad_records}: raise it, or "
        "prepare the data again (tools/inspect_records.py --validate names all "
        "that is bad)."
      )
    is_due = (step + num_steps) // checkpoint_steps > step // checkpoint_steps
    step += num_steps
    report.loop(step, num_steps, values)
    is_stopping = distribution.any_process(strategy, stop.is_wanted)
    if is_due or is_stopping or step % steps_per_epoch == 0:
      if not steps.is_finite():
        raise not_finite("what the update made of the model is", step - 1)
      newest.save(step)
      report.saved()
      stop.saved(step)
    if is_stopping:
      raise stop.stopped()

  if is_chief:
    path = {"last": newest, "best": best}[exported].newest
    if path is None:  # best/ was deleted.
      raise ValueError(
        f"{workdir}/best holds no checkpoint to export: export the last, with "
        "--gin_bindings=\"train.exported = 'last'\"."
      )
    export_checkpoint(
      path,
      os.path.join(workdir, "saved_model", "1"),
      workdir=workdir,
      model=model,
      classes=training.classes,
      pipeline=pipeline,
    )
    report.say(f"exported the {exported} checkpoint to {workdir}/saved_model/1")
    highest = export.versions(os.path.join(workdir, "saved_model"))[-1]
    if highest > 1:
      report.say(
        f"{workdir}/saved_model/{highest} is an earlier export of "
        f"tools/export.py, but stands for {workdir}/saved_model as the highest "
        "version: use saved_model/1, or export again"
      )
  report.finish(
    step=step,
    best_step=int(best_step.numpy()),
    best_mAP=float(best_map.numpy()),
    exported=exported,
    devices=distribution.describe(strategy),
    run=fixed,
  )


def build(
  strategy: tf.distribute.Strategy,
  *,
  num_classes: int,
  steps_per_epoch: int,
  model: Callable[..., tagger_lib.Tagger],
  optimizer: Callable[..., optimization.Optimizer],
  schedule: Callable[..., tf.keras.optimizers.schedules.LearningRateSchedule],
  pipeline: data.Pipeline,
  base_learning_rate: float,
  global_batch_size: int,
  num_epochs: int,
  seed: int = 0,
  clip_norm: float | None = None,
  accumulate_steps: int = 1,
  precision: str = "float32",
) -> tuple[trainer.Trainer, tagger_lib.Tagger, optimization.Optimizer]:
  """Makes what trains; the arguments are as in `train`.

  Returns:
    `Trainer`, `Tagger`, optimizer, with all their variables.

  Raises:
    ValueError: If a value is not among those allowed.
  """
  if precision not in ("float32", "mixed_bfloat16"):
    raise ValueError(
      f"train.precision is {precision!r}: allowed are float32, mixed_bfloat16."
    )
  tf.keras.mixed_precision.set_global_policy(precision)
  # Keras draws the initial weights from it.
  tf.keras.utils.set_random_seed(seed)
  with strategy.scope():
    tagger = _make_tagger(model, num_classes, pipeline.crop_samples)
    rate = optimization.scaled_learning_rate(
      base_learning_rate, global_batch_size
    )
    optimizer = optimizer(schedule(rate, steps_per_epoch, num_epochs))
    optimization.create_slots(optimizer, tagger.trained_variables)
  steps = trainer.Trainer(
    strategy,
    tagger,
    optimizer,
    global_batch_size=global_batch_size,
    seed=seed,
    clip_norm=clip_norm,
    accumulate_steps=accumulate_steps,
  )
  return steps, tagger, optimizer


def _make_tagger(model, num_classes: int, num_samples: int):
  """A tagger with its variables made."""
  tagger = model(num_classes=num_classes)
  rate_hz = getattr(tagger.frontend, "sample_rate_hz", records.SAMPLE_RATE_HZ)
  if rate_hz != records.SAMPLE_RATE_HZ:
    raise ValueError(
      f"LogMel.sample_rate_hz is {rate_hz}; records have "
      f"{records.SAMPLE_RATE_HZ}, which is to be bound."
    )
  tagger(tf.zeros([1, num_samples]))
  return tagger


class _Stop:
  """SIGTERM: what a cluster sends some seconds before it takes a machine.

  What is on the disk is whole at any time, so the run ends at once; but steps
  that have begun are ended and saved, and one of several workers asks the
  others first.
  """

  def __init__(self, has_peers: bool):
    self.is_wanted = False
    self._is_postponed = self._has_peers = has_peers
    self._step = None
    with contextlib.suppress(ValueError):  # Not in the main thread: no signals.
      signal.signal(signal.SIGTERM, self._handle)

  def postpone(self) -> None:
    """Steps begin; they are on the disk when `saved` is called."""
    self._is_postponed = True

  def saved(self, step: int) -> None:
    """Tells up to where the run is on the disk."""
    self._step = step
    self._is_postponed = self._has_peers
    if self.is_wanted and not self._is_postponed:
      raise self.stopped()

  def stopped(self) -> cli.Stopped:
    where = "before the first step"
    if self._step:
      where = f"after step {self._step}, which is saved"
    return cli.Stopped(
      f"stopped by SIGTERM {where}; the same command continues"
    )

  def _handle(self, *_):
    self.is_wanted = True
    if not self._is_postponed:
      raise self.stopped()


@contextlib.contextmanager
def _profiled(workdir, profile_steps, begin, end):
  """Profiles the loop from `begin` to `end` if it holds a step asked for."""
  if not profile_steps or profile_steps[1] < begin or end <= profile_steps[0]:
    yield
    return
  with tf.profiler.experimental.Profile(os.path.join(workdir, "summaries")):
    yield


def _lock(workdir: str):
  """`storage.lock`, and removes what a killed run left half written."""
  lock = storage.lock(workdir)
  if lock is not None:
    for folder in (workdir, os.path.join(workdir, _THRESHOLDS)):
      storage.remove_stale_files(folder)
  return lock


def export_checkpoint(
  path: str,
  directory: str,
  *,
  workdir: str,
  model: Callable[..., tagger_lib.Tagger],
  classes: labels.ClassList,
  pipeline: data.Pipeline,
  **options,
) -> None:
  """Exports the model of a checkpoint.

  Args:
    path: The checkpoint.
    directory: Where the SavedModel goes, see `export.export`.
    workdir: Of the run, whose configuration is exported as well, and the
      validation at this step, if there was one.
    model: As in `train`.
    classes: Those it was trained with.
    pipeline: As in `train`.
    **options: For `export.export`.

  Raises:
    ValueError: If the checkpoint cannot be read or is another model's.
  """
  export.export(
    restored_tagger(path, model, len(classes), pipeline),
    directory,
    classes=classes,
    min_samples=pipeline.crop_samples,
    padding=pipeline.padding,
    config_gin=read_run(workdir)[1],
    validation=_validation_of(path, workdir),
    thresholds=_thresholds_of(path, workdir),
    **options,
  )


def restored_tagger(
  path: str,
  model: Callable[..., tagger_lib.Tagger],
  num_classes: int,
  pipeline: data.Pipeline,
) -> tagger_lib.Tagger:
  """The `Tagger` of a checkpoint; see `export_checkpoint`."""
  tagger = _make_tagger(model, num_classes, pipeline.crop_samples)
  with messages.naming_broken(path):
    try:
      tf.train.Checkpoint(model=tagger).restore(
        path
      ).expect_partial().assert_existing_objects_matched()
    except (AssertionError, ValueError, tf.errors.OpError) as e:
      raise ValueError(
        f"{path} is no checkpoint of this model, which config.gin describes: "
        "give one of the same work directory."
      ) from e
  return tagger


def _write_thresholds(workdir, step, split, thresholds, f1) -> None:
  """What an export of this step's checkpoint says of thresholds."""
  folder = os.path.join(workdir, _THRESHOLDS)
  tf.io.gfile.makedirs(folder)
  storage.write_json(
    os.path.join(folder, f"{step}.json"),
    {
      "chosen_by": "greatest F1 of the class on the validation clips' crops; "
      "an equal or higher score is positive; null: no positive clip",
      "num_clips": split.num_clips,
      "step": step,
      "values": thresholds.tolist(),
      "f1": f1.tolist(),
    },
  )


def _thresholds_of(path: str, workdir: str):
  """What `_write_thresholds` wrote for a checkpoint, if it is this run's."""
  step = _step_of(path, workdir)
  file = os.path.join(workdir, _THRESHOLDS, f"{step}.json")
  if not tf.io.gfile.exists(file):
    return None
  with tf.io.gfile.GFile(file) as opened:
    return json.load(opened)


def _validation_of(path: str, workdir: str) -> dict[str, float] | None:
  """The validation of a checkpoint, if it is one of this run's."""
  return reporting.validations(workdir).get(_step_of(path, workdir))


def _step_of(path: str, workdir: str) -> int | None:
  """The step of a checkpoint, if it is one of this run's."""
  folder, name = os.path.split(path)
  step = re.fullmatch(r"ckpt-(\d+)", name)
  is_of_run = os.path.abspath(os.path.dirname(folder)) == os.path.abspath(
    workdir
  )
  if not step or not is_of_run:
    return None
  return int(step[1])


def read_run(workdir: str) -> tuple[labels.ClassList, str]:
  """What a work directory says of its model.

  Returns:
    The classes, and config.gin as text.

  Raises:
    ValueError: If it does not say it.
  """
  try:
    with tf.io.gfile.GFile(os.path.join(workdir, "run.json")) as file:
      run = json.load(file)
    with tf.io.gfile.GFile(os.path.join(workdir, "config.gin")) as file:
      gin_text = file.read()
  except (ValueError, tf.errors.NotFoundError) as e:
    raise ValueError(
      f"{workdir}: no work directory of a training run, which would hold "
      "run.json and config.gin: give what --workdir was in training."
    ) from e
  if "classes" not in run:
    raise ValueError(
      f"{workdir}/run.json does not hold the class list, as it was written by "
      "an older version: give the training command again, which adds it."
    )
  return labels.ClassList.from_json(run["classes"]), gin_text


def _refuse_changes(path: str, fixed: dict) -> None:
  """Compares with run.json what a run must be continued with."""
  if not tf.io.gfile.exists(path):
    return
  with tf.io.gfile.GFile(path) as file:
    begun_with = json.load(file)
  for name, value in fixed.items():
    if begun_with.get(name, value) != value:  # Older runs have fewer.
      raise ValueError(
        f"{path}: this run was begun with {name} {begun_with.get(name)}, not "
        f"{value}: continue with that, or choose another --workdir."
      )


def _show_changes(path: str) -> None:
  """Prints how the operative config differs from that of the last start."""
  if not tf.io.gfile.exists(path):
    return
  with tf.io.gfile.GFile(path) as file:
    before = file.read()
  changes = [
    line
    for line in difflib.unified_diff(
      before.splitlines(), config.operative().splitlines(), n=0
    )
    if not line.startswith(("---", "+++", "@@"))
  ]
  if changes:
    print("\n".join(["changed since the last start:", *changes]), flush=True)


def _digest(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()[:12]
