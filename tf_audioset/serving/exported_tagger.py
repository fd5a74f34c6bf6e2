# SPDX-License-Identifier: Apache-2.0
"""An exported SavedModel, loaded for use from Python."""

from __future__ import annotations

import json
import os

import numpy as np
import tensorflow as tf
from absl import logging

from tf_audioset.data import labels
from tf_audioset.data import pipeline as pipeline_lib
from tf_audioset.runtime import messages
from tf_audioset.runtime.errors import UserError
from tf_audioset.serving import signatures as signatures_lib

# This machine's device, also where a TPU's hosts are other machines.
HERE = "/job:localhost/replica:0/task:0/device:CPU:0"
NO_FRAMES = (
  "{} has no scores of frames, which come from a SavedModel whose head scores "
  "frames, as Tagger.head = @AttentionHead() does."
)


class ExportedTagger:
  """A SavedModel of `export`, loaded for use from Python.

  Attributes:
    directory: Of the version that was taken.
    classes: In the order of the scores.
    sample_rate_hz: Of the waveform.
    min_samples: Shorter waveforms are padded to this.
    padding: How, see `data.pad`.
    window_samples: Length of the clips that it was trained on, which windows
      of longer recordings should have.
    frame_samples: From one frame of `frames` to the next; None: it has none.
    thresholds: float64 [num_classes], the score from which on a class is taken
      to be there; nan for a class that the validation had no clip of. None if
      the export holds none.
  """

  def __init__(self, directory: str):
    """Loads it.

    Args:
      directory: What `find` takes.

    Raises:
      UserError: If there is no SavedModel, or it is not a tagger's.
    """
    directory = find(directory)
    self.directory = directory
    # Kept, because its variables live as long as this does.
    self._module = _load(directory)
    signatures = self._module.signatures
    if not {"serving_default", "classes"} <= set(signatures):
      raise UserError(
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
    about = _about(directory)
    self.window_samples = about.get("window_samples", self.min_samples)
    self.frame_samples = about.get("frame_samples")
    thresholds = about.get("thresholds")
    self.thresholds = thresholds and np.array(thresholds["values"], np.float64)

  def score(self, waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores clips of one length.

    Args:
      waveform: float32 [batch, num_samples], at `sample_rate_hz`.

    Returns:
      scores float32 [batch, num_classes] and embedding float32 [batch, size].
    """
    # No more at once than a request may have.
    num_samples = max(waveform.shape[1], 1)
    num = max(
      signatures_lib.MAX_SECONDS * self.sample_rate_hz // num_samples, 1
    )
    results = [
      self._score(waveform=tf.constant(waveform[i : i + num], tf.float32))
      for i in range(0, len(waveform), num)
    ]
    return tuple(
      np.concatenate([result[name].numpy() for result in results])
      for name in ("scores", "embedding")
    )

  def pad(self, waveform: np.ndarray) -> np.ndarray:
    """Pads float32 [num_samples] as the model does, so that it fits a batch.

    It is scored as the waveform itself would be.
    """
    if len(waveform) >= self.min_samples:
      return waveform
    return pipeline_lib.pad(
      tf.constant(waveform), self.min_samples, self.padding
    ).numpy()

  def timeline(
    self, waveform: np.ndarray, window_seconds: float, hop_seconds: float
  ) -> np.ndarray:
    """Scores the windows of a waveform, see the signature `timeline`.

    Args:
      waveform: float32 [num_samples], at `sample_rate_hz`.
      window_seconds: Length of a window.
      hop_seconds: From the beginning of one to that of the next.

    Returns:
      float32 [num_windows, num_classes].

    Raises:
      UserError: If the model has no such signature.
    """
    signatures = self._module.signatures
    if "timeline" not in signatures:
      raise UserError(
        f"{self.directory} has no signature timeline: export the model anew."
      )
    result = signatures["timeline"](
      waveform=tf.constant(waveform[np.newaxis], tf.float32),
      window_seconds=tf.constant(window_seconds, tf.float32),
      hop_seconds=tf.constant(hop_seconds, tf.float32),
    )
    return result["scores"][0].numpy()

  def frames(self, waveform: np.ndarray) -> np.ndarray:
    """Scores the frames of a waveform, see the signature `frames`.

    Args:
      waveform: float32 [num_samples], at `sample_rate_hz`, at most
        `MAX_CLIP_SECONDS` long.

    Returns:
      float32 [num_frames, num_classes]; a frame begins each `frame_samples`.

    Raises:
      UserError: If the model has no such signature.
    """
    if self.frame_samples is None:
      raise UserError(NO_FRAMES.format(self.directory))
    result = self._module.signatures["frames"](
      waveform=tf.constant(waveform[np.newaxis], tf.float32)
    )
    return result["scores"][0].numpy()


def _about(directory: str) -> dict:
  """Returns what assets/tagger.json holds; exports of old have none."""
  path = os.path.join(directory, "assets", "tagger.json")
  if not tf.io.gfile.exists(path):
    return {}
  with tf.io.gfile.GFile(path) as file:
    return json.load(file)


class ReplicatedTagger:
  """The signature `batched` on all replicas of a strategy, such as a TPU's."""

  def __init__(
    self,
    directory: str,
    strategy: tf.distribute.Strategy,
    *,
    jit_compile: bool = False,
  ):
    """Loads it.

    Args:
      directory: The SavedModel.
      strategy: Where the replicas are.
      jit_compile: Compile it with XLA; a TPU does so in any case.

    Raises:
      UserError: If there is no such signature, or it is an older one.
    """
    self._strategy = strategy
    with strategy.scope():
      self._module = tf.saved_model.load(
        directory,
        # The hosts of a pod do not see this machine's disk.
        options=tf.saved_model.LoadOptions(experimental_io_device=HERE),
      )
    batched = self._module.signatures.get("batched")
    if batched is None or "RFFT" in _operations(batched):
      raise UserError(
        f"{directory}: has no signature that XLA can compile: export the "
        "checkpoint again with tools/export.py."
      )
    (spec,) = batched.structured_input_signature[1].values()
    self.batch_size = spec.shape[0] * strategy.num_replicas_in_sync
    self.num_samples = spec.shape[1]

    @tf.function(autograph=False, jit_compile=jit_compile or None)
    def score_one(waveform):
      return batched(waveform=waveform)["scores"]

    # Gathered in there: outside, each call would be traced anew. Not a lambda:
    # a TPU's part of the graph is named after it, and no name may have a "<".
    @tf.function(autograph=False)
    def score_all(waveform):
      return strategy.gather(strategy.run(score_one, args=(waveform,)), axis=0)

    self._score = score_all

  def score(self, waveform: np.ndarray) -> np.ndarray:
    """Scores at most `batch_size` clips of `num_samples`.

    Args:
      waveform: float32 [batch, num_samples]; what is missing to `batch_size`
        is filled up with silence and not returned.

    Returns:
      float32 [batch, num_classes].
    """
    filled = np.zeros([self.batch_size, self.num_samples], np.float32)
    filled[: len(waveform)] = waveform
    parts = np.split(filled, self._strategy.num_replicas_in_sync)
    scores = self._score(
      self._strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(parts[context.replica_id_in_sync_group])
      )
    )
    return scores.numpy()[: len(waveform)]


def _operations(function) -> set[str]:
  """Returns the kinds of operations of a concrete function."""
  graph = function.graph.as_graph_def()
  nodes = [
    *graph.node,
    *(n for f in graph.library.function for n in f.node_def),
  ]
  return {node.op for node in nodes}


def versions(directory: str) -> list[int]:
  """Returns the versions in a folder as TF Serving has it, in rising order."""
  is_there = tf.io.gfile.exists(directory)
  names = tf.io.gfile.listdir(directory) if is_there else []
  # A bucket's folders are listed with a slash.
  names = [name.rstrip("/") for name in names]
  return sorted(int(name) for name in names if name.isdigit())


def _load(directory: str):
  """Loads a SavedModel without warnings that it cannot be trained."""
  level = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    with messages.naming_broken(directory):
      return tf.saved_model.load(directory)
  finally:
    logging.set_verbosity(level)


def find(path: str) -> str:
  """Returns the folder of a SavedModel.

  Args:
    path: That folder; or, as TF Serving has it, a folder of numbered versions,
      of which the newest is taken.

  Raises:
    UserError: If there is no SavedModel.
  """
  if tf.saved_model.contains_saved_model(path):
    return path
  if path.endswith(".tflite"):
    raise UserError(
      f"{path}: a TFLite model; wanted is the folder of the SavedModel that "
      "was exported with it."
    )
  if os.path.basename(path) == "saved_model.pb" and tf.io.gfile.exists(path):
    raise UserError(f"{path}: give the folder that it is in.")
  if tf.io.gfile.exists(path) and not tf.io.gfile.isdir(path):
    raise UserError(
      f"{path}: a file; wanted is the folder of a SavedModel, which training "
      "writes to WORKDIR/saved_model."
    )
  numbers = versions(path)
  if numbers:
    newest = os.path.join(path, str(numbers[-1]))
    if tf.saved_model.contains_saved_model(newest):
      return newest
  raise UserError(
    f"{path}: no SavedModel there (no saved_model.pb). Training writes one to "
    "WORKDIR/saved_model."
  )
