# SPDX-License-Identifier: Apache-2.0
"""A .tflite file that knows its classes, in the place of a SavedModel.

The facts are files of a zip archive behind the model, where TensorFlow's own
tools look for a model's associated files: `unzip N.tflite labels.txt`.

Reference: https://ai.google.dev/edge/litert/models/metadata
"""

from __future__ import annotations

import csv
import io
import json
import os
import threading
import zipfile

import numpy as np
import tensorflow as tf

from tf_audioset.data import labels
from tf_audioset.data import pipeline as pipeline_lib
from tf_audioset.runtime import storage
from tf_audioset.runtime.errors import UserError
from tf_audioset.serving import exported_tagger

_LABELS, _CLASSES = "labels.txt", "class_labels_indices.csv"
_ABOUT = "tagger.json"
_IDENTIFIER = b"TFL3"  # From the fifth byte on.


def with_facts(content: bytes, tagger: exported_tagger.ExportedTagger) -> bytes:
  """Returns a model with what one has to know to use it.

  Args:
    content: Of a .tflite file.
    tagger: The SavedModel that it was made with.

  Returns:
    The content of a .tflite file and zip archive: labels.txt has the classes'
    names, one a line; class_labels_indices.csv has index, mid and name;
    tagger.json sample rate, padding, length of a training crop and thresholds.
  """
  rows = io.StringIO()
  writer = csv.writer(rows, lineterminator="\n")
  writer.writerow(["index", "mid", "display_name"])
  names = zip(tagger.classes.mids, tagger.classes.names)
  writer.writerows([i, *row] for i, row in enumerate(names))
  thresholds = tagger.thresholds
  about = {
    "sample_rate_hz": tagger.sample_rate_hz,
    "min_samples": tagger.min_samples,
    "padding": tagger.padding,
    "window_samples": tagger.window_samples,
    "thresholds": None
    if thresholds is None
    else [None if np.isnan(x) else float(x) for x in thresholds],
  }
  # A line of labels.txt is one class, whatever its name.
  lines = [" ".join(name.split()) for name in tagger.classes.names]
  file = io.BytesIO(content)
  with zipfile.ZipFile(file, "a") as archive:
    for name, text in (
      (_LABELS, "\n".join(lines) + "\n"),
      (_CLASSES, rows.getvalue()),
      (_ABOUT, storage.to_json(about, 1) + "\n"),
    ):
      # The same bytes whenever it is written: the time is 1980's.
      archive.writestr(zipfile.ZipInfo(name), text.encode())
  return file.getvalue()


class TFLiteFile:
  """A model of `with_facts`, used as an `exported_tagger.ExportedTagger` is.

  Attributes:
    directory: Path of the file.
    frame_samples: None: it has no scores of frames.
    classes, sample_rate_hz, min_samples, padding, window_samples, thresholds:
      As those of `exported_tagger.ExportedTagger`.
  """

  def __init__(self, path: str):
    """Loads it.

    Args:
      path: Of the file; may be in a bucket.

    Raises:
      UserError: If it is no such file.
    """
    self.directory = path
    self.frame_samples = None
    try:
      with tf.io.gfile.GFile(path, "rb") as file:
        content = file.read()
    except tf.errors.OpError as e:
      raise UserError(f"{path}: cannot be read: {e.message}") from e
    if content[4:8] != _IDENTIFIER:
      raise UserError(f"{path}: is no TFLite model.")
    about = self._read_facts(content)
    self.sample_rate_hz = about["sample_rate_hz"]
    self.min_samples, self.padding = about["min_samples"], about["padding"]
    self.window_samples = about["window_samples"]
    thresholds = about["thresholds"]
    self.thresholds = thresholds and np.array(thresholds, np.float64)
    try:
      self._interpreter = tf.lite.Interpreter(
        model_content=content, num_threads=os.cpu_count() or 1
      )
      self._run = self._interpreter.get_signature_runner()
    except (ValueError, RuntimeError) as e:
      raise UserError(f"{path}: is no whole TFLite model: {e}") from e
    self._lock = threading.Lock()  # An interpreter computes one at a time.

  def _read_facts(self, content) -> dict:
    try:
      with zipfile.ZipFile(io.BytesIO(content)) as archive:
        table = archive.read(_CLASSES).decode()
        about = json.loads(archive.read(_ABOUT))
    except (zipfile.BadZipFile, KeyError) as e:
      raise UserError(
        f"{self.directory}: does not hold its classes: it is cut off, of an "
        "earlier version or of another program. Export it anew, with "
        "tools/export.py --tflite."
      ) from e
    rows = list(csv.DictReader(io.StringIO(table, newline="")))
    self.classes = labels.ClassList(
      mids=tuple(row["mid"] for row in rows),
      names=tuple(row["display_name"] for row in rows),
    )
    return about

  def score(self, waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores clips of one length one by one, see `ExportedTagger.score`."""
    scores, embeddings = [], []
    for clip in np.asarray(waveform, np.float32):
      with self._lock:
        outputs = self._run(waveform=clip[np.newaxis])
      scores.append(outputs["scores"][0])
      embeddings.append(outputs["embedding"][0])
    return np.stack(scores), np.stack(embeddings)

  def pad(self, waveform: np.ndarray) -> np.ndarray:
    """Pads a clip, see `ExportedTagger.pad`."""
    if len(waveform) >= self.min_samples:
      return waveform
    return pipeline_lib.pad(
      tf.constant(waveform), self.min_samples, self.padding
    ).numpy()

  def timeline(
    self, waveform: np.ndarray, window_seconds: float, hop_seconds: float
  ) -> np.ndarray:
    """Scores windows, see `ExportedTagger.timeline`."""
    window, hop = (
      max(round(float(np.float32(seconds)) * self.sample_rate_hz), 1)
      for seconds in (window_seconds, hop_seconds)
    )
    last = max(len(waveform) - window, 0)
    begins = np.minimum(np.arange(1 - (-last // hop)) * hop, last)
    windows = [waveform[begin : begin + window] for begin in begins]
    return self.score(np.stack(windows))[0]


def is_tflite(path: str) -> bool:
  """Returns whether a path is that of a TFLite model, by its name."""
  return path.endswith(".tflite")


def load(path: str) -> exported_tagger.ExportedTagger | TFLiteFile:
  """Loads a SavedModel or a .tflite file.

  Raises:
    UserError: If it is neither.
  """
  return (
    TFLiteFile(path)
    if is_tflite(path)
    else exported_tagger.ExportedTagger(path)
  )
