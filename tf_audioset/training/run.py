# SPDX-License-Identifier: Apache-2.0
"""The run of an experiment: restore, train, check, report, save, validate."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from tf_audioset.evaluation import scoring
from tf_audioset.runtime import distribution, gin_config
from tf_audioset.runtime.errors import UserError
from tf_audioset.serving import exported_tagger
from tf_audioset.training import (
  averaging,
  checkpoints,
  dashboard,
  preemption,
  reporting,
  run_data,
  workdir,
)
from tf_audioset.weights import images, pretrained

# Sets of pictures that TensorBoard shows after the first, over a run.
_NUM_PICTURES = 10


class Run:
  """One start of a run, which goes on from where the last one was saved."""

  def __init__(
    self,
    experiment,
    strategy: tf.distribute.Strategy,
    data_dir: str,
    workdir_path: str,
    *,
    profile_steps: tuple[int, int] | None,
    data_workers: Sequence[str],
    take_over: bool,
  ):
    """Notes what is run; the arguments are those of `Experiment.run`."""
    _check_places(strategy, data_dir, workdir_path, data_workers)
    self._experiment = experiment
    self._strategy = strategy
    self._data_dir = data_dir
    self._workdir = workdir.WorkDir(workdir_path, take_over=take_over)
    self._profile_steps = profile_steps
    self._data_workers = data_workers
    self._is_chief = distribution.is_chief(strategy)
    self._has_peers = distribution.has_peers(strategy)

  def execute(self) -> None:
    """Trains to the end; the errors are those of `Experiment.run`."""
    try:
      self._execute()
    finally:
      self._workdir.release()

  def _execute(self) -> None:
    """Restores, trains, checks, reports, saves, validates, exports."""
    with preemption.Watch(self._has_peers) as stop:
      self._build()
      step = self._restore()
      stop.saved(step)
      self._open_workdir()
      self._begin_reports(step)
      batches = self._batches(step)
      while True:
        if step and self._ends_epoch(step):
          # Saved already: after a stop in here, it is made again.
          self._validate(step)
          self._bad_records.assign(0)
        if step >= self._total_steps:
          break
        stop.postpone()
        num_steps = self._steps_to(step)
        values = self._train(batches, step, num_steps)
        self._bad_records.assign_add(values["bad_records"])
        self._check(values)
        begin, step = step, step + num_steps
        self._report.loop(step, num_steps, values)
        is_stopping = distribution.any_process(self._strategy, stop.is_wanted)
        if is_stopping or self._is_checkpoint_due(begin, step):
          self._save(step)
          stop.saved(step)
        if is_stopping:
          raise stop.stopped()
      if self._is_chief:
        self._export()
      self._finish(step)

  def _build(self) -> None:
    """Finds the data and makes everything that has variables."""
    experiment, strategy = self._experiment, self._strategy
    self._data = experiment.splits(strategy, self._data_dir)
    self._training = self._data.training
    self._validation = self._data.validation
    self._steps_per_epoch = experiment.steps_per_epoch(self._training.num_clips)
    self._total_steps = experiment.total_steps(self._steps_per_epoch)
    self._parts = experiment.build(
      strategy,
      num_classes=len(self._training.classes),
      steps_per_epoch=self._steps_per_epoch,
    )
    lengths = run_data.check_lengths(
      self._training, experiment.pipeline.crop_samples, self._data_dir
    )
    self._remarks = lengths + run_data.check_labels(
      self._data,
      self._parts.tagger.loss_function,
      needs_metrics=experiment.exported == "best",
    )
    self._remarks += experiment.pipeline.remarks(self._training)
    with strategy.scope():
      self._best_map = tf.Variable(-1.0, trainable=False)
      self._best_step = tf.Variable(0, trainable=False, dtype=tf.int64)
      # Those since the epoch began.
      self._bad_records = tf.Variable(0, trainable=False, dtype=tf.int64)
    # What gin has not been asked for by now is a mistake.
    gin_config.check_all_used()

  def _restore(self) -> int:
    """Restores the last checkpoint or starts anew; returns the step."""
    _, tagger, optimizer, average = self._parts
    if self._is_chief:
      self._workdir.lock()  # What follows mends what it finds.
    models = {"model": tagger}
    if average is not None:
      models[averaging.NAME] = average.tagger
    self._newest = self._checkpoints(
      "checkpoints",
      self._experiment.checkpoints_to_keep,
      **models,
      optimizer=optimizer,
      best_map=self._best_map,
      best_step=self._best_step,
      bad_records=self._bad_records,
    )
    self._best = self._checkpoints("best", 1, **models)
    if self._newest.newest:
      self._workdir.refuse_changes(self._fixed())
      self._workdir.show_changes()
    self._restored = self._newest.restore()
    initial = self._experiment.initial_checkpoint
    if self._restored is None and initial:
      about = pretrained.load(
        initial,
        tagger,
        self._training.classes,
        config_gin=gin_config.operative(),
        allow_other_features=self._experiment.allow_other_features,
      )
      print(about, flush=True)
    elif self._restored is None and tagger.is_backbone_frozen:
      raise UserError(
        "Tagger.freeze_backbone is True, but the weights are random: give "
        "those to start from with --init_from."
      )
    # Networks of images know nothing of spectrograms' levels.
    if self._restored is None and (not initial or images.is_file(initial)):
      run_data.set_levels(tagger, self._training, self._data_dir)
    if self._restored is None and average is not None:
      average.begin()
    step = int(optimizer.iterations.numpy())
    if not distribution.is_same_in_all(self._strategy, step):
      raise UserError(
        f"--workdir={self._workdir.path}: not all workers found the same "
        f"checkpoint there, this one that of step {step}: it must be one "
        "folder that all of them see."
      )
    return step

  def _checkpoints(self, folder: str, keep: int, **what):
    return checkpoints.Checkpoints(
      tf.train.Checkpoint(**what),
      self._workdir.join(folder),
      keep,
      self._is_chief,
      self._has_peers,
      may_lack=["bad_records"],
    )

  def _fixed(self) -> dict[str, object]:
    """Returns what a run cannot be continued without."""
    tagger = self._parts.tagger
    classes = json.dumps(self._training.classes.to_json())
    return {
      "model": workdir.model_of(tagger),
      "weight averaging": "off" if self._parts.average is None else "on",
      "number of classes": len(self._training.classes),
      "class list": hashlib.sha256(classes.encode()).hexdigest()[:12],
      "global batch size": self._experiment.global_batch_size,
      "seed": self._experiment.seed,
      "training clips": self._training.num_clips,
      "training data": self._training.digest(),
      "validation data": self._validation.digest(),
      **self._experiment.pipeline.fixed(self._training),
    }

  def _open_workdir(self) -> None:
    if self._is_chief:
      self._workdir.lock(create=True)
      self._workdir.describe(self._fixed(), self._training.classes)

  def _begin_reports(self, step: int) -> None:
    experiment, strategy = self._experiment, self._strategy
    num_classes = len(self._training.classes)
    batch_size = experiment.global_batch_size
    average = self._parts.average
    taggers = [self._parts.tagger, *([average.tagger] if average else [])]
    self._evaluators = [
      scoring.Evaluator(
        strategy,
        tagger,
        experiment.pipeline,
        self._validation,
        num_classes=num_classes,
        batch_size=batch_size,
      )
      for tagger in taggers
    ]
    self._report = reporting.Report(
      self._workdir.path,
      total_steps=self._total_steps,
      first_step=step,
      batch_size=batch_size,
      classes=self._training.classes,
      is_chief=self._is_chief,
    )
    self._report.config(gin_config.operative())
    if self._restored:
      self._report.say(f"continuing from {self._restored} at step {step}")
    is_random = not self._restored and not experiment.initial_checkpoint
    self._report.say(
      f"{self._training.num_clips} training and {self._validation.num_clips} "
      f"validation clips, {num_classes} classes; "
      f"{distribution.describe(strategy)}; {self._total_steps} steps of "
      f"{batch_size} clips, from step {step}"
      + (" and random weights" if is_random else "")
    )
    self._report.say(f"validation: {self._data.about}")
    for line in self._remarks:
      self._report.say(line)
    if self._training.num_clips < batch_size and not experiment.epoch_clips:
      self._report.say(
        f"warning: a batch of {batch_size} clips is more than the "
        f"{self._training.num_clips} there are: an epoch is one step, in which "
        "clips come more than once: lower train.global_batch_size"
      )
    if step == 0:
      self._show_pictures(0)

  def _show_pictures(self, step: int) -> None:
    """Shows how clips of a step are augmented."""
    self._report.pictures(
      step,
      lambda: dashboard.augment(
        self._parts.tagger,
        self._experiment.pipeline,
        self._training,
        batch_size=self._experiment.global_batch_size,
        seed=self._experiment.seed,
        step=step,
      ),
    )

  def _batches(self, first_step: int) -> Iterator:
    experiment = self._experiment

    def share(context):
      batches = experiment.pipeline.training(
        self._training,
        num_classes=len(self._training.classes),
        batch_size=experiment.global_batch_size,
        seed=experiment.seed,
        first_step=first_step,
        context=context,
        workers=self._data_workers,
      )
      # Or several workers would ask one another in each step if it has ended.
      return batches.apply(
        tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
      )

    batches = iter(distribution.batches(self._strategy, share))
    self._report.resume_clock()
    return batches

  def _steps_to(self, step: int) -> int:
    """Returns how many steps the loop after `step` has."""
    left = self._steps_per_epoch - step % self._steps_per_epoch
    left = min(left, self._total_steps - step)
    return min(self._experiment.steps_per_loop, left)

  def _ends_epoch(self, step: int) -> bool:
    """Returns whether an epoch ends with a step; the last may be shorter."""
    return step % self._steps_per_epoch == 0 or step == self._total_steps

  def _train(self, batches, step: int, num_steps: int) -> dict:
    with self._profiled(step, step + num_steps):
      values = self._parts.trainer.train(batches, tf.constant(num_steps))
      return {name: value.numpy().item() for name, value in values.items()}

  @contextlib.contextmanager
  def _profiled(self, begin: int, end: int):
    """Profiles a loop if it holds a step that was asked for."""
    asked = self._profile_steps
    if not asked or asked[1] < begin or end <= asked[0]:
      yield
      return
    with tf.profiler.experimental.Profile(self._workdir.join("summaries")):
      yield

  def _check(self, values: dict) -> None:
    """Refuses to go on after a loss that is not finite, or on broken data."""
    if values["first_bad_step"] >= 0:
      raise self._not_finite(
        "the loss or its gradient is", values["first_bad_step"]
      )
    allowed = self._experiment.pipeline.max_bad_records
    num_bad = int(self._bad_records.numpy())
    if num_bad > allowed:
      raise UserError(
        f"{num_bad} records of this epoch are bad, named above; "
        f"Pipeline.max_bad_records is {allowed}: raise it, or prepare the data "
        "again (tools/inspect_records.py --validate names all that is bad)."
      )

  def _not_finite(self, what: str, at_step: int) -> UserError:
    experiment = self._experiment
    ids = experiment.pipeline.training_ids(
      self._training,
      batch_size=experiment.global_batch_size,
      seed=experiment.seed,
      step=at_step,
    )
    rate = self._parts.trainer.learning_rate(at_step)
    return UserError(
      f"{what} not finite in step {at_step}, counted from 0, learning rate "
      f"{rate:.3g}; the newest checkpoint is {self._newest.newest or 'none'}. "
      "Lower train.base_learning_rate, bind train.clip_norm = 1.0, or look for "
      f"damage in the clips of the step: {', '.join(ids) or 'without ids'}"
    )

  def _is_checkpoint_due(self, begin: int, end: int) -> bool:
    every = self._experiment.checkpoint_steps
    return end // every > begin // every or self._ends_epoch(end)

  def _save(self, step: int) -> None:
    if not self._parts.trainer.is_finite():
      raise self._not_finite("what the update made of the model is", step - 1)
    self._workdir.check_lock()
    self._newest.save(step)
    self._report.saved()

  def _validate(self, step: int) -> None:
    """Scores the validation clips; saves the model if it is the best so far.

    Where the weights are averaged, the raw ones are reported as well.
    """
    epoch = -(-step // self._steps_per_epoch)
    results = [x.evaluate(self._report.validating) for x in self._evaluators]
    self._report.epoch(
      step, epoch, *((result, loss) for result, _, _, loss in results)
    )
    result, thresholds, f1, _ = results[-1]  # Of what would be exported.
    if self._is_chief:
      self._workdir.write_thresholds(
        step, self._validation.num_clips, thresholds, f1
      )
    mean_ap = np.float32(result.summary()["mAP"])  # As `_best_map` holds it.
    if np.isnan(mean_ap) and self._experiment.exported == "best":
      raise UserError(
        "train.exported = 'best': no checkpoint can be the best, as no class "
        "has positive and negative validation clips: validate on more clips, "
        "or export the last."
      )
    if mean_ap > self._best_map.numpy():
      self._best_map.assign(mean_ap)
      self._best_step.assign(step)
      self._best.save(step)
    num_epochs = self._total_steps // self._steps_per_epoch
    every = max(1, num_epochs // _NUM_PICTURES)
    # Without an index, all clips before these would be read.
    can_seek = self._training.index is not None
    if epoch % every == 0 and can_seek and step < self._total_steps:
      self._show_pictures(step)
    self._report.resume_clock()

  def _export(self) -> None:
    exported = self._experiment.exported
    path = {"last": self._newest, "best": self._best}[exported].newest
    if path is None:  # best/ was deleted.
      raise UserError(
        f"{self._workdir.join('best')} holds no checkpoint to export: export "
        "the last, with --gin_bindings=\"train.exported = 'last'\"."
      )
    folder = self._workdir.join("saved_model")
    self._experiment.export(
      path,
      f"{folder}/1",
      workdir_path=self._workdir.path,
      classes=self._training.classes,
    )
    self._report.say(f"exported the {exported} checkpoint to {folder}/1")
    highest = exported_tagger.versions(folder)[-1]
    if highest > 1:
      self._report.say(
        f"{folder}/{highest} is an earlier export of tools/export.py, but "
        f"stands for {folder} as the highest version: use saved_model/1, or "
        "export again"
      )

  def _finish(self, step: int) -> None:
    self._report.finish(
      step=step,
      best_step=int(self._best_step.numpy()),
      best_mAP=float(self._best_map.numpy()),
      exported=self._experiment.exported,
      devices=distribution.describe(self._strategy),
      run=self._fixed(),
    )


def _check_places(strategy, data_dir, workdir_path, data_workers) -> None:
  """Refuses what the hosts of a remote TPU cannot reach."""
  if not distribution.is_remote(strategy):
    return
  for name, path in (("data_dir", data_dir), ("workdir", workdir_path)):
    if "://" not in path:
      raise UserError(
        f"--{name}={path}: the hosts of this TPU are other machines, which "
        "do not see this one's disk: give a folder of a bucket, gs://..."
      )
  if data_workers:
    raise UserError(
      "--data_service is for a pipeline on this machine; the hosts of this "
      "TPU are others: leave the flag out."
    )
