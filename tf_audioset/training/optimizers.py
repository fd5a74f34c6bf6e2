# SPDX-License-Identifier: Apache-2.0
"""Learning-rate schedules and optimizers.

The only module that knows tensorflow-addons, whose development has ended.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from typing import Union

import gin
import tensorflow as tf

from tf_audioset.runtime import gin_config, tf_internals
from tf_audioset.runtime.errors import UserError
from tf_audioset.training import durations

# addons' are of the legacy kind.
Optimizer = Union[
  tf.keras.optimizers.Optimizer, tf.keras.optimizers.legacy.Optimizer
]


LEARNING_RATE_SCALINGS = ("linear", "sqrt", "none")


def scaled_learning_rate(
  base: float, global_batch_size: int, scaling: str = "linear"
) -> float:
  """Returns the learning rate for a batch; `base` is for one of 256.

  Args:
    base: Learning rate.
    global_batch_size: Clips per update.
    scaling: "linear", in proportion to the batch; "sqrt", to its root, which
      Adam's step suggests; or "none".

  Reference: Goyal et al., "Accurate, Large Minibatch SGD", 2017; Malladi et
  al., "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms", 2022.
  """
  if scaling == "none":
    return base
  if scaling == "sqrt":
    return base * math.sqrt(global_batch_size / 256)
  return base * global_batch_size / 256


class _Warmup(tf.keras.optimizers.schedules.LearningRateSchedule):
  """Linear from 0 to the peak, then the peak times `_factor`."""

  def __init__(
    self,
    peak: float,
    steps_per_epoch: int,
    num_epochs: float,
    warmup_epochs: float | None = None,
    warmup_steps: int | None = None,
  ):
    """Sets what the schedules have in common.

    Args:
      peak: Learning rate at the end of the warm-up.
      steps_per_epoch: Steps in an epoch.
      num_epochs: Where the curve ends, in epochs, warm-up included.
      warmup_epochs: Where the peak is, in epochs; or
      warmup_steps: where it is, in steps.

    Raises:
      UserError: If not one of the two is given, or the warm-up is not shorter
        than the whole.
    """
    self._peak = peak
    self._steps_per_epoch = steps_per_epoch
    self._num_epochs = num_epochs
    self._warmup_epochs = durations.warmup_epochs(
      type(self).__name__,
      steps_per_epoch=steps_per_epoch,
      num_epochs=num_epochs,
      warmup_epochs=warmup_epochs,
      warmup_steps=warmup_steps,
    )

  def __call__(self, step: tf.Tensor) -> tf.Tensor:
    """Returns the rate of the update from `step` (from 0), float32 scalar."""
    epoch = tf.cast(step, tf.float32) / self._steps_per_epoch
    warmup = tf.math.divide_no_nan(epoch, float(self._warmup_epochs))
    after = self._factor(tf.maximum(epoch, self._warmup_epochs))
    return self._peak * tf.where(epoch < self._warmup_epochs, warmup, after)

  def _factor(self, epoch: tf.Tensor) -> tf.Tensor:
    """Returns the share of the peak at a (real) epoch after the warm-up."""
    raise NotImplementedError

  def get_config(self):
    """Returns nothing to rebuild it from: schedules come from gin."""
    return {}


@gin.register
class WarmupCosine(_Warmup):
  """Linear from 0 to the peak, then half a cosine down to a floor.

  Reference: Loshchilov and Hutter, "SGDR", 2017, without restarts.
  """

  def __init__(
    self,
    peak: float,
    steps_per_epoch: int,
    num_epochs: float,
    warmup_epochs: float | None = None,
    warmup_steps: int | None = None,
    floor: float = 0.0,
  ):
    """Sets the curve.

    Args:
      peak: Learning rate at the end of the warm-up.
      steps_per_epoch: Steps in an epoch.
      num_epochs: Where the floor is reached, in epochs, warm-up included.
      warmup_epochs: Where the peak is, in epochs; or
      warmup_steps: where it is, in steps.
      floor: The share of the peak at the end.

    Raises:
      UserError: If not one of the two is given, the warm-up is not shorter than
        the whole, or the floor is not in [0, 1).
    """
    super().__init__(
      peak, steps_per_epoch, num_epochs, warmup_epochs, warmup_steps
    )
    self._floor = gin_config.check_share("WarmupCosine.floor", floor)

  def _factor(self, epoch):
    length = self._num_epochs - self._warmup_epochs
    progress = tf.minimum((epoch - self._warmup_epochs) / length, 1.0)
    factor = 0.5 * (1 + tf.cos(math.pi * progress))
    return self._floor + (1 - self._floor) * factor


@gin.register
class WarmupConstant(_Warmup):
  """Linear from 0 to the peak, which then stays."""

  def _factor(self, epoch):
    return tf.ones_like(epoch)


@gin.register
class WarmupExponential(_Warmup):
  """Linear from 0 to the peak, then exponential decay."""

  def __init__(
    self,
    peak: float,
    steps_per_epoch: int,
    num_epochs: float,
    warmup_epochs: float | None = None,
    decay_rate: float = gin.REQUIRED,
    decay_epochs: float = gin.REQUIRED,
    warmup_steps: int | None = None,
  ):
    """Sets the curve.

    Args:
      peak: Learning rate at the end of the warm-up.
      steps_per_epoch: Steps in an epoch.
      num_epochs: Length of the run, in epochs.
      warmup_epochs: Where the peak is, in epochs; or `warmup_steps`.
      decay_rate: The rate is multiplied by this every `decay_epochs`,
        continuously.
      decay_epochs: In epochs.
      warmup_steps: Where the peak is, in steps.
    """
    super().__init__(
      peak, steps_per_epoch, num_epochs, warmup_epochs, warmup_steps
    )
    self._decay_rate = decay_rate
    self._decay_epochs = decay_epochs

  def _factor(self, epoch):
    return self._decay_rate ** (
      (epoch - self._warmup_epochs) / self._decay_epochs
    )


@gin.register
class WarmupStep(_Warmup):
  """Linear from 0 to the peak, then a staircase."""

  def __init__(
    self,
    peak: float,
    steps_per_epoch: int,
    num_epochs: float,
    warmup_epochs: float | None = None,
    boundary_epochs: Sequence[float] = gin.REQUIRED,
    decay_rate: float = gin.REQUIRED,
    warmup_steps: int | None = None,
  ):
    """Sets the curve.

    Args:
      peak: Learning rate at the end of the warm-up.
      steps_per_epoch: Steps in an epoch.
      num_epochs: Length of the run, in epochs.
      warmup_epochs: Where the peak is, in epochs; or `warmup_steps`.
      boundary_epochs: From each of these on, in epochs, the rate is ...
      decay_rate: ... multiplied by this once more.
      warmup_steps: Where the peak is, in steps.
    """
    super().__init__(
      peak, steps_per_epoch, num_epochs, warmup_epochs, warmup_steps
    )
    self._boundary_epochs = tuple(boundary_epochs)
    self._decay_rate = decay_rate

  def _factor(self, epoch):
    passed = epoch >= tf.constant(self._boundary_epochs, tf.float32)
    return self._decay_rate ** tf.reduce_sum(tf.cast(passed, tf.float32))


class _Scaled(tf.keras.optimizers.schedules.LearningRateSchedule):
  """A schedule times a constant."""

  def __init__(self, schedule, factor):
    self._schedule = schedule
    self._factor = factor

  def __call__(self, step):
    return self._factor * self._schedule(step)

  def get_config(self):
    return {}


# Scales, shifts and biases, by what Keras calls them; ConvNeXt's "layer_scale"
# and an attention head's "part_weights" are ours.
_NORMS_AND_BIASES = (
  r"\b(gamma|beta|bias|layer_scale|part_weights)(/replica_\d+)?:\d+$"
)


def _moments(owner, beta_1, beta_2, epsilon) -> dict[str, float]:
  """Returns the keyword arguments that Adam's kin share, checked."""
  gin_config.check_share(f"{owner}.beta_1", beta_1)
  gin_config.check_share(f"{owner}.beta_2", beta_2)
  if not epsilon > 0:  # Keras would take its default, 1e-7, for 0.
    raise UserError(f"{owner}.epsilon is {epsilon}; it must be above 0.")
  return dict(beta_1=beta_1, beta_2=beta_2, epsilon=epsilon)


@gin.register
def adamw(
  schedule: tf.keras.optimizers.schedules.LearningRateSchedule,
  weight_decay: float = gin.REQUIRED,
  beta_1: float = 0.9,
  beta_2: float = 0.999,
  epsilon: float = 1e-8,
  decay_norms_and_biases: bool = True,
  implementation: str = "addons",
) -> Optimizer:
  """Makes Adam with decoupled weight decay.

  Each step: p -= lr * (m_hat / (sqrt(v_hat) + epsilon) + weight_decay * p), so
  the decay follows the schedule.

  Args:
    schedule: Learning rate, lr, as a function of the step.
    weight_decay: Decay at a learning rate of 1.
    beta_1: Decay of the first moment, m.
    beta_2: Decay of the second moment, v.
    epsilon: Keeps the quotient finite. It stands beside the root of the
      corrected second moment, v_hat, as in optax and PyTorch.
    decay_norms_and_biases: Whether scales, shifts and biases decay as well.
    implementation: "addons" (one fused kernel a variable) or "keras".

  Returns:
    A Keras optimizer; its `iterations` is the number of updates made.

  Raises:
    UserError: If a value is out of its range or the implementation unknown.

  Reference: Loshchilov and Hutter, "Decoupled Weight Decay Regularization",
  2019.
  """
  gin_config.check_not_negative("adamw.weight_decay", weight_decay)
  moments = _moments("adamw", beta_1, beta_2, epsilon)
  if implementation == "keras":
    optimizer = _KerasAdamW(
      schedule, weight_decay=weight_decay, jit_compile=False, **moments
    )
    if not decay_norms_and_biases:
      optimizer.exclude_from_weight_decay(var_names=[_NORMS_AND_BIASES])
    return optimizer
  if implementation != "addons":
    raise UserError(
      f"adamw.implementation is {implementation!r}; allowed are 'addons' and "
      "'keras'."
    )

  class AdamW(_addons().AdamW):
    """addons' AdamW with another epsilon and another choice of what decays."""

    def _prepare_local(self, var_device, var_dtype, apply_state):
      super()._prepare_local(var_device, var_dtype, apply_state)
      values = apply_state[var_device, var_dtype]
      # The kernel adds it to the root of v and not of v_hat, which is
      # v / (1 - beta_2^t): with this factor the quotient is the same.
      values["epsilon"] *= tf.sqrt(1 - values["beta_2_power"])

    def _do_use_weight_decay(self, var):
      # By name: addons' own way fails with several replicas, whose copies of a
      # variable are not in its list.
      return decay_norms_and_biases or not re.search(
        _NORMS_AND_BIASES, var.name
      )

  # addons subtracts weight_decay * p as it is; the factor lr is ours to give.
  return AdamW(
    weight_decay=_Scaled(schedule, weight_decay),
    learning_rate=schedule,
    **moments,
  )


class _KerasAdamW(tf.keras.optimizers.AdamW):
  """Keras' AdamW, with epsilon beside the root of v_hat and not of v."""

  def update_step(self, gradient, variable):
    """Updates a variable and its moments; the decay has been subtracted."""
    m, v = tf_internals.adam_moments(self, variable)
    dtype = variable.dtype
    step = tf.cast(self.iterations + 1, dtype)
    rate = tf.cast(self.learning_rate, dtype)
    beta_1, beta_2 = tf.cast(self.beta_1, dtype), tf.cast(self.beta_2, dtype)
    m.assign_add((gradient - m) * (1 - beta_1))
    v.assign_add((tf.square(gradient) - v) * (1 - beta_2))
    # Where 1 - beta_2 loses digits, it does so here as above: v_hat keeps them.
    m_hat = m / (1 - beta_1**step)
    v_hat = v / (1 - beta_2**step)
    variable.assign_sub(rate * m_hat / (tf.sqrt(v_hat) + self.epsilon))


@gin.register
def lamb(
  schedule: tf.keras.optimizers.schedules.LearningRateSchedule,
  weight_decay: float = gin.REQUIRED,
  beta_1: float = 0.9,
  beta_2: float = 0.999,
  epsilon: float = 1e-6,
  decay_norms_and_biases: bool = True,
) -> Optimizer:
  """Makes AdamW whose updates are scaled to each variable's norm.

  Args:
    schedule: Learning rate as a function of the step.
    weight_decay: Decay at a learning rate of 1.
    beta_1: Decay of the first moment.
    beta_2: Decay of the second moment.
    epsilon: Keeps the quotient finite; as in `adamw`.
    decay_norms_and_biases: Whether scales, shifts and biases decay and are
      scaled as well.

  Returns:
    A Keras optimizer.

  Raises:
    UserError: If a value is out of its range.

  Reference: You et al., "Large Batch Optimization for Deep Learning", 2020.
  """
  gin_config.check_not_negative("lamb.weight_decay", weight_decay)
  return _addons().LAMB(
    schedule,
    weight_decay=weight_decay,
    exclude_from_weight_decay=(
      None if decay_norms_and_biases else [_NORMS_AND_BIASES]
    ),
    **_moments("lamb", beta_1, beta_2, epsilon),
  )


@gin.register
def sgd(
  schedule: tf.keras.optimizers.schedules.LearningRateSchedule,
  momentum: float = 0.9,
  nesterov: bool = False,
  weight_decay: float = 0.0,
  decay_norms_and_biases: bool = True,
) -> Optimizer:
  """Makes stochastic gradient descent with momentum and decoupled decay.

  Args:
    schedule: Learning rate as a function of the step.
    momentum: Share of the old velocity that stays.
    nesterov: Whether the gradient is taken to be ahead (Nesterov 1983).
    weight_decay: Decay at a learning rate of 1.
    decay_norms_and_biases: Whether scales, shifts and biases decay as well.

  Returns:
    A Keras optimizer.

  Raises:
    UserError: If the decay is negative.
  """
  gin_config.check_not_negative("sgd.weight_decay", weight_decay)
  optimizer = tf.keras.optimizers.SGD(
    schedule,
    momentum=momentum,
    nesterov=nesterov,
    weight_decay=weight_decay,
    jit_compile=False,
  )
  if not decay_norms_and_biases:
    optimizer.exclude_from_weight_decay(var_names=[_NORMS_AND_BIASES])
  return optimizer


def _addons():
  with warnings.catch_warnings():
    # Its notice that development has ended: known, see the module's docstring.
    warnings.simplefilter("ignore")
    import tensorflow_addons as tfa
  return tfa.optimizers


def apply_summed_gradients(
  optimizer: Optimizer,
  gradients: Sequence[tf.Tensor],
  variables: Sequence[tf.Variable],
) -> None:
  """Updates from gradients that are already summed over the replicas."""
  pairs = zip(gradients, variables)
  if isinstance(optimizer, tf.keras.optimizers.legacy.Optimizer):
    optimizer.apply_gradients(pairs, experimental_aggregate_gradients=False)
  else:
    optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)


def learning_rate(optimizer: Optimizer, step: tf.Tensor) -> tf.Tensor:
  """Returns the rate of the update from `step` (from 0), float32 scalar."""
  rate = optimizer.learning_rate
  if not isinstance(optimizer, tf.keras.optimizers.legacy.Optimizer):
    rate = tf_internals.schedule_of(optimizer)
  return tf.cast(rate(step) if callable(rate) else rate, tf.float32)


def create_slots(
  optimizer: Optimizer, variables: Sequence[tf.Variable]
) -> None:
  """Makes the moments now and not in the first step, so that restoring can
  check that each one was found.
  """
  if isinstance(optimizer, tf.keras.optimizers.legacy.Optimizer):
    tf_internals.create_slots(optimizer, variables)
  else:
    optimizer.build(variables)
