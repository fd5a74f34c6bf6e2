# SPDX-License-Identifier: Apache-2.0
"""Chooses the form of the operations, in one place."""

from __future__ import annotations

import gin
import tensorflow as tf

from tf_audioset.runtime import gin_config, tf_internals

CPU, TPU, REFERENCE = "cpu", "tpu", "reference"


@gin.configurable("kernels", denylist=["dtype", "training"])
def engine(dtype: tf.DType, training: bool, engine: str = "auto") -> str:
  """Returns the form that an operation takes in the graph being built.

  Args:
    dtype: Of its inputs.
    training: Whether a gradient will be wanted.
    engine: 'auto', or 'reference' for TensorFlow's plain operations everywhere:
      `kernels.engine = 'reference'` in a .gin file. The values differ by
      rounding only.

  Returns:
    `CPU` in training on a CPU, outside of XLA; `TPU` in bfloat16 inside of XLA,
    unless there is a GPU; otherwise `REFERENCE`.

  Raises:
    UserError: If `engine` is not one of the two.
  """
  gin_config.check_choice("kernels.engine", engine, ("auto", REFERENCE))
  if engine == REFERENCE or tf.config.list_logical_devices("GPU"):
    return REFERENCE
  if tf_internals.in_xla():
    return TPU if dtype == tf.bfloat16 else REFERENCE
  return CPU if training and not tf.executing_eagerly() else REFERENCE
