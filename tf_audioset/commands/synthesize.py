# SPDX-License-Identifier: Apache-2.0
"""Writes a small synthetic dataset in AudioSet's form, to try the program with.

  python tools/synthesize.py --output_dir=DIR

Sixteen AudioSet classes, mixed and overlapping: wav files, segments_train.csv,
segments_eval.csv and class_labels_indices.csv. See tf_audioset/synthetic.py.
"""

from __future__ import annotations

from absl import flags

from tf_audioset.preparation import synthetic
from tf_audioset.runtime import cli

FLAGS = flags.FLAGS
flags.DEFINE_string(
  "output_dir", None, "A folder, new or from an earlier call."
)
flags.DEFINE_integer("num_train", 480, "Training clips.", lower_bound=1)
flags.DEFINE_integer("num_eval", 160, "Evaluation clips.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Random seed.")


def main() -> None:
  minutes = synthetic.synthesize(
    FLAGS.output_dir,
    num_train=FLAGS.num_train,
    num_eval=FLAGS.num_eval,
    seed=FLAGS.seed,
  )
  print(
    f"{FLAGS.num_train} training clips ({minutes['train']:.1f} minutes) and "
    f"{FLAGS.num_eval} evaluation clips ({minutes['eval']:.1f} minutes) of "
    f"{len(synthetic.CLASSES)} classes in {FLAGS.output_dir}"
  )


def run() -> None:
  """Runs the command line."""
  cli.run(main, prog="synthesize", required=["output_dir"])


if __name__ == "__main__":
  run()
