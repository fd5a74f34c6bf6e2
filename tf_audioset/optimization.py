# SPDX-License-Identifier: Apache-2.0
"""Learning-rate schedule and AdamW.

The only module that knows tensorflow-addons, whose development has ended.
"""

from __future__ import annotations

import math
import warnings

import gin
import tensorflow as tf


def scaled_learning_rate(base: float, global_batch_size: int) -> float:
  """The linear scaling rule: `base` is for a batch of 256.

  Reference: Goyal et al., "Accurate, Large Minibatch SGD", 2017.
  """
  return base * global_batch_size / 256


@gin.register
class WarmupCosine(tf.keras.optimizers.schedules.LearningRateSchedule):
  """Linear from 0 to the peak, then half a cosine down to 0.

  Reference: Loshchilov and Hutter, "SGDR", 2017, without restarts.
  """

  def __init__(
    self,
    peak: float,
    steps_per_epoch: int,
    num_epochs: float,
    warmup_epochs: float = gin.REQUIRED,
  ):
    """Sets the three points of the curve.

    Args:
      peak: Learning rate at the end of the warm-up.
      steps_per_epoch: Steps in an epoch.
      num_epochs: Where the curve ends, in epochs, warm-up included.
      warmup_epochs: Where the peak is, in epochs.

    Raises:
      ValueError: If the warm-up is not shorter than the whole.
    """
    if not 0 <= warmup_epochs < num_epochs:
      raise ValueError(
        f"WarmupCosine.warmup_epochs is {warmup_epochs}; it must be at least 0 "
        f"and below train.num_epochs, {num_epochs}."
      )
    self._peak = peak
    self._warmup_steps = warmup_epochs * steps_per_epoch
    self._cosine_steps = (num_epochs - warmup_epochs) * steps_per_epoch

  def __call__(self, step: tf.Tensor) -> tf.Tensor:
    """float32 scalar for the update from `step` (from 0) to `step` + 1."""
    step = tf.cast(step, tf.float32)
    warmup = step / max(self._warmup_steps, 1.0)
    progress = (step - self._warmup_steps) / self._cosine_steps
    cosine = 0.5 * (1 + tf.cos(math.pi * tf.clip_by_value(progress, 0.0, 1.0)))
    return self._peak * tf.where(step < self._warmup_steps, warmup, cosine)

  def get_config(self):
    """For Keras; the schedule is rebuilt from gin, never from this."""
    return {}


class _Scaled(tf.keras.optimizers.schedules.LearningRateSchedule):
  """A schedule times a constant."""

  def __init__(self, schedule, factor):
    self._schedule = schedule
    self._factor = factor

  def __call__(self, step):
    return self._factor * self._schedule(step)

  def get_config(self):
    return {}


@gin.register
def adamw(
  schedule: tf.keras.optimizers.schedules.LearningRateSchedule,
  weight_decay: float = gin.REQUIRED,
  beta_1: float = 0.9,
  beta_2: float = 0.999,
  epsilon: float = 1e-8,
  implementation: str = "addons",
):
  """Adam with decoupled weight decay on every variable.

  Each step: p -= lr * (m_hat / (sqrt(v_hat) + epsilon) + weight_decay * p), so
  the decay follows the schedule.

  Args:
    schedule: Learning rate, lr, as a function of the step.
    weight_decay: Decay at a learning rate of 1.
    beta_1: Decay of the first moment, m.
    beta_2: Decay of the second moment, v.
    epsilon: Keeps the quotient finite.
    implementation: "addons" (one fused kernel a variable) or "keras".

  Returns:
    A Keras optimizer; its `iterations` is the number of updates made.

  Raises:
    ValueError: If the implementation is unknown.

  Reference: Loshchilov and Hutter, "Decoupled Weight Decay Regularization",
  2019.
  """
  moments = dict(beta_1=beta_1, beta_2=beta_2, epsilon=epsilon)
  if implementation == "keras":
    return tf.keras.optimizers.AdamW(
      schedule, weight_decay=weight_decay, jit_compile=False, **moments
    )
  if implementation != "addons":
    raise ValueError(
      f"adamw.implementation is {implementation!r}; allowed are 'addons' and "
      "'keras'."
    )
  with warnings.catch_warnings():
    # Its notice that development has ended: known, see the module's docstring.
    warnings.simplefilter("ignore")
    import tensorflow_addons as tfa
  # addons subtracts weight_decay * p as it is; the factor lr is ours to give.
  return tfa.optimizers.AdamW(
    weight_decay=_Scaled(schedule, weight_decay),
    learning_rate=schedule,
    **moments,
  )


def apply_summed_gradients(optimizer, gradients, variables) -> None:
  """Updates from gradients that are already summed over the replicas."""
  pairs = zip(gradients, variables)
  if isinstance(optimizer, tf.keras.optimizers.legacy.Optimizer):
    optimizer.apply_gradients(pairs, experimental_aggregate_gradients=False)
  else:
    optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)


def create_slots(optimizer, variables) -> None:
  """Makes the moments now and not in the first step, so that restoring can
  check that each one was found.
  """
  if isinstance(optimizer, tf.keras.optimizers.legacy.Optimizer):
    optimizer._create_all_weights(variables)  # It has no public name.
  else:
    optimizer.build(variables)
