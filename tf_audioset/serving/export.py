# SPDX-License-Identifier: Apache-2.0
"""Writes a tagger as a SavedModel.

Its functions are those of `signatures.py`.

Its assets: class_labels_indices.csv; tagger.json, sample rate, padding,
validation and thresholds of the classes' scores; config.gin. In assets.extra:
TF Serving's warm-up requests.

It is a plain `tf.Module` of functions and variables: loading it needs neither
this package nor Keras, tensorflow-addons or tensorflow-io. `model_variables`
are the tagger's, for `batched` and for training on; `folded_variables` are what
the others compute with in their place, see `models/folding.py`.
"""

from __future__ import annotations

import csv
import os
import pathlib
import tempfile

import tensorflow as tf

from tf_audioset.data import labels, records
from tf_audioset.models import folding
from tf_audioset.runtime import storage
from tf_audioset.runtime.errors import UserError
from tf_audioset.serving import signatures, warmup


def export(
  tagger: tf.keras.Model,
  directory: str,
  *,
  classes: labels.ClassList,
  min_samples: int,
  padding: str,
  batch_shape: tuple[int, int] = (8, 160000),
  window_samples: int | None = None,
  config_gin: str = "",
  validation: dict[str, float] | None = None,
  thresholds: dict | None = None,
) -> None:
  """Writes `tagger` as a SavedModel.

  Args:
    tagger: A built `Tagger`, created outside of any strategy's scope.
    directory: Where; a SavedModel that is there is replaced. It appears when
      it is whole, at once on a disk; in a bucket file by file, saved_model.pb
      after the variables.
    classes: As many as the tagger has logits.
    min_samples: Shorter waveforms are padded to this, as in training.
    padding: How, see `data.pad`.
    batch_shape: (batch_size, num_samples) of the signature `batched`.
    window_samples: Length of the clips that it was trained on, which windows
      of longer recordings should have; None: `min_samples`.
    config_gin: What it was trained with, kept as assets/config.gin.
    validation: What it reached, kept in assets/tagger.json.
    thresholds: "values", one a class or None, with how they were chosen; kept
      there as well.

  Raises:
    UserError: If `directory` holds anything but a SavedModel, or a batch is
      longer than a request may be.
  """
  _check_batch(batch_shape)
  directory = directory.rstrip("/")
  storage.check_no_pattern(directory)
  storage.check_bucket(directory)
  _refuse_other_files(directory)
  module = _ExportedModule(name="tagger")
  # The variables alone: the tagger itself would bring its Keras layers along.
  module.model_variables = list(tagger.variables)
  folded = folding.fold_batch_norms(tagger, tf.zeros([1, min_samples]))

  score = signatures.scoring(folded, min_samples, padding)
  one_graph = score.get_concrete_function()
  # In `batched`, XLA and a TPU do with the model's own variables.
  module.folded_variables = list(folded.variables)
  functions = {
    "serving_default": score,
    "batched": signatures.batch_scoring(
      tagger, min_samples, padding, batch_shape
    ),
    "wav": signatures.wav_scoring(one_graph),
    "timeline": signatures.window_scoring(one_graph),
    "classes": signatures.description(classes, min_samples, padding),
  }
  if folded.frame_samples:
    functions["frames"] = signatures.frame_scoring(folded, min_samples, padding)
  functions = {k: f.get_concrete_function() for k, f in functions.items()}
  module.functions = list(functions.values())
  module.score = score
  about = {
    "sample_rate_hz": records.SAMPLE_RATE_HZ,
    "min_samples": min_samples,
    "padding": padding,
    "window_samples": window_samples or min_samples,
    "validation": validation,
    "thresholds": thresholds,
  }
  if folded.frame_samples:
    about["frame_samples"] = folded.frame_samples
  partial = _partial_name(directory)
  if tf.io.gfile.exists(partial):
    tf.io.gfile.rmtree(partial)
  with tempfile.TemporaryDirectory() as folder:
    module.files = _write_assets(
      pathlib.Path(folder), classes, about, config_gin
    )
    # Gradients would double the functions, and the memory that loading takes.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, partial, functions, options)
  warmup.write(
    partial, _requests(min_samples, batch_shape, "frames" in functions)
  )
  if partial != directory:
    if tf.io.gfile.exists(directory):
      tf.io.gfile.rmtree(directory)
    tf.io.gfile.rename(partial, directory)


class _ExportedModule(tf.Module):
  """What is saved; loaded, it is a function of waveforms."""

  @tf.function(
    autograph=False,
    input_signature=[tf.TensorSpec([None, None], tf.float32, name="waveform")],
  )
  def __call__(self, waveform):
    """Returns the scores, float32 [batch, num_classes]."""
    return self.score(waveform)["scores"]


def _check_batch(batch_shape: tuple[int, int]) -> None:
  """Raises a UserError if a batch is longer than a request may be."""
  batch_size, num_samples = batch_shape
  longest = signatures.MAX_CLIP_SECONDS * records.SAMPLE_RATE_HZ
  most = signatures.MAX_SECONDS * records.SAMPLE_RATE_HZ
  if num_samples > longest or batch_size * num_samples > most:
    raise UserError(
      f"batched of {batch_size} clips of {num_samples} samples: a clip may "
      f"have {signatures.MAX_CLIP_SECONDS} s and all of them "
      f"{signatures.MAX_SECONDS} s."
    )


def _refuse_other_files(directory: str) -> None:
  """Raises a UserError before anything is deleted that is no export."""
  if not tf.io.gfile.exists(directory):
    return
  if not tf.io.gfile.isdir(directory):
    raise UserError(f"{directory} is a file: choose another name.")
  names = {name.rstrip("/") for name in tf.io.gfile.listdir(directory)}
  others = names - {
    "assets",
    "assets.extra",
    "fingerprint.pb",
    "saved_model.pb",
    "variables",
  }
  if others:
    raise UserError(
      f"{directory} holds {min(others)!r}, which is no part of a SavedModel, "
      "and is not replaced: choose another folder."
    )


def _partial_name(directory: str) -> str:
  """Returns the name under which the SavedModel is written.

  TF Serving looks for numbers only. In a bucket nothing is gained: a folder is
  renamed by copying, and a request that fails meanwhile stops that.
  """
  parent, name = os.path.split(directory)
  is_bucket = "://" in directory
  return directory if is_bucket else os.path.join(parent, f".{name}.partial")


def _write_assets(
  folder, classes, about, config_gin
) -> list[tf.saved_model.Asset]:
  """Writes the files that a SavedModel has beside it."""
  _write_classes(folder / "class_labels_indices.csv", classes)
  (folder / "tagger.json").write_text(storage.to_json(about, 1) + "\n")
  if config_gin:
    (folder / "config.gin").write_text(config_gin, encoding="utf-8")
  return [tf.saved_model.Asset(str(path)) for path in sorted(folder.iterdir())]


def _requests(min_samples: int, batch_shape: tuple[int, int], has_frames: bool):
  """Returns a request of silence for each signature that computes."""

  def zeros(*shape):
    return tf.make_tensor_proto(0.0, shape=shape)

  silence = tf.audio.encode_wav(
    tf.zeros([min_samples, 1]), records.SAMPLE_RATE_HZ
  )
  second = tf.make_tensor_proto(1.0)
  frames = [("frames", {"waveform": zeros(1, min_samples)})]
  return [
    ("serving_default", {"waveform": zeros(1, min_samples)}),
    ("batched", {"waveform": zeros(*batch_shape)}),
    ("wav", {"wav": tf.make_tensor_proto([silence.numpy()])}),
    (
      "timeline",
      {
        "waveform": zeros(1, min_samples),
        "window_seconds": second,
        "hop_seconds": second,
      },
    ),
    *(frames if has_frames else ()),
  ]


def _write_classes(path: pathlib.Path, classes: labels.ClassList) -> None:
  with path.open("w", newline="", encoding="utf-8") as file:
    writer = csv.writer(file)
    writer.writerow(["index", "mid", "display_name"])
    for i, (mid, name) in enumerate(zip(classes.mids, classes.names)):
      writer.writerow([i, mid, name])
