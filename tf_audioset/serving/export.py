# SPDX-License-Identifier: Apache-2.0
"""The SavedModel: what it holds, and how it is loaded.

    serving_default: waveform float32 [batch, num_samples], mono, full
      scale +-1 -> scores float32 [batch, num_classes], embedding
      float32 [batch, size]
    batched: the same for one fixed shape and in operations that XLA compiles,
      as a TPU does; elsewhere it is the slower one
    wav: wav string [batch], each the bytes of a 16-bit PCM wav file, see
      `wav.decode` -> the same. Channels are averaged. Each clip is scored by
      itself, so that clips of different lengths can be given together.
    timeline: waveform as above; window_seconds, hop_seconds float32 scalars ->
      scores float32 [batch, num_windows, num_classes], times_seconds float32
      [num_windows], where each window begins. The last window ends with the
      waveform.
    frames: waveform as above -> scores float32 [batch, num_frames,
      num_classes], times_seconds float32 [num_frames], where each frame begins.
      Only if the model's head scores frames.
    classes: (nothing) -> mid, name string [num_classes]; sample_rate_hz,
      min_samples int32 scalars; padding string scalar

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
import json
import os
import pathlib
import tempfile

import numpy as np
import tensorflow as tf
from absl import logging

from tf_audioset.data import labels, records
from tf_audioset.data import pipeline as pipeline_lib
from tf_audioset.models import folding
from tf_audioset.runtime import messages, storage
from tf_audioset.runtime.errors import UserError
from tf_audioset.serving import warmup, wav

# A second of audio takes about 2 MB of memory; a server should not end for it.
MAX_CLIP_SECONDS = 600
MAX_SECONDS = 3600
# This machine's device, also where a TPU's hosts are other machines.
HERE = "/job:localhost/replica:0/task:0/device:CPU:0"
NO_FRAMES = (
  "{} has no scores of frames, which come from a SavedModel whose head scores "
  "frames, as Tagger.head = @AttentionHead() does."
)
# Resampling and lossy decoding overshoot 1 a little; 16-bit samples by far.
_MAX_PEAK = 2.0


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
  batch_size, num_samples = batch_shape
  if (
    num_samples > MAX_CLIP_SECONDS * records.SAMPLE_RATE_HZ
    or batch_size * num_samples > MAX_SECONDS * records.SAMPLE_RATE_HZ
  ):
    raise UserError(
      f"batched of {batch_size} clips of {num_samples} samples: a clip may "
      f"have {MAX_CLIP_SECONDS} s and all of them {MAX_SECONDS} s."
    )
  directory = directory.rstrip("/")
  storage.check_no_pattern(directory)
  storage.check_bucket(directory)
  _refuse_other_files(directory)
  module = _ExportedModule(name="tagger")
  # The variables alone: the tagger itself would bring its Keras layers along.
  module.model_variables = list(tagger.variables)
  folded = folding.fold_batch_norms(tagger, tf.zeros([1, min_samples]))

  def outputs(tagger, waveform, engine=None):
    encoded = tagger.encode(waveform, engine)
    logits = tagger.head(encoded)
    return {
      "scores": tf.exp(tagger.loss_function.log_scores(logits)),
      "embedding": tf.cast(tagger.pooled(encoded), tf.float32),
    }

  @tf.function(
    autograph=False,
    input_signature=[tf.TensorSpec([None, None], tf.float32, name="waveform")],
    # A session, as TF Serving has it, would make it a part of a graph in which
    # TensorFlow does not find GELUs, and ConvNeXt takes half as long again.
    experimental_attributes={"_noinline": True},
  )
  def score(waveform):
    padded = pipeline_lib.pad(_checked(waveform), min_samples, padding)
    return outputs(folded, padded)

  @tf.function(
    autograph=False,
    input_signature=[tf.TensorSpec(batch_shape, tf.float32, name="waveform")],
  )
  def score_batch(waveform):
    padded = pipeline_lib.pad(_checked(waveform), min_samples, padding)
    # XLA needs to know the length, which `pad` computes when it is run.
    padded.set_shape([batch_size, max(num_samples, min_samples)])
    # XLA has no float64 FFT.
    return outputs(tagger, padded, engine="matmul")

  @tf.function(autograph=False, input_signature=[])
  def describe():
    return {
      "mid": tf.constant(classes.mids),
      "name": tf.constant(classes.names),
      "sample_rate_hz": tf.constant(records.SAMPLE_RATE_HZ),
      "min_samples": tf.constant(min_samples),
      "padding": tf.constant(padding),
    }

  one_graph = score.get_concrete_function()
  # In `batched`, XLA and a TPU do with the model's own variables.
  module.folded_variables = list(folded.variables)
  signatures = {
    "serving_default": one_graph,
    "batched": score_batch.get_concrete_function(),
    "wav": _wav_function(one_graph).get_concrete_function(),
    "timeline": _timeline_function(one_graph).get_concrete_function(),
    "classes": describe.get_concrete_function(),
  }
  if folded.frame_samples:
    signatures["frames"] = _frames_function(
      folded, min_samples, padding
    ).get_concrete_function()
  module.functions = list(signatures.values())
  module.score = score
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    _write_classes(folder / "class_labels_indices.csv", classes)
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
    (folder / "tagger.json").write_text(storage.to_json(about, 1) + "\n")
    if config_gin:
      (folder / "config.gin").write_text(config_gin, encoding="utf-8")
    module.files = [
      tf.saved_model.Asset(str(path)) for path in sorted(folder.iterdir())
    ]
    # TF Serving looks for numbers only. In a bucket nothing is gained: a folder
    # is renamed by copying, and a request that fails meanwhile stops that.
    parent, name = os.path.split(directory)
    partial = os.path.join(parent, f".{name}.partial")
    if "://" in directory:
      partial = directory
    if tf.io.gfile.exists(partial):
      tf.io.gfile.rmtree(partial)
    # Gradients would double the functions, and the memory that loading takes.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, partial, signatures, options)
  warmup.write(
    partial, _requests(min_samples, batch_shape, "frames" in signatures)
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


def _refuse_other_files(directory: str) -> None:
  """So that nothing is deleted that an export has not written."""
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


def _requests(min_samples: int, batch_shape: tuple[int, int], has_frames: bool):
  """A request of silence for each signature that computes."""

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


def _with_two_axes(waveform: tf.Tensor) -> tf.Tensor:
  """The waveform itself; an INVALID_ARGUMENT if it has another shape."""
  # A server feeds any shape. What a graph's input declares is taken for true,
  # and a check of it left out, unless it is hidden.
  given = tf.raw_ops.PlaceholderWithDefault(
    input=waveform, shape=tf.TensorShape(None)
  )
  shape = tf.shape(given)
  check = tf.debugging.Assert(
    tf.logical_and(tf.size(shape) == 2, tf.reduce_all(shape > 0)),
    [
      "waveform must be [batch, num_samples], one clip or more, of one sample "
      "or more; given:",
      shape,
    ],
  )
  with tf.control_dependencies([check]):
    return tf.ensure_shape(given, waveform.shape)


def _checked(waveform: tf.Tensor) -> tf.Tensor:
  """The waveform itself; an INVALID_ARGUMENT if it cannot be scored."""
  waveform = _with_two_axes(waveform)
  shape = tf.shape(waveform, tf.int64)
  peak = tf.reduce_max(tf.abs(waveform))
  # One after the other, so that the same mistake gets the same answer.
  for is_good, message, given in (
    (
      tf.logical_and(
        shape[1] <= MAX_CLIP_SECONDS * records.SAMPLE_RATE_HZ,
        shape[0] * shape[1] <= MAX_SECONDS * records.SAMPLE_RATE_HZ,
      ),
      f"a clip may have {MAX_CLIP_SECONDS} s and all clips of a request "
      f"{MAX_SECONDS} s, at {records.SAMPLE_RATE_HZ} Hz; for longer recordings "
      "there is the signature timeline; given:",
      shape,
    ),
    (
      tf.reduce_all(tf.math.is_finite(waveform)),
      "waveform holds samples that are not finite; the greatest is",
      peak,
    ),
    (
      tf.reduce_all(tf.abs(waveform) <= _MAX_PEAK),
      "waveform must be of full scale +-1 (16-bit samples are divided by "
      f"32768) and no greater than {_MAX_PEAK}; the greatest sample is",
      peak,
    ),
  ):
    with tf.control_dependencies([waveform]):
      check = tf.debugging.Assert(is_good, [message, given])
    with tf.control_dependencies([check]):
      waveform = tf.identity(waveform)
  return waveform


def _wav_function(score):
  """The signature `wav`; `score` is a concrete function, `serving_default`."""

  @tf.function(
    autograph=False,
    input_signature=[tf.TensorSpec([None], tf.string, name="wav")],
  )
  def score_wav(contents):
    # One clip at a time: the lengths of its neighbours must not matter.
    return tf.map_fn(
      lambda content: {
        name: values[0]
        for name, values in score(
          wav.decode(content, records.SAMPLE_RATE_HZ)[tf.newaxis]
        ).items()
      },
      contents,
      fn_output_signature={
        name: tf.TensorSpec(values.shape[1:])
        for name, values in score.structured_outputs.items()
      },
    )

  return score_wav


def _frames_function(tagger, min_samples, padding):
  """The signature `frames`."""

  @tf.function(
    autograph=False,
    input_signature=[tf.TensorSpec([None, None], tf.float32, name="waveform")],
    experimental_attributes={"_noinline": True},  # As `score` has it.
  )
  def score_frames(waveform):
    waveform = _checked(waveform)
    padded = pipeline_lib.pad(waveform, min_samples, padding)
    logits = tagger.frame_logits(tagger.encode(padded))
    # Those that begin in what was padded, or after the end, are left out.
    num_frames = -(-tf.shape(waveform)[1] // tagger.frame_samples)
    scores = tf.exp(tagger.loss_function.log_scores(logits))[:, :num_frames]
    numbers = tf.range(tf.shape(scores)[1], dtype=tf.float32)
    frame_seconds = tagger.frame_samples / records.SAMPLE_RATE_HZ
    return {"scores": scores, "times_seconds": numbers * frame_seconds}

  return score_frames


def _timeline_function(score):
  """The signature `timeline`; `score` is as in `_wav_function`."""

  @tf.function(
    autograph=False,
    input_signature=[
      tf.TensorSpec([None, None], tf.float32, name="waveform"),
      tf.TensorSpec([], tf.float32, name="window_seconds"),
      tf.TensorSpec([], tf.float32, name="hop_seconds"),
    ],
  )
  def score_timeline(waveform, window_seconds, hop_seconds):
    waveform = _with_two_axes(waveform)
    begins, window_samples = _windows(
      tf.shape(waveform, tf.int64)[1], window_seconds, hop_seconds
    )
    # One window at a time: an hour takes no more memory than a minute.
    scores = tf.map_fn(
      lambda begin: score(waveform[:, begin : begin + window_samples])[
        "scores"
      ],
      begins,
      fn_output_signature=tf.TensorSpec(
        score.structured_outputs["scores"].shape
      ),
      parallel_iterations=1,
    )
    times = tf.cast(begins, tf.float64) / records.SAMPLE_RATE_HZ
    return {
      "scores": tf.transpose(scores, [1, 0, 2]),
      "times_seconds": tf.cast(times, tf.float32),
    }

  return score_timeline


def _windows(num_samples, window_seconds, hop_seconds):
  """Where windows begin, int64 [num_windows], and their length in samples.

  The last one is moved back to end with the waveform, so that all are whole; a
  waveform that is shorter than a window is one window.
  """
  longest = tf.cast(num_samples, tf.float64)

  def in_samples(seconds, limit):
    # In float64: a float32 counts no further than 17 minutes of samples.
    samples = tf.cast(seconds, tf.float64) * records.SAMPLE_RATE_HZ
    # Limited first: an infinity is no integer.
    return tf.cast(tf.round(tf.minimum(samples, limit)), tf.int64)

  checks = [
    tf.debugging.Assert(
      seconds * records.SAMPLE_RATE_HZ >= 1,
      [f"{name} must be at least one sample; given:", seconds],
    )
    for name, seconds in (
      ("window_seconds", window_seconds),
      ("hop_seconds", hop_seconds),
    )
  ]
  with tf.control_dependencies(checks):
    window = in_samples(window_seconds, longest)
    hop = in_samples(hop_seconds, longest + 1)
  last = num_samples - window
  # -(-a // b) is a / b rounded up.
  num_windows = 1 - (-last // hop)
  return tf.minimum(tf.range(num_windows) * hop, last), window


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
    num = max(MAX_SECONDS * self.sample_rate_hz // num_samples, 1)
    results = [
      self._score(waveform=tf.constant(waveform[i : i + num], tf.float32))
      for i in range(0, len(waveform), num)
    ]
    return tuple(
      np.concatenate([result[name].numpy() for result in results])
      for name in ("scores", "embedding")
    )

  def pad(self, waveform: np.ndarray) -> np.ndarray:
    """float32 [num_samples] as the model pads it, so that batches can be made.

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
  """The kinds of operations of a concrete function."""
  graph = function.graph.as_graph_def()
  nodes = [
    *graph.node,
    *(n for f in graph.library.function for n in f.node_def),
  ]
  return {node.op for node in nodes}


def versions(directory: str) -> list[int]:
  """The versions in a folder as TF Serving has it, in rising order."""
  is_there = tf.io.gfile.exists(directory)
  names = tf.io.gfile.listdir(directory) if is_there else []
  # A bucket's folders are listed with a slash.
  names = [name.rstrip("/") for name in names]
  return sorted(int(name) for name in names if name.isdigit())


def _load(directory: str):
  """A SavedModel, without warnings that it cannot be trained."""
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


def _write_classes(path: pathlib.Path, classes: labels.ClassList) -> None:
  with path.open("w", newline="", encoding="utf-8") as file:
    writer = csv.writer(file)
    writer.writerow(["index", "mid", "display_name"])
    for i, (mid, name) in enumerate(zip(classes.mids, classes.names)):
      writer.writerow([i, mid, name])
