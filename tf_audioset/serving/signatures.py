# SPDX-License-Identifier: Apache-2.0
"""The functions of an exported model, in graphs that need nothing but a device.

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
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tf_audioset.data import labels, records
from tf_audioset.data import pipeline as pipeline_lib
from tf_audioset.models import tagger as tagger_lib
from tf_audioset.serving import wav

# A second of audio takes about 2 MB of memory; a server should not end for it.
MAX_CLIP_SECONDS = 600
MAX_SECONDS = 3600
# Resampling and lossy decoding overshoot 1 a little; 16-bit samples by far.
_MAX_PEAK = 2.0


def scoring(
  tagger: tagger_lib.Tagger, min_samples: int, padding: str
) -> Callable:
  """Returns `serving_default` as a `tf.function`.

  Args:
    tagger: A built tagger.
    min_samples: Shorter waveforms are padded to this.
    padding: How, see `data.pad`.
  """

  @tf.function(
    autograph=False,
    input_signature=[tf.TensorSpec([None, None], tf.float32, name="waveform")],
    # A session, as TF Serving has it, would make it a part of a graph in which
    # TensorFlow does not find GELUs, and ConvNeXt takes half as long again.
    experimental_attributes={"_noinline": True},
  )
  def score(waveform):
    padded = pipeline_lib.pad(_checked(waveform), min_samples, padding)
    return _outputs(tagger, padded)

  return score


def batch_scoring(
  tagger: tagger_lib.Tagger,
  min_samples: int,
  padding: str,
  batch_shape: tuple[int, int],
) -> Callable:
  """Returns `batched` as a `tf.function`.

  Args:
    tagger: As for `scoring`.
    min_samples: As for `scoring`.
    padding: As for `scoring`.
    batch_shape: (batch_size, num_samples).
  """
  batch_size, num_samples = batch_shape

  @tf.function(
    autograph=False,
    input_signature=[tf.TensorSpec(batch_shape, tf.float32, name="waveform")],
  )
  def score_batch(waveform):
    padded = pipeline_lib.pad(_checked(waveform), min_samples, padding)
    # XLA needs to know the length, which `pad` computes when it is run.
    padded.set_shape([batch_size, max(num_samples, min_samples)])
    # XLA has no float64 FFT.
    return _outputs(tagger, padded, engine="matmul")

  return score_batch


def description(
  classes: labels.ClassList, min_samples: int, padding: str
) -> Callable:
  """Returns `classes` as a `tf.function`; arguments are as for `scoring`."""

  @tf.function(autograph=False, input_signature=[])
  def describe():
    return {
      "mid": tf.constant(classes.mids),
      "name": tf.constant(classes.names),
      "sample_rate_hz": tf.constant(records.SAMPLE_RATE_HZ),
      "min_samples": tf.constant(min_samples),
      "padding": tf.constant(padding),
    }

  return describe


def _outputs(tagger, waveform, engine=None):
  encoded = tagger.encode(waveform, engine)
  logits = tagger.logits(encoded)
  return {
    "scores": tf.exp(tagger.loss_function.log_scores(logits)),
    "embedding": tf.cast(tagger.pooled(encoded), tf.float32),
  }


def _with_two_axes(waveform: tf.Tensor) -> tf.Tensor:
  """Returns the waveform, or an INVALID_ARGUMENT if it has another shape."""
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
  """Returns the waveform, or an INVALID_ARGUMENT if it cannot be scored."""
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


def wav_scoring(score) -> Callable:
  """Returns `wav` as a `tf.function`.

  Args:
    score: `serving_default`, a concrete function.
  """

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


def frame_scoring(
  tagger: tagger_lib.Tagger, min_samples: int, padding: str
) -> Callable:
  """Returns `frames` as a `tf.function`; arguments are as for `scoring`."""

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


def window_scoring(score) -> Callable:
  """Returns `timeline` as a `tf.function`; `score` is as for `wav_scoring`."""

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
  """Computes windows' begins, int64 [num_windows], and length in samples.

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
