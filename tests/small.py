# SPDX-License-Identifier: Apache-2.0
"""The training command, with a model that is traced in a moment.

python -m tests.small --data_dir=DIR --workdir=DIR [--gin_bindings=...]...
"""

from __future__ import annotations

import gin
import tensorflow as tf

from tests import toy
from tf_audioset.runtime import cli

# 3 steps an epoch of `toy.write_dataset`.
BINDINGS = (
  "Tagger.backbone = @SmallBackbone()",
  "train.global_batch_size = 8",
  "train.checkpoint_steps = 2",
  "Pipeline.crop_seconds = 0.5",
  "WarmupCosine.warmup_epochs = 1",
)


def arguments(data_dir, workdir, *bindings: str) -> list[str]:
  """The command, for `command.run`; `bindings` come after `BINDINGS`."""
  return [
    "-m",
    "tests.small",
    "--gin_file=gin/quickstart.gin",
    f"--data_dir={data_dir}",
    f"--workdir={workdir}",
    *(f"--gin_bindings={binding}" for binding in (*BINDINGS, *bindings)),
  ]


@gin.register
class SmallBackbone(toy.MeanBackbone):
  """With statistics that have to be saved as well."""

  embedding_size = 1000  # A checkpoint is 0.8 MB.

  def __init__(self):
    super().__init__()
    self._norm = tf.keras.layers.BatchNormalization()

  def call(self, features, training=False, seed=None):
    return self._norm(super().call(features), training=training)


if __name__ == "__main__":
  from tf_audioset import train  # It defines flags.

  cli.run(train.main, prog="train", required=["data_dir", "workdir"])
