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

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from tf_audioset import cli

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

  from tf_audioset import (
    audax,
    config,
    data,
    export,
    labels,
    outputs,
    storage,
    tagger,
    training,  # noqa: F401  Registers with gin all that the files bind.
  )

  saved_model = FLAGS.saved_model.rstrip("/")
  outputs.check_folder(os.path.dirname(saved_model) or ".", "saved_model")
  if FLAGS.checkpoint_out:
    outputs.check_folder(FLAGS.checkpoint_out, "checkpoint_out")
  arrays = audax.read_checkpoint(FLAGS.checkpoint)
  num_classes = audax.num_classes(arrays)
  if FLAGS.class_labels_csv:
    classes = labels.ClassList.from_csv(FLAGS.class_labels_csv)
  else:
    classes = labels.ClassList.audioset()
  if num_classes != len(classes):
    raise ValueError(
      f"{FLAGS.checkpoint} has {num_classes} classes, but "
      f"{FLAGS.class_labels_csv or 'AudioSet'} has {len(classes)}; name the "
      "classes with --class_labels_csv."
    )
  if FLAGS.checkpoint_out:
    storage.check_no_pattern(FLAGS.checkpoint_out)
  config.load([f"gin/audax/{FLAGS.model}.gin"])
  pipeline = gin.get_configurable(data.Pipeline)()
  model = gin.get_configurable(tagger.Tagger)(num_classes=num_classes)
  model(tf.zeros([1, pipeline.crop_samples]))
  try:
    audax.assign(arrays, model, FLAGS.model)
  except ValueError as e:
    raise ValueError(f"{FLAGS.checkpoint}: {e}") from e
  export.export(
    model,
    FLAGS.saved_model,
    classes=classes,
    min_samples=pipeline.crop_samples,
    padding=pipeline.padding,
    config_gin=config.operative(),
  )
  print(f"{len(arrays)} arrays of {FLAGS.checkpoint} to {FLAGS.saved_model}")
  if FLAGS.checkpoint_out:
    checkpoint = tf.train.Checkpoint(model=model)
    path = tf.train.CheckpointManager(
      checkpoint, FLAGS.checkpoint_out, 1
    ).save()
    storage.write_file(
      os.path.join(FLAGS.checkpoint_out, "config.gin"),
      config.operative().encode(),
    )
    print(f"and to the checkpoint {path}")


if __name__ == "__main__":
  cli.run(
    main,
    prog="import_audax",
    required=["checkpoint", "model", "saved_model"],
  )
