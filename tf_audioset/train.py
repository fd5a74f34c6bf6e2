# SPDX-License-Identifier: Apache-2.0
r"""Trains a tagger: restore, step, summarise, evaluate, save, export.

  python -m tf_audioset.train --gin_file=gin/efficientnet_b0.gin \
      --data_dir=DIR --workdir=DIR [--tpu=NAME] [--gin_bindings='a.b = 1']... \
      [--init_from=CHECKPOINT_OR_SAVED_MODEL_OR_WORKDIR]

The same command continues a run that was stopped, however it was stopped. On
SIGTERM the run ends its loop, saves, and exits with code 75
(docs/resuming.md). In the work directory:

  config.gin        every value the run used
  run.json          model, batch and data, which must not change; the classes
  checkpoints/      the newest few, model and optimizer
  best/             the model with the best validation mAP so far
  metrics.jsonl     one line per loop and one per validation
  thresholds/       per-class thresholds, one file per validation
  summary.json      written at the end: results, code version, data
  summaries/        for TensorBoard
  saved_model/1/    the export, as TF Serving wants it
"""

from __future__ import annotations

from absl import flags

# No module that imports TensorFlow, here: wrong flags are answered at once.
from tf_audioset.runtime import cli
from tf_audioset.runtime.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_multi_string(
  "gin_file", None, "Experiment, such as gin/efficientnet_b0.gin. Repeatable."
)
flags.DEFINE_multi_string(
  "gin_bindings", [], "A line of gin that overrides the files. Repeatable."
)
flags.DEFINE_string("data_dir", None, "What tools/make_tfrecords.py wrote.")
flags.DEFINE_string("workdir", None, "Where checkpoints and the export go.")
flags.DEFINE_string(
  "init_from",
  None,
  "Start a new run from these weights: a checkpoint, a work directory, an "
  "exported SavedModel, or a file of a network trained on images (timm's, "
  "torchvision's, keras.applications'). With other classes the head is new.",
)
flags.DEFINE_bool(
  "allow_other_features",
  False,
  "Let --init_from take weights that were trained with another front end, "
  "padding or variant of the network.",
)
flags.DEFINE_string(
  "tpu",
  None,
  "TPU name or grpc:// address, or 'local' on a TPU VM. Without it: the GPUs "
  "or the CPU of this machine.",
)
flags.DEFINE_integer(
  "data_service",
  0,
  "Number of processes on this machine that make the batches; 0: the training "
  "process makes them. See docs/input_pipeline.md.",
  lower_bound=0,
)
flags.DEFINE_bool(
  "take_over",
  False,
  "Take a --workdir in a bucket from a run that seems to be at work there, as "
  "one that was killed on another machine does. If it lives, it will stop.",
)
flags.DEFINE_list(
  "profile_steps",
  None,
  "FIRST,LAST: profile the loops that contain these steps, for TensorBoard.",
)


def main() -> None:
  profile_steps = _profile_steps(FLAGS.profile_steps)

  from tf_audioset import experiment
  from tf_audioset.data import service as data_service
  from tf_audioset.runtime import distribution, gin_config

  bindings = list(FLAGS.gin_bindings)
  if FLAGS.init_from:
    bindings.append(f"train.initial_checkpoint = {FLAGS.init_from!r}")
  if FLAGS.allow_other_features:
    bindings.append("train.allow_other_features = True")
  gin_config.load(FLAGS.gin_file, bindings)
  experiment.Experiment().run(
    distribution.strategy(FLAGS.tpu),
    FLAGS.data_dir,
    FLAGS.workdir,
    profile_steps=profile_steps,
    data_workers=data_service.start(FLAGS.data_service),
    take_over=FLAGS.take_over,
  )


def _profile_steps(given: list[str] | None) -> tuple[int, int] | None:
  if not given:
    return None
  try:
    first, last = map(int, given)
  except ValueError:
    raise UserError(
      f"--profile_steps={','.join(given)}: expected two steps, such as 100,110."
    ) from None
  return first, last


def run() -> None:
  """Runs the command line."""
  cli.run(main, prog="train", required=["gin_file", "data_dir", "workdir"])


if __name__ == "__main__":
  run()
