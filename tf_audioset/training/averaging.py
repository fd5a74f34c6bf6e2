# SPDX-License-Identifier: Apache-2.0
"""An exponential moving average of a model's weights and statistics."""

from __future__ import annotations

import tensorflow as tf

from tf_audioset.runtime.errors import UserError

# The averaged tagger's name in a checkpoint, beside "model".
NAME = "average"


def check_share(share: float | None) -> None:
  """Checks `train.average_share`.

  Raises:
    UserError: Unless it is above 0 and below 1, or None.
  """
  if share is not None and not 0 < share < 1:
    raise UserError(
      f"train.average_share is {share}; it must be above 0 and below 1, the "
      "share of the run that is averaged over, or None: no average."
    )


class Average:
  """A tagger that holds the average of another one's variables.

  After the step n, counted from 0, average = d average + (1 - d) value, with
  d = min(1 - 1 / horizon, (1 + n) / (10 + n)). All variables are averaged, the
  statistics of batch norms among them, in float32.

  Each replica averages the statistics that it has itself; `own` are those
  averages, whose mean over the replicas is to be taken where that of the
  statistics is. The order does not matter, since an average is linear.
  """

  def __init__(
    self, tagger: tf.keras.Model, averaged: tf.keras.Model, horizon_steps: float
  ):
    """Pairs the variables.

    Args:
      tagger: A built `Tagger` that is trained.
      averaged: Another one, made in the same way and in the same scope.
      horizon_steps: The number of steps that is averaged over. Below 1, the
        average is the last value.
    """
    self.tagger = averaged
    self._pairs = list(zip(averaged.variables, tagger.variables))
    self._least_weight = 1 / max(horizon_steps, 1.0)

  def begin(self) -> None:
    """Sets the average to the values, outside of any replica."""
    for average, value in self._pairs:
      average.assign(value)

  @property
  def own(self) -> list[tf.Variable]:
    """Returns the averages that each replica has for itself."""
    return [average for average, _ in self._pairs if _is_own(average)]

  def update(self, step: tf.Tensor) -> None:
    """Takes in the values after a step, in the context of a replica.

    Args:
      step: int64 scalar, counted from 0.
    """
    n = tf.cast(step, tf.float32)
    # 1 - d, whose digits would be lost in d, which is almost 1.
    weight = tf.maximum(self._least_weight, 9 / (10 + n))

    mirrored = []
    for average, value in self._pairs:
      if _is_own(average):
        _take_in(average, value, weight)
      else:
        mirrored.append((average, value))

    def update_all(strategy, weight):
      for average, value in mirrored:
        strategy.extended.update(average, _take_in, args=(value, weight))

    tf.distribute.get_replica_context().merge_call(update_all, args=(weight,))


def _take_in(average, value, weight):
  if average.dtype.is_floating:
    average.assign_add(weight * (value - average))
  else:  # A counter, of which there is no average.
    average.assign(value)


def _is_own(variable: tf.Variable) -> bool:
  """Returns whether each replica has a value of its own."""
  return variable.aggregation == tf.VariableAggregation.MEAN
