# SPDX-License-Identifier: Apache-2.0
"""The training step, many of them in one `tf.function`."""

from __future__ import annotations

import tensorflow as tf

from tf_audioset import optimization, randomness


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
    jit_compile: bool = False,
  ):
    """Holds what a step needs.

    Args:
      strategy: Where the replicas are.
      tagger: A built `Tagger`, created in the strategy's scope.
      optimizer: Created in the strategy's scope; its `iterations` is the step.
      global_batch_size: The loss is averaged over this many clips.
      seed: Of augmentation, dropout and stochastic depth.
      clip_norm: The gradient is scaled down to this global norm; None: never.
      jit_compile: Compile the step with XLA; the front end's engine must be
        "matmul" then. A TPU does so in any case; on a CPU it slows
        convolutions down.
    """
    self._strategy = strategy
    self._tagger = tagger
    self._optimizer = optimizer
    self._global_batch_size = global_batch_size
    self._seed = seed
    self._clip_norm = clip_norm
    self._step = tf.function(self._step, jit_compile=jit_compile or None)

  @tf.function
  def train(self, iterator, num_steps: tf.Tensor) -> dict[str, tf.Tensor]:
    """Makes `num_steps` updates; nothing leaves the device in between.

    Args:
      iterator: Of the distributed training batches.
      num_steps: int32 scalar tensor, at least 1.

    Returns:
      float32 scalars: "loss" (mean over the steps), "gradient_norm" (of the
      last) and "learning_rate" (of the last).
    """
    loss_sum = tf.constant(0.0)
    norm = tf.constant(0.0)
    step = tf.cast(self._optimizer.iterations, tf.int32)
    for i in tf.range(num_steps):
      loss, norm = self._strategy.run(
        self._step, args=(next(iterator), step + i)
      )
      loss_sum += self._strategy.reduce("SUM", loss, axis=None)
      norm = self._strategy.reduce("MEAN", norm, axis=None)
    rate = self._optimizer.learning_rate
    if callable(rate):
      rate = rate(self._optimizer.iterations - 1)
    return {
      "loss": loss_sum / tf.cast(num_steps, tf.float32),
      "gradient_norm": norm,
      "learning_rate": tf.cast(rate, tf.float32),
    }

  def _step(self, batch, step):
    """One replica's part of one update.

    Returns:
      Its share of the global batch's mean loss; the norm of the summed
      gradient, before clipping.
    """
    waveform, targets = batch
    context = tf.distribute.get_replica_context()
    replica = context.replica_id_in_sync_group
    seed = randomness.fold_in(tf.stack([self._seed, step]), replica)
    variables = self._tagger.trainable_variables
    with tf.GradientTape() as tape:
      logits, targets = self._tagger.train_logits(waveform, targets, seed)
      per_example = self._tagger.loss_function(targets, logits)
      loss = tf.reduce_sum(per_example) / self._global_batch_size
    gradients = tape.gradient(loss, variables)
    # Summed here and not in the optimizer: the norm is then that of the whole
    # batch, and so is its clipping.
    gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    norm = tf.linalg.global_norm(gradients)
    if self._clip_norm is not None:
      gradients, _ = tf.clip_by_global_norm(gradients, self._clip_norm, norm)
    optimization.apply_summed_gradients(self._optimizer, gradients, variables)
    return loss, norm
