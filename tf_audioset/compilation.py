# SPDX-License-Identifier: Apache-2.0
"""What XLA makes of a loop of training steps, compiled for the CPU.

The CPU stands for the TPU: what a TPU refuses, an op that XLA does not know or
a shape that is not static, is refused here as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tf_audioset import experiment
from tf_audioset.runtime import gin_config


def load_as_on_tpu(
  gin_files: Sequence[str],
  bindings: Sequence[str] = (),
  *,
  batch_size: int,
  precision: str = "mixed_bfloat16",
) -> None:
  """`config.load` of an experiment, for the batch of a TPU's core.

  Args:
    gin_files: Experiment.
    bindings: Lines of gin.
    batch_size: Of one core.
    precision: As `train.precision`.
  """
  gin_config.load(
    gin_files,
    [
      *bindings,
      f"train.precision = '{precision}'",
      f"train.global_batch_size = {batch_size}",
    ],
  )


def loop_hlo(
  *, num_classes: int, num_steps: int, stage: str = "optimized_hlo"
) -> str:
  """Compiles the loop of the experiment that `load_as_on_tpu` has read.

  Front end, augmentation, forward, backward and update are in it.

  Args:
    num_classes: Width of the targets.
    num_steps: In a loop; the batch is `train.global_batch_size`.
    stage: "optimized_hlo", after XLA's optimisation, or "hlo", before it.

  Returns:
    HLO as text.
  """
  run = experiment.Experiment()
  steps, _, _ = run.build(
    tf.distribute.OneDeviceStrategy("/cpu:0"), num_classes=num_classes
  )
  shape = [num_steps, run.global_batch_size]
  waveforms = tf.TensorSpec([*shape, run.pipeline.crop_samples], tf.int16)
  targets = tf.TensorSpec([*shape, num_classes])
  loop = tf.function(steps.train_on, jit_compile=True)
  return loop.experimental_get_compiler_ir(waveforms, targets)(stage=stage)
