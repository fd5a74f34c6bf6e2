# SPDX-License-Identifier: Apache-2.0
r"""Exports a checkpoint of a training run as a SavedModel.

  python tools/export.py --workdir DIR --checkpoint best|last|PATH \
      [--output_dir DIR] [--version N] [--tflite]

Writes OUTPUT_DIR/N, which TF Serving takes up as soon as it is there. The data
is not needed: the work directory's config.gin and run.json are enough.

--tflite also writes OUTPUT_DIR/N.tflite and N_int8.tflite, whose weights take a
quarter of the space, and prints how they differ in size, speed and the scores
of synthetic sounds.
"""

from __future__ import annotations

import os

from absl import flags

from tf_audioset.runtime import cli
from tf_audioset.runtime.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "The --workdir of the training.")
flags.DEFINE_string(
  "checkpoint",
  None,
  "'best' (by validation mAP), 'last', or the path of a checkpoint or of a "
  "folder of them.",
)
flags.DEFINE_string(
  "output_dir", None, "Folder of the versions. Default: WORKDIR/saved_model."
)
flags.DEFINE_integer(
  "version",
  None,
  "Number of the version. Default: the next after those in the folder.",
  lower_bound=1,
)
flags.DEFINE_integer(
  "batch_size",
  8,
  "Clips per batch of the signature 'batched'; at most one hour in all.",
  lower_bound=1,
)
flags.DEFINE_integer(
  "batch_samples",
  160000,
  "Samples of each of its clips, 16000 a second.",
  lower_bound=1,
)
flags.DEFINE_bool("tflite", False, "Write TFLite models as well.")


def main() -> None:
  # Imported late: a mistake in the flags is answered at once.
  from tf_audioset import experiment
  from tf_audioset.runtime import gin_config, outputs
  from tf_audioset.serving import exported_tagger, tflite
  from tf_audioset.training import workdir

  classes, gin_text = workdir.read_run(FLAGS.workdir)
  checkpoint = _find_checkpoint()
  folder = FLAGS.output_dir or os.path.join(FLAGS.workdir, "saved_model")
  taken = exported_tagger.versions(folder)
  version = FLAGS.version or max(taken, default=0) + 1
  if version in taken:
    raise UserError(
      f"{folder} has a version {version}: give another --version, or none."
    )
  outputs.check_folder(folder, "output_dir")
  directory = os.path.join(folder, str(version))
  gin_config.load([], [gin_text])
  run = experiment.Experiment()
  run.export(
    checkpoint,
    directory,
    workdir_path=FLAGS.workdir,
    classes=classes,
    batch_shape=(FLAGS.batch_size, FLAGS.batch_samples),
  )
  print(f"exported {checkpoint} to {directory}")
  if FLAGS.tflite:
    tagger = run.restored_tagger(checkpoint, len(classes), "float32")
    for line in tflite.write(
      tagger,
      directory,
      min_samples=run.pipeline.crop_samples,
      padding=run.pipeline.padding,
    ):
      print(line)


def _find_checkpoint() -> str:
  import tensorflow as tf

  folders = {"best": "best", "last": "checkpoints"}
  path = FLAGS.checkpoint
  if path in folders:
    path = os.path.join(FLAGS.workdir, folders[path])
  path = tf.train.latest_checkpoint(path) or path
  if not tf.io.gfile.exists(f"{path}.index"):
    raise UserError(
      f"--checkpoint={FLAGS.checkpoint}: no checkpoint {path}; give 'best', "
      "'last', or a path of one, such as WORKDIR/checkpoints/ckpt-100."
    )
  return path


def run() -> None:
  """Runs the command line."""
  cli.run(main, prog="export", required=["workdir", "checkpoint"])


if __name__ == "__main__":
  run()
