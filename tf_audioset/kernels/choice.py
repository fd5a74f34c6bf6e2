# SPDX-License-Identifier: Apache-2.0
"""Chooses the form of the operations, in one place."""

from __future__ import annotations

import gin
import tensorflow as tf

from tf_audioset.runtime import gin_config, tf_internals

CPU, TPU, INFERENCE = "cpu", "tpu", "inference"
REFERENCE = "reference"


@gin.configurable("kernels", denylist=["x", "training"])
def engine(x: tf.Tensor, training: bool, engine: str = "auto") -> str:
  """Returns the form that an operation takes in the graph being built.

  Args:
    x: Its inputs.
    training: Whether a gradient will be wanted.
    engine: 'auto', or 'reference' for TensorFlow's plain operations everywhere:
      `kernels.engine = 'reference'` in a .gin file. The values differ by
      rounding only.

  Returns:
    `TPU` in bfloat16 inside of XLA, `CPU` in training on a CPU, `INFERENCE`
    outside of training; `REFERENCE` elsewhere: eagerly, in float32 inside of
    XLA, and in training on a GPU.

  Raises:
    UserError: If `engine` is not one of the two.
  """
  gin_config.check_choice("kernels.engine", engine, ("auto", REFERENCE))
  if engine == REFERENCE:
    return REFERENCE
  has_gpu = bool(tf.config.list_logical_devices("GPU"))
  if tf_internals.in_xla():
    # The forms for a TPU reshape to known lengths.
    is_known = x.shape.rank is not None and x.shape[1:].is_fully_defined()
    is_tpu = x.dtype == tf.bfloat16 and is_known and not has_gpu
    return TPU if is_tpu else REFERENCE
  if tf.executing_eagerly():
    return REFERENCE
  if not training:
    return INFERENCE
  return REFERENCE if has_gpu else CPU
