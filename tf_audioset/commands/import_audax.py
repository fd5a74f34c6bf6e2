# SPDX-License-Identifier: Apache-2.0
r"""Turns a checkpoint of audax into a SavedModel and a starting point.

  python tools/import_audax.py --checkpoint FILE --model efficientnet_b0 \
      --saved_model DIR [--checkpoint_out DIR]

FILE is a msgpack file written by flax; neither audax nor JAX is needed. To
train on from it:

  python -m tf_audioset.train --gin_file=gin/audax/efficientnet_b0.gin \
      --init_from=CHECKPOINT_OUT ...
"""

from __future__ import annotations

from absl import flags

from tf_audioset.runtime import cli
from tf_audioset.runtime.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_string("checkpoint", None, "What audax saved.")
flags.DEFINE_enum(
  "model",
  None,
  ["resnet18", "efficientnet_b0", "convnext_tiny"],
  "Its architecture.",
)
flags.DEFINE_string("saved_model", None, "Where the SavedModel goes.")
flags.DEFINE_string(
  "checkpoint_out", None, "Where a checkpoint to train on from goes, if given."
)
flags.DEFINE_string(
  "class_labels_csv",
  None,
  "Its classes: index,mid,display_name. Default: AudioSet's 527.",
)


def main() -> None:
  # Imported late: a mistake in the flags is answered at once.
  import gin
  import tensorflow as tf

  from tf_audioset import experiment  # noqa: F401
  from tf_audioset.data import labels  # noqa: F401
  from tf_audioset.data import pipeline as pipeline_lib
  from tf_audioset.models import tagger  # noqa: F401
  from tf_audioset.runtime import gin_config, storage  # noqa: F401
  from tf_audioset.serving import export  # noqa: F401
  from tf_audioset.weights import audax  # noqa: F401

  arrays = audax.read_checkpoint(FLAGS.checkpoint)
  num_classes = audax.num_classes(arrays)
  if FLAGS.class_labels_csv:
    classes = labels.ClassList.from_csv(FLAGS.class_labels_csv)
  else:
    classes = labels.ClassList.audioset()
  if num_classes != len(classes):
    raise UserError(
      f"{FLAGS.checkpoint} has {num_classes} classes, but "
      f"{FLAGS.class_labels_csv or 'AudioSet'} has {len(classes)}; name the "
      "classes with --class_labels_csv."
    )
  if FLAGS.checkpoint_out:
    storage.check_no_pattern(FLAGS.checkpoint_out)
  gin_config.load([f"gin/audax/{FLAGS.model}.gin"])
  pipeline = gin.get_configurable(pipeline_lib.Pipeline)()
  model = gin.get_configurable(tagger.Tagger)(num_classes=num_classes)
  model(tf.zeros([1, pipeline.crop_samples]))
  try:
    audax.assign(arrays, model, FLAGS.model)
  except ValueError as e:
    raise UserError(f"{FLAGS.checkpoint}: {e}") from e
  export.export(
    model,
    FLAGS.saved_model,
    classes=classes,
    min_samples=pipeline.crop_samples,
    padding=pipeline.padding,
  )
  print(f"{len(arrays)} arrays of {FLAGS.checkpoint} to {FLAGS.saved_model}")
  if FLAGS.checkpoint_out:
    checkpoint = tf.train.Checkpoint(model=model)
    path = tf.train.CheckpointManager(
      checkpoint, FLAGS.checkpoint_out, 1
    ).save()
    print(f"and to the checkpoint {path}")


def run() -> None:
  """Runs the command line."""
  cli.run(
    main,
    prog="import_audax",
    required=["checkpoint", "model", "saved_model"],
  )


if __name__ == "__main__":
  run()
