# SPDX-License-Identifier: Apache-2.0
"""The SavedModel: what it holds, and how it is loaded.

    serving_default: waveform float32 [batch, num_samples] ->
      scores float32 [batch, num_classes], embedding float32 [batch, size]
    classes: (nothing) -> mid, name string [num_classes]; sample_rate_hz,
      min_samples int32 scalars; padding string scalar

It is a plain `tf.Module` of functions and variables: loading it needs neither
this package nor Keras, tensorflow-addons or tensorflow-io.
"""

from __future__ import annotations

import csv
import os
import pathlib
import tempfile

import numpy as np
import tensorflow as tf

from tf_audioset import data, labels, records


def export(
  tagger,
  directory: str,
  *,
  classes: labels.ClassList,
  min_samples: int,
  padding: str,
) -> None:
  """Writes `tagger` as a SavedModel.

  Args:
    tagger: A built `Tagger`, created outside of any strategy's scope.
    directory: Where; what is there is replaced. It appears when it is whole,
      at once on a disk; in a bucket file by file, since there a folder is
      renamed by copying.
    classes: As many as the tagger has logits.
    min_samples: Shorter waveforms are padded to this, as in training.
    padding: How, see `data.pad`.
  """
  directory = directory.rstrip("/")
  module = tf.Module(name="tagger")
  # The variables alone: the tagger itself would bring its Keras layers along.
  module.model_variables = list(tagger.variables)

  @tf.function(
    input_signature=[tf.TensorSpec([None, None], tf.float32, name="waveform")]
  )
  def score(waveform):
    embedding = tagger.embed(data.pad(waveform, min_samples, padding))
    logits = tagger.head(embedding)
    return {
      "scores": tf.exp(tagger.loss_function.log_scores(logits)),
      "embedding": tf.cast(embedding, tf.float32),
    }

  @tf.function(input_signature=[])
  def describe():
    return {
      "mid": tf.constant(classes.mids),
      "name": tf.constant(classes.names),
      "sample_rate_hz": tf.constant(records.SAMPLE_RATE_HZ),
      "min_samples": tf.constant(min_samples),
      "padding": tf.constant(padding),
    }

  module.score = score
  module.classes = describe
  with tempfile.TemporaryDirectory() as folder:
    table = os.path.join(folder, "class_labels_indices.csv")
    _write_classes(table, classes)
    module.class_table = tf.saved_model.Asset(table)
    # TF Serving looks for numbers only.
    parent, name = os.path.split(directory)
    partial = os.path.join(parent, f".{name}.partial")
    for old in (partial, directory):
      if tf.io.gfile.exists(old):
        tf.io.gfile.rmtree(old)
    tf.saved_model.save(
      module,
      partial,
      signatures={"serving_default": score, "classes": describe},
    )
    tf.io.gfile.rename(partial, directory)


class ExportedTagger:
  """A SavedModel of `export`, loaded for use from Python."""

  def __init__(self, directory: str):
    """Loads it.

    Args:
      directory: The SavedModel; or, as TF Serving has it, a folder of numbered
        versions, of which the newest is taken.

    Raises:
      ValueError: If there is no SavedModel, or it is not a tagger's.
    """
    directory = _newest_version(directory)
    self.directory = directory  # Of the version taken.
    # Kept, because its variables live as long as this does.
    self._module = tf.saved_model.load(directory)
    signatures = self._module.signatures
    if not {"serving_default", "classes"} <= set(signatures):
      raise ValueError(
        f"{directory}: a SavedModel, but not an exported tagger: its "
        f"signatures are {sorted(signatures)}, not serving_default and classes."
      )
    facts = {k: v.numpy() for k, v in signatures["classes"]().items()}
    self._score = signatures["serving_default"]
    self.classes = labels.ClassList(
      mids=tuple(x.decode() for x in facts["mid"]),
      names=tuple(x.decode() for x in facts["name"]),
    )
    self.sample_rate_hz = int(facts["sample_rate_hz"])
    self.min_samples = int(facts["min_samples"])
    self.padding = facts["padding"].decode()

  def score(self, waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores clips of one length.

    Args:
      waveform: float32 [batch, num_samples], at `sample_rate_hz`.

    Returns:
      scores float32 [batch, num_classes] and embedding float32 [batch, size].
    """
    result = self._score(waveform=tf.constant(waveform, tf.float32))
    return result["scores"].numpy(), result["embedding"].numpy()


def versions(directory: str) -> list[int]:
  """The versions in a folder as TF Serving has it, in rising order."""
  names = tf.io.gfile.listdir(directory) if tf.io.gfile.isdir(directory) else []
  # A bucket's folders are listed with a slash.
  names = [name.rstrip("/") for name in names]
  return sorted(int(name) for name in names if name.isdigit())


def _newest_version(directory: str) -> str:
  if tf.saved_model.contains_saved_model(directory):
    return directory
  numbers = versions(directory)
  if numbers:
    newest = os.path.join(directory, str(numbers[-1]))
    if tf.saved_model.contains_saved_model(newest):
      return newest
  raise ValueError(
    f"{directory}: no SavedModel there (no saved_model.pb). Training writes "
    "one to WORKDIR/saved_model."
  )


def _write_classes(path: str, classes: labels.ClassList) -> None:
  with pathlib.Path(path).open("w", newline="", encoding="utf-8") as file:
    writer = csv.writer(file)
    writer.writerow(["index", "mid", "display_name"])
    for i, (mid, name) in enumerate(zip(classes.mids, classes.names)):
      writer.writerow([i, mid, name])
