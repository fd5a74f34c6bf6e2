# SPDX-License-Identifier: Apache-2.0
"""The TFLite model: a clip to scores, on a phone or a small computer."""

from __future__ import annotations

import time

import numpy as np
import tensorflow as tf

from tf_audioset.data import pipeline as pipeline_lib


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
    embedding = tagger.embed(padded, engine="fft32")
    logits = tagger.head(embedding)
    return {
      "scores": tf.exp(tagger.loss_function.log_scores(logits)),
      "embedding": tf.cast(embedding, tf.float32),
    }

  # The variables alone: the tagger would bring its Keras layers along.
  variables = tf.Module()
  variables.model_variables = list(tagger.variables)
  converter = tf.lite.TFLiteConverter.from_concrete_functions(
    [score.get_concrete_function()], variables
  )
  if int8_weights:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
  return converter.convert()


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
