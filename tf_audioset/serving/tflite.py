# SPDX-License-Identifier: Apache-2.0
"""The TFLite model: a clip to scores, on a phone or a small computer."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from tf_audioset.data import pipeline as pipeline_lib
from tf_audioset.preparation import synthetic
from tf_audioset.runtime import storage
from tf_audioset.serving import exported_tagger, tflite_file


def convert(
  tagger: tf.keras.Model,
  *,
  min_samples: int,
  padding: str,
  int8_weights: bool = False,
) -> bytes:
  """Converts a tagger.

  Args:
    tagger: A built `Tagger`, created outside of any strategy's scope.
    min_samples: Shorter waveforms are padded to this, as in training.
    padding: How, see `data.pad`.
    int8_weights: Whether the weights are stored in 8 bits, and what they are
      multiplied by is rounded to 8 bits while the model runs. The front end
      stays in float32.

  Returns:
    The content of a .tflite file. Its input is "waveform", float32
    [1, num_samples] as for `export`'s serving_default, of any length that the
    interpreter is told (`resize_tensor_input`); its outputs "scores" and
    "embedding". It needs TFLite's builtin operations alone.
  """

  @tf.function(
    autograph=False,
    input_signature=[tf.TensorSpec([1, None], tf.float32, name="waveform")],
  )
  def score(waveform):
    padded = pipeline_lib.pad(waveform, min_samples, padding)
    encoded = tagger.encode(padded, engine="fft32")
    logits = tagger.head(encoded)
    return {
      "scores": tf.exp(tagger.loss_function.log_scores(logits)),
      "embedding": tf.cast(tagger.pooled(encoded), tf.float32),
    }

  # The variables alone: the tagger would bring its Keras layers along.
  variables = tf.Module()
  variables.model_variables = list(tagger.variables)
  converter = tf.lite.TFLiteConverter.from_concrete_functions(
    [score.get_concrete_function()], variables
  )
  if int8_weights:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
  with _quiet():
    return converter.convert()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Keeps the converter's log back, 90 lines of it, unless it fails.

  Most of it is written by C++, to the file of the standard error.
  """
  sys.stderr.flush()
  with tempfile.TemporaryFile() as log, os.fdopen(os.dup(2), "wb") as screen:
    os.dup2(log.fileno(), 2)
    try:
      yield
    except BaseException:
      sys.stderr.flush()
      log.seek(0)
      screen.write(log.read())
      raise
    finally:
      sys.stderr.flush()
      os.dup2(screen.fileno(), 2)


class TFLiteTagger:
  """A model of `convert` in TFLite's interpreter, on one core."""

  def __init__(self, content: bytes):
    self._interpreter = tf.lite.Interpreter(
      model_content=content, num_threads=1
    )
    self._run = self._interpreter.get_signature_runner()

  def score(self, waveform: np.ndarray) -> tuple[np.ndarray, float]:
    """Scores one clip.

    Args:
      waveform: float32 [num_samples].

    Returns:
      float32 [num_classes], and the seconds it took.
    """
    self._run(waveform=waveform[np.newaxis])  # Makes room for this length.
    begin = time.perf_counter()
    outputs = self._run(waveform=waveform[np.newaxis])
    return outputs["scores"][0], time.perf_counter() - begin


def write(
  tagger: tf.keras.Model, directory: str, *, min_samples: int, padding: str
) -> Iterator[str]:
  """Writes both models beside a SavedModel and compares them with it.

  Args:
    tagger: As for `convert`.
    directory: Of the SavedModel of the same tagger. The files are named
      after it: DIRECTORY.tflite and DIRECTORY_int8.tflite.
    min_samples: As for `convert`.
    padding: As for `convert`.

  Yields:
    A line on each file: its size, its speed and how its scores of synthetic
    sounds differ from the SavedModel's.
  """
  directory = directory.rstrip("/")
  exported = exported_tagger.ExportedTagger(directory)
  rate_hz = exported.sample_rate_hz
  rng = np.random.default_rng(0)
  sounds = [make(rng, 5 * rate_hz, rate_hz) for *_, make in synthetic.CLASSES]
  clips = [np.float32(0.5 * x / np.abs(x).max()) for x in sounds]
  for suffix, int8_weights in (("", False), ("_int8", True)):
    content = convert(
      tagger,
      min_samples=min_samples,
      padding=padding,
      int8_weights=int8_weights,
    )
    content = tflite_file.with_facts(content, exported)
    path = f"{directory}{suffix}.tflite"
    storage.write_file(path, content)
    model = TFLiteTagger(content)
    results = [model.score(clip) for clip in clips]
    differences = [
      np.abs(scores - exported.score(clip[np.newaxis])[0][0])
      for clip, (scores, _) in zip(clips, results)
    ]
    seconds = sum(seconds for _, seconds in results)
    times_real_time = sum(map(len, clips)) / rate_hz / seconds
    yield (
      f"wrote {path}: {len(content) / 1e6:.2f} MB; scores differ from the "
      f"SavedModel's by at most {np.max(differences):.1e}, on average by "
      f"{np.mean(differences):.1e}; {times_real_time:.0f} times real time on "
      "one core"
    )
