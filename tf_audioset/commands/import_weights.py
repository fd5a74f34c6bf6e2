# SPDX-License-Identifier: Apache-2.0
r"""Imports another system's weights: a SavedModel, and a start for training.

  python tools/import_weights.py --format=ced --model=ced_tiny \
      --checkpoint=model.safetensors --saved_model=DIR \
      [--checkpoint_out=DIR] [--tflite]

The other system is not needed. Its formats, and the models that each has:

  ced    ced_tiny, ced_mini, ced_small, ced_base: what Hugging Face hosts, with
         config.json beside it if you have it (docs/ced.md)
  audax  resnet18, efficientnet_b0, convnext_tiny: flax's msgpack
  timm   resnet18 to 152, efficientnet_b0 to b7 (tf_efficientnet), convnext_tiny
         to xlarge, trained on images; also torchvision's but EfficientNet
  keras  efficientnet_b0 to b7, convnext_tiny to xlarge: keras.applications'
         *_notop.h5

Networks of images have no classes of sounds: their head is new, and its scores
mean nothing before it is trained. --init_from takes their files as they are too
(docs/beyond.md).

The file may be safetensors, PyTorch's (.pth, .pt, .bin), flax's msgpack or
HDF5, and compressed by gzip. Every array in it must have its place in the
model, and every variable of the model its array. To train on from it:

  python -m tf_audioset.train --gin_file=gin/ced/tiny.gin \
      --gin_file=gin/ced/finetune.gin --init_from=DIR ...
"""

from __future__ import annotations

import os

from absl import flags

from tf_audioset.runtime import cli
from tf_audioset.runtime.errors import UserError

# Not taken from the modules, which import TensorFlow; a test compares them.
_EFFICIENTNETS = tuple(f"efficientnet_b{i}" for i in range(8))
_CONVNEXTS = tuple(
  f"convnext_{size}" for size in ("tiny", "small", "base", "large", "xlarge")
)
MODELS = {
  "audax": ("resnet18", "efficientnet_b0", "convnext_tiny"),
  "ced": ("ced_tiny", "ced_mini", "ced_small", "ced_base"),
  "keras": (*_EFFICIENTNETS, *_CONVNEXTS),
  "timm": (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *_EFFICIENTNETS,
    *_CONVNEXTS,
  ),
}
_OF_IMAGES = ("keras", "timm")

FLAGS = flags.FLAGS
flags.DEFINE_enum("format", None, sorted(MODELS), "The system that wrote it.")
flags.DEFINE_string("checkpoint", None, "The file of weights.")
flags.DEFINE_enum(
  "model",
  None,
  sorted({model for models in MODELS.values() for model in models}),
  "Its model.",
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
flags.DEFINE_bool(
  "tflite", False, "Write TFLite models beside the SavedModel as well."
)


def main() -> None:
  if FLAGS.model not in MODELS[FLAGS.format]:
    raise flags.Error(
      f"--model={FLAGS.model} is not a model of --format={FLAGS.format}, which "
      f"has {', '.join(MODELS[FLAGS.format])}."
    )
  # Imported late: a mistake in the flags is answered at once.
  import tensorflow as tf

  from tf_audioset.runtime import gin_config, outputs, storage
  from tf_audioset.serving import export, tflite

  for path in (FLAGS.saved_model, FLAGS.checkpoint_out or ""):
    storage.check_no_pattern(path)
  parent = os.path.dirname(FLAGS.saved_model.rstrip("/"))
  outputs.check_folder(parent or ".", "saved_model")
  if FLAGS.checkpoint_out:
    outputs.check_folder(FLAGS.checkpoint_out, "checkpoint_out")
  if FLAGS.format in _OF_IMAGES:
    model, pipeline, classes, num_arrays = _of_images()
  else:
    model, pipeline, classes, num_arrays = _of_sounds()
  # Crops that are too short are padded; CED alone takes any length.
  min_samples = pipeline.crop_samples
  if FLAGS.format == "ced":
    min_samples = model.frontend.num_samples(model.backbone.min_frames)
  padding = dict(min_samples=min_samples, padding=pipeline.padding)
  export.export(
    model,
    FLAGS.saved_model,
    classes=classes,
    window_samples=pipeline.crop_samples,
    config_gin=gin_config.operative(),
    **padding,
  )
  print(f"{num_arrays} arrays of {FLAGS.checkpoint} to {FLAGS.saved_model}")
  if FLAGS.format in _OF_IMAGES:
    print(
      "warning: the head is new: embeddings are the network's, but scores mean "
      "nothing before it is trained"
    )
  if FLAGS.checkpoint_out:
    path = tf.train.CheckpointManager(
      tf.train.Checkpoint(model=model), FLAGS.checkpoint_out, 1
    ).save()
    storage.write_file(
      os.path.join(FLAGS.checkpoint_out, "config.gin"),
      gin_config.operative().encode(),
    )
    print(f"and to the checkpoint {path}")
  if FLAGS.tflite:
    for line in tflite.write(model, FLAGS.saved_model, **padding):
      print(line)


def _of_sounds():
  """Returns a tagger, its pipeline, its classes and the number of arrays."""
  from tf_audioset.weights import audax, ced

  family = {"audax": audax, "ced": ced}[FLAGS.format]
  arrays = family.read_checkpoint(FLAGS.checkpoint)
  try:
    classes = _classes(family.num_classes(arrays))
    if family is ced:
      ced.check_config(FLAGS.checkpoint, FLAGS.model, classes)
    model, pipeline = _built([family.gin_file(FLAGS.model)], [], classes)
    family.assign(arrays, model, FLAGS.model)
  except ValueError as e:
    raise UserError(f"{FLAGS.checkpoint}: {e}") from e
  return model, pipeline, classes, len(arrays)


def _of_images():
  """Returns the same of a network of images, whose head is new."""
  from tf_audioset.weights import images

  classes = _classes(None)
  model, pipeline = _built(
    [images.gin_file(FLAGS.model)], images.bindings(FLAGS.model), classes
  )
  num_arrays = images.load(FLAGS.checkpoint, model.backbone, FLAGS.format)
  return model, pipeline, classes, num_arrays


def _built(gin_files, bindings, classes):
  """Returns the tagger and the pipeline of an experiment."""
  import gin
  import tensorflow as tf

  from tf_audioset import experiment  # noqa: F401
  from tf_audioset.data import pipeline as pipeline_lib
  from tf_audioset.models import tagger
  from tf_audioset.runtime import gin_config

  gin_config.load(gin_files, bindings)
  pipeline = gin.get_configurable(pipeline_lib.Pipeline)()
  model = gin.get_configurable(tagger.Tagger)(num_classes=len(classes))
  model(tf.zeros([1, pipeline.crop_samples]))
  return model, pipeline


def _classes(num_classes: int | None):
  """Returns the class list, if it has the length of the model's output."""
  from tf_audioset.data import labels

  if FLAGS.class_labels_csv:
    classes = labels.ClassList.from_csv(FLAGS.class_labels_csv)
  else:
    classes = labels.ClassList.audioset()
  if num_classes not in (None, len(classes)):
    raise UserError(
      f"{num_classes} classes, but {FLAGS.class_labels_csv or 'AudioSet'} has "
      f"{len(classes)}; name the classes with --class_labels_csv."
    )
  return classes


def run() -> None:
  """Runs the command line."""
  cli.run(
    main,
    prog="import_weights",
    required=["format", "checkpoint", "model", "saved_model"],
  )


if __name__ == "__main__":
  run()
