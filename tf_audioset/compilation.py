# SPDX-License-Identifier: Apache-2.0
"""Lowers an experiment's training steps, or its front end, to XLA's HLO.

HLO before its optimisation ("hlo", and "hlo_serialized" as bytes) is the same
for every device: `benchmarks/tpu_compile.py` gives it to the TPU's compiler.
"optimized_hlo" is compiled for the CPU, which refuses what a TPU refuses as
well: an op that XLA does not know, or a shape that is not static.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tf_audioset import experiment
from tf_audioset.runtime import gin_config, tf_internals


def load_as_on_tpu(
  gin_files: Sequence[str],
  bindings: Sequence[str] = (),
  *,
  batch_size: int,
  precision: str = "mixed_bfloat16",
) -> None:
  """Loads an experiment with `gin_config.load`, with such a batch.

  Args:
    gin_files: Experiment.
    bindings: Lines of gin.
    batch_size: Of all cores together.
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
  *,
  num_classes: int,
  num_steps: int,
  num_replicas: int = 1,
  stage: str = "optimized_hlo",
) -> str | bytes:
  """Lowers the loop of the experiment that `load_as_on_tpu` has read.

  Front end, augmentation, forward, backward and update are in it.

  Args:
    num_classes: Width of the targets.
    num_steps: In a loop; the batch of all replicas is
      `train.global_batch_size`. A loop of one step is straight-line code.
    num_replicas: How many there are. Above 1, the program is one replica's and
      sums with the others; `stage` must be "hlo_serialized".
    stage: "hlo", "hlo_serialized" or "optimized_hlo", see the module's
      docstring.

  Returns:
    HLO as text, or a serialized HloModuleProto.
  """
  run = experiment.Experiment()
  strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
  if num_replicas > 1:
    strategy = tf_internals.OneReplicaOf(num_replicas)
  trainer, *_ = run.build(strategy, num_classes=num_classes)
  shape = [num_steps, run.global_batch_size // num_replicas]
  loop = tf.function(trainer.train_on, jit_compile=True)
  program = loop.experimental_get_compiler_ir(
    tf.TensorSpec([*shape, run.pipeline.crop_samples], tf.int16),
    tf.TensorSpec([*shape, num_classes]),
  )(stage=stage)
  if num_replicas > 1:
    return tf_internals.without_channels(program)
  return program


def front_end_hlo(*, stage: str = "hlo_serialized") -> str | bytes:
  """Lowers the front end alone: int16 waveforms to features.

  Args:
    stage: As for `loop_hlo`.

  Returns:
    As `loop_hlo`.
  """
  run = experiment.Experiment()
  _, tagger, *_ = run.build(
    tf.distribute.OneDeviceStrategy("/cpu:0"), num_classes=1
  )
  features = tf.function(
    lambda waveform: tagger.features(waveform),
    jit_compile=True,
    autograph=False,
  )
  shape = [run.global_batch_size, run.pipeline.crop_samples]
  return features.experimental_get_compiler_ir(tf.TensorSpec(shape, tf.int16))(
    stage=stage
  )
