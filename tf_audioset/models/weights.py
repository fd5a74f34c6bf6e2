# SPDX-License-Identifier: Apache-2.0
"""Weights as layers compute with them: rounded, or multiplied by a norm's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import tensorflow as tf

# What `ready` has made by the variable that it stands for, if it is kept.
_kept: dict | None = None


def ready(variable: tf.Variable, make: Callable[[], tf.Tensor]) -> tf.Tensor:
  """`make()`, which stands for `variable`; within `kept`, made once."""
  if _kept is None:
    return make()
  if variable.ref() not in _kept:
    _kept[variable.ref()] = tf.Variable(make(), trainable=False)
  return tf.convert_to_tensor(_kept[variable.ref()])


def cast(variable: tf.Variable, dtype: tf.DType) -> tf.Tensor:
  """The variable in the compute type."""
  if variable.dtype == dtype:
    return tf.convert_to_tensor(variable)
  return ready(variable, lambda: tf.cast(variable, dtype))


@contextlib.contextmanager
def kept(compute: Callable[[], None]) -> Iterator[list[tf.Variable]]:
  """For a function that is traced to be exported.

  A call of it would make its weights anew, since its variables could change;
  that is up to a quarter of the time of one clip.

  Args:
    compute: Uses all the layers; in a trace, no variable can be made.

  Yields:
    The variables that a function that is traced meanwhile reads instead: new
    ones, of the values that the weights have now.
  """
  global _kept
  _kept = {}
  try:
    compute()
    yield list(_kept.values())
  finally:
    _kept = None


def are_kept() -> bool:
  """Whether what is being traced is to be exported."""
  return _kept is not None


class FullPrecision(tf.keras.layers.Layer):
  """A layer that is given its weights in float32, and casts them itself."""

  def add_weight(self, *args, **kwargs) -> tf.Variable:
    """As Keras's, which otherwise would cast them."""
    return super().add_weight(*args, experimental_autocast=False, **kwargs)
