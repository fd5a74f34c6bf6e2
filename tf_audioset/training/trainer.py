# SPDX-License-Identifier: Apache-2.0
"""The training step, many of them in one `tf.function`."""

from __future__ import annotations

from collections.abc import Iterator

import tensorflow as tf

from tf_audioset.runtime import randomness
from tf_audioset.training import averaging, optimizers


class Trainer:
  """Model, optimizer and strategy, and the only training function."""

  def __init__(
    self,
    strategy: tf.distribute.Strategy,
    tagger,
    optimizer,
    *,
    global_batch_size: int,
    seed: int,
    clip_norm: float | None = None,
    accumulate_steps: int = 1,
    jit_compile: bool = False,
    average: averaging.Average | None = None,
  ):
    """Holds what a step needs.

    Args:
      strategy: Where the replicas are.
      tagger: A built `Tagger`, created in the strategy's scope.
      optimizer: Created in the strategy's scope; its `iterations` is the step.
      global_batch_size: The loss is averaged over this many clips.
      seed: Of augmentation, dropout and stochastic depth.
      clip_norm: The gradient is scaled down to this global norm; None: never.
      accumulate_steps: A replica takes its clips in so many parts, one after
        another, and updates once with the sum of their gradients. It needs less
        memory; docs/tpu.md has figures.
      jit_compile: Compile the step with XLA. A TPU does so in any case; on a
        CPU it slows convolutions down.
      average: Follows the tagger's variables; created in the strategy's scope.
    """
    self._strategy = strategy
    self._tagger = tagger
    self._optimizer = optimizer
    self._global_batch_size = global_batch_size
    self._seed = seed
    self._clip_norm = clip_norm
    self._num_parts = accumulate_steps
    self._average = average
    self._step = tf.function(
      self._step, autograph=False, jit_compile=jit_compile or None
    )

    def on_device(value):
      # The same on each replica: nothing is sent when it is read.
      return tf.Variable(
        value,
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
      )

    with strategy.scope():
      self._loss_sum = on_device(0.0)
      self._last_norm = on_device(0.0)
      self._first_bad_step = on_device(tf.constant(-1, tf.int64))
      self._bad_records = on_device(0)

  # Without AutoGraph, which leaves the code that it generates in the folder of
  # temporary files when the process ends as `cli.run` ends it.
  @tf.function(autograph=False)
  def train(
    self, iterator: Iterator, num_steps: tf.Tensor
  ) -> dict[str, tf.Tensor]:
    """Makes `num_steps` updates; nothing leaves the device in between.

    Args:
      iterator: Of the distributed training batches.
      num_steps: int32 scalar tensor, at least 1.

    Returns:
      Scalars: "loss" (float32, mean over the steps), "gradient_norm" (float32,
      of the last, before clipping), "learning_rate" (float32, of the last),
      "first_bad_step" (int64, the first step of the loop whose loss or gradient
      is not finite, counted from 0; -1: none), "bad_records" (int32, how many
      the pipeline replaced; see `Pipeline`), "input_wait_seconds" (float64,
      in which the loop had no batch to go on with; where the device works
      behind the host's back, as a TPU does, it may have been busy then).
    """
    self._begin_loop()

    def step(done, waited):
      begin = tf.timestamp()
      with tf.control_dependencies([begin]):
        batch = iterator.get_next()
      with tf.control_dependencies(
        tf.nest.flatten(batch, expand_composites=True)
      ):
        waited += tf.timestamp() - begin
      self._strategy.run(self._step, args=(batch,))
      return done + 1, waited

    # One at a time, or the wait for a batch would be counted while the step
    # before is still at work. The pipeline prefetches in any case.
    _, waited = tf.while_loop(
      lambda done, _: done < num_steps,
      step,
      (0, tf.constant(0.0, tf.float64)),
      parallel_iterations=1,
    )
    self._average_statistics()
    return dict(self._end_loop(num_steps), input_wait_seconds=waited)

  @tf.autograph.experimental.do_not_convert
  def train_on(
    self, waveforms: tf.Tensor, targets: tf.Tensor
  ) -> dict[str, tf.Tensor]:
    """Trains as `train` does, on batches that are there already.

    Without an input pipeline, which runs on the host, XLA can compile all of
    it: `tf.function(trainer.train_on, jit_compile=True)`.

    Args:
      waveforms: int16 [num_steps, batch, num_samples].
      targets: float32 [num_steps, batch, num_classes].

    Returns:
      As `train`, without the wait for input.
    """
    self._begin_loop()
    num_steps = waveforms.shape[0]

    def step(i):
      self._strategy.run(self._step, args=((waveforms[i], targets[i]),))
      return (i + 1,)

    tf.while_loop(lambda i: i < num_steps, step, (0,))
    self._average_statistics()
    return self._end_loop(num_steps)

  @tf.function(autograph=False)
  def is_finite(self) -> tf.Tensor:
    """Returns whether all weights and statistics are finite, a bool scalar."""

    def count_bad():
      of_each = [
        tf.reduce_all(tf.math.is_finite(v)) for v in self._tagger.variables
      ]
      return tf.cast(~tf.reduce_all(of_each), tf.int32)

    num_bad = self._strategy.run(count_bad)
    return self._strategy.reduce("SUM", num_bad, axis=None) == 0

  def learning_rate(self, step: tf.Tensor) -> tf.Tensor:
    """As `optimization.learning_rate`."""
    return optimizers.learning_rate(self._optimizer, step)

  def _begin_loop(self):
    self._loss_sum.assign(0.0)
    self._first_bad_step.assign(-1)
    self._bad_records.assign(0)

  def _end_loop(self, num_steps):
    return {
      "loss": self._loss_sum.read_value() / tf.cast(num_steps, tf.float32),
      "gradient_norm": self._last_norm.read_value(),
      "learning_rate": self.learning_rate(self._optimizer.iterations - 1),
      "first_bad_step": self._first_bad_step.read_value(),
      "bad_records": self._bad_records.read_value(),
    }

  def _average_statistics(self):
    """Makes batch norm's statistics, of which each replica has its own, equal.

    Saving does so. Without it, a run would go on otherwise than after a
    restart, and a validation would judge other models than the one saved.
    """
    own = [
      v
      for v in self._tagger.variables
      if v.aggregation == tf.VariableAggregation.MEAN
    ]
    if self._average is not None:
      own += self._average.own

    def average():
      context = tf.distribute.get_replica_context()
      means = context.all_reduce(
        tf.distribute.ReduceOp.MEAN, [tf.identity(v) for v in own]
      )
      for variable, mean in zip(own, means):
        variable.assign(mean)

    is_frozen = self._tagger.is_backbone_frozen
    if own and not is_frozen and self._strategy.num_replicas_in_sync > 1:
      self._strategy.run(average)

  def _step(self, batch):
    """Computes one replica's part of one update."""
    waveforms, targets, *num_bad = batch  # The last only if some are allowed.
    context = tf.distribute.get_replica_context()
    variables = self._tagger.trained_variables
    # A cast alone would be the variable itself, which the update changes.
    step = tf.identity(tf.cast(self._optimizer.iterations, tf.int64))
    loss, gradients = self._summed_gradients(
      waveforms, targets, step, variables
    )
    # Summed here and not in the optimizer: the norm is then that of the whole
    # batch, and so is its clipping.
    loss, *gradients = context.all_reduce(
      tf.distribute.ReduceOp.SUM, [loss, *gradients]
    )
    norm = tf.linalg.global_norm(gradients)
    is_bad = ~(tf.math.is_finite(loss) & tf.math.is_finite(norm))
    self._first_bad_step.assign(
      tf.where(is_bad & (self._first_bad_step < 0), step, self._first_bad_step)
    )
    self._loss_sum.assign_add(loss)
    for number in num_bad:
      total = context.all_reduce(tf.distribute.ReduceOp.SUM, number)
      self._bad_records.assign_add(total)
    self._last_norm.assign(norm)
    if self._clip_norm is not None:
      gradients, _ = tf.clip_by_global_norm(gradients, self._clip_norm, norm)
    optimizers.apply_summed_gradients(self._optimizer, gradients, variables)
    if self._average is not None:
      self._average.update(step)

  def _summed_gradients(self, waveforms, targets, step, variables):
    """Loss and gradients of this replica's share of the global batch."""
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    seed = tf.stack([tf.cast(self._seed, tf.int64), step])

    def of_part(part, waveform, targets):
      # A part draws as a replica would that had no other.
      part_seed = randomness.fold_in(seed, replica * self._num_parts + part)
      with tf.GradientTape() as tape:
        logits, targets = self._tagger.train_logits(
          waveform, targets, part_seed
        )
        per_example = self._tagger.loss_function(targets, logits)
        loss = tf.reduce_sum(per_example) / self._global_batch_size
      return loss, tape.gradient(loss, variables)

    if self._num_parts == 1:
      return of_part(0, waveforms, targets)
    waveforms, targets = (
      tf.reshape(x, [self._num_parts, -1, *x.shape[1:]])
      for x in (waveforms, targets)
    )
    nothing = tf.constant(0.0), [tf.zeros(v.shape) for v in variables]

    def add(i, *sums):
      part = of_part(i, waveforms[i], targets[i])
      return i + 1, *tf.nest.map_structure(tf.add, sums, part)

    _, *sums = tf.while_loop(
      lambda i, *_: i < self._num_parts, add, (0, *nothing)
    )
    return sums
