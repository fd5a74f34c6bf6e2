# SPDX-License-Identifier: Apache-2.0
"""The part of tools/predict.py that listens to a stream."""

from __future__ import annotations

import os
import signal
import sys
import time

from absl import flags

from tf_audioset.commands import predict_choices
from tf_audioset.data.audio_bytes import AudioError
from tf_audioset.runtime.errors import UserError
from tf_audioset.serving import (
  prediction,
  stream,
  stream_input,
  tflite_file,
)

FLAGS = flags.FLAGS
_STDIN = 0


def listen() -> int:
  """Prints the events of the standard input.

  Returns:
    The exit code.

  Raises:
    UserError: If it is not PCM, or ends by an error of the system.
    KeyboardInterrupt: When all was printed, if ctrl-C ended it.
  """
  if os.isatty(_STDIN):
    raise UserError(
      "--stream reads samples from a pipe, and the standard input is a "
      "terminal: arecord -f S16_LE -r 16000 -t wav | python tools/predict.py "
      "--stream ..."
    )
  source = stream_input.Source(
    _STDIN,
    _say,
    stall_seconds=FLAGS.stall_seconds,
    give_up_seconds=FLAGS.give_up_seconds,
  )
  signals = _end_by_signals(source)
  raw = None
  if FLAGS.pcm:
    raw = stream_input.Pcm(FLAGS.pcm, FLAGS.pcm_rate_hz, FLAGS.pcm_channels)
    stream_input.check(raw)
  try:
    samples = stream_input.Stream(source, raw)
  except AudioError:
    if source.is_stopped:
      raise KeyboardInterrupt from None
    raise
  tagger = tflite_file.load(FLAGS.saved_model)
  window_seconds = (
    FLAGS.window_seconds or tagger.window_samples / tagger.sample_rate_hz
  )
  hop_seconds = FLAGS.hop_seconds or window_seconds / 2
  listener = stream.Listener(
    tagger,
    predict_choices.detector(tagger),
    window_seconds=window_seconds,
    hop_seconds=hop_seconds,
    say=_say,
  )
  latency = window_seconds + hop_seconds + FLAGS.merge_seconds
  _say(
    f"{samples.pcm}; windows of {window_seconds:g} s, one each "
    f"{hop_seconds:g} s; events are printed at most {latency:g} s after their "
    "end"
  )
  form = "json" if FLAGS.json else "csv" if FLAGS.csv else FLAGS.events or "tsv"
  _print_events(listener, samples, predict_choices.event_writer(tagger, form))
  for problem in samples.problems:
    _say(f"error: the stream {problem}")
  if signal.SIGINT in signals:
    raise KeyboardInterrupt
  if not listener.audio_seconds:
    raise UserError("the stream holds no samples.")
  return 1 if samples.problems else 0


def _print_events(listener, samples, writer) -> None:
  """Prints events until the stream ends, and then what it was."""
  start, num_events = time.perf_counter(), 0

  def put(found):
    nonlocal num_events
    for event in found:
      num_events += 1
      told_seconds = listener.audio_seconds
      print(writer.line(event, told_seconds=told_seconds), end="", flush=True)

  print(writer.head(), end="", flush=True)
  try:
    put(listener.hear(samples.frames(), samples.pcm.rate_hz))
  finally:
    # What was heard is told, whatever ended it.
    put(listener.finish())
    seconds = time.perf_counter() - start
    _say(
      f"{prediction.clock(listener.audio_seconds)} of audio in "
      f"{seconds:.1f} s: "
      f"{listener.audio_seconds / max(seconds, 1e-9):.1f} x real time; "
      f"{listener.num_windows:,} windows, {num_events:,} events; windows were "
      f"scored within {1000 * listener.slowest_seconds:.0f} ms"
    )
  samples.pass_over_rest()


def _end_by_signals(source) -> list[int]:
  """Lets ctrl-C and SIGTERM end the stream; returns those that did.

  A second one ends the program at once.
  """
  received = []

  def end(number, frame):
    del frame
    received.append(number)
    source.stop()
    signal.signal(number, before[number])

  before = {
    number: signal.signal(number, end)
    for number in (signal.SIGINT, signal.SIGTERM)
  }
  return received


def _say(message: str) -> None:
  print(f"predict: {message}", file=sys.stderr, flush=True)
