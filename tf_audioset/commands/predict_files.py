# SPDX-License-Identifier: Apache-2.0
"""The part of tools/predict.py that tags files."""

from __future__ import annotations

import io
import os
import sys
import tempfile
import time

import numpy as np
from absl import flags

from tf_audioset.commands import predict_choices
from tf_audioset.data import audio
from tf_audioset.runtime import outputs
from tf_audioset.runtime.errors import UserError
from tf_audioset.serving import (
  event_text,
  frames,
  inputs,
  page,
  picture,
  prediction,
  prediction_text,
  result_text,
  tflite_file,
)

FLAGS = flags.FLAGS
STYLES = (result_text.JSON, result_text.CSV, result_text.TSV)


def predict(files: inputs.Inputs) -> int:
  """Tags files and returns the exit code."""
  tagger = tflite_file.load(FLAGS.saved_model)
  if FLAGS.frames:
    frames.check(tagger)
  # Thresholds that do not fit are told now.
  predict_choices.detector(tagger)
  choice = predict_choices.choice(tagger)
  printer = _printer(choice)
  writer = outputs.Writer()
  with tempfile.TemporaryDirectory() as folder:
    files.copy_pipes(folder)
    if files.passed_over():
      printer.say(files.passed_over())
    for failure in files.failures:
      printer.fail(str(failure))
    start = time.perf_counter()
    tables = _Tables(files, choice, writer)
    if FLAGS.timeline:
      audio_seconds = _timelines(tagger, files, printer, writer, tables)
    else:
      audio_seconds = _clips(tagger, files, printer, writer, tables)
    tables.close()
  seconds = time.perf_counter() - start
  num_files = len(files.paths) + len(files.failures)
  num_done = num_files - printer.num_failed
  print(
    f"{num_done} of {num_files} clips, {prediction.clock(audio_seconds)} of "
    f"audio, in {seconds:.1f} s: {num_done / seconds:.1f} clips/s, "
    f"{audio_seconds / seconds:.0f} x real time",
    file=sys.stderr,
  )
  writer.close()
  return 1 if printer.num_failed or files.num_unreadable else 0


def _style() -> str | None:
  """Returns how scores are printed or, with --output_dir, written."""
  for name in STYLES:
    if FLAGS[name].value:
      return name
  if FLAGS.output_dir:
    return result_text.CSV
  if sys.stdout.isatty():
    return prediction_text.TABLE
  return result_text.LINES


def _printer(choice):
  is_printed = not (FLAGS.output or FLAGS.output_dir)
  if FLAGS.events and not FLAGS.events_dir:
    is_printed = False
  return prediction_text.Printer(
    _style() if is_printed else None, choice, has_times=FLAGS.timeline
  )


def _clips(tagger, files, printer, writer, tables) -> float:
  """Scores files whole; returns the seconds of audio."""
  names, embeddings, all_scores = [], [], []
  audio_seconds = 0.0
  with printer.progress(len(files.paths), "files"):
    for clip in prediction.score_files(tagger, files.paths):
      printer.advance(1)
      if isinstance(clip, Exception):
        printer.fail(files.shown(str(clip)))
        continue
      audio_seconds += clip.seconds
      name = files.given(clip.file)
      printer.clip(name, clip)
      if tables.formatter:
        tables.add(tables.formatter.clip(name, clip))
        tables.end(clip.file)
      if FLAGS.embeddings:
        names.append(name)
        embeddings.append(clip.embedding)
        all_scores.append(clip.scores)
  if FLAGS.embeddings:
    content = io.BytesIO()
    np.savez(
      content,
      files=np.array(names, str),
      embeddings=np.array(embeddings),
      scores=np.array(all_scores),
      names=np.array(tagger.classes.names),
    )
    writer.write(FLAGS.embeddings, content.getvalue())
  return audio_seconds


def _timelines(tagger, files, printer, writer, tables) -> float:
  """Scores files by windows; returns the seconds of audio."""
  names = files.output_names()
  printed = None
  if FLAGS.events and not FLAGS.events_dir:
    has_files = FLAGS.events in event_text.NAMING_FILES
    if len(files.paths) > 1 and not has_files:
      raise UserError(
        f"--events={FLAGS.events} has no place for the names of "
        f"{len(files.paths)} recordings: give --events_dir for a table of each."
      )
    printed = predict_choices.event_writer(tagger, FLAGS.events, has_files)
    printer.text(printed.head())
  shown = _Page(tagger)
  audio_seconds = 0.0
  total_seconds = sum(map(audio.duration_seconds, files.paths))
  with printer.progress(total_seconds, "s"):
    for path in files.paths:
      given = files.given(path)
      timeline = _Timeline(tagger, shown.seconds_left)
      if not printed:
        printer.begin(given)
      try:
        for part in timeline.parts(path):
          seconds = len(part.waveform) / tagger.sample_rate_hz
          audio_seconds += seconds
          printer.advance(seconds)
          printer.windows(given, part)
          if tables.formatter:
            tables.add(tables.formatter.windows(given, part))
      except audio.AudioError as e:
        printer.fail(files.shown(str(e)))
        tables.forget()
        shown.fail(given, files.shown(str(e)))
        continue
      tables.end(path)
      if printed:
        lines = [printed.line(event, given) for event in timeline.events]
        printer.text("".join(lines))
      timeline.write(names[path], given, writer)
      shown.add(given, timeline)
  for failure in files.failures:
    shown.fail(str(failure).partition(": ")[0], str(failure))
  shown.write(printer, writer)
  return audio_seconds


class _Tables:
  """Scores in files: --output and --output_dir.

  Attributes:
    formatter: Makes what `add` takes; None if no file is wanted.
  """

  def __init__(self, files, choice, writer):
    self._names, self._writer = files.output_names(), writer
    self._rows, self._all = [], []
    self._ending = os.path.splitext(FLAGS.output or "")[1]
    style = result_text.ENDINGS.get(self._ending)
    if FLAGS.output_dir:
      style = _style()
      self._ending = f".{style}"
    self.formatter = style and result_text.Formatter(
      style, choice, has_times=FLAGS.timeline
    )

  def add(self, rows) -> None:
    """Takes rows of the present file."""
    self._rows.append(rows)

  def forget(self) -> None:
    """Drops the rows of a file that turned out to be broken."""
    self._rows = []

  def end(self, path) -> None:
    """Writes the table of a file."""
    if FLAGS.output_dir:
      name = self._names[path] + self._ending
      self._write(os.path.join(FLAGS.output_dir, name), self._rows)
    elif FLAGS.output:
      self._all += self._rows
    self._rows = []

  def close(self) -> None:
    """Writes the table of all files."""
    if FLAGS.output:
      self._write(FLAGS.output, self._all)

  def _write(self, path, rows) -> None:
    content = result_text.as_file(
      self._ending, "".join(rows), self.formatter.head()
    )
    self._writer.write(path, content.encode())


class _Page:
  """The page of --html.

  Attributes:
    seconds_left: How much more sound it may hold.
  """

  def __init__(self, tagger):
    self._tagger = tagger
    self._left_out = predict_choices.left_out(tagger)
    self._recordings, self._silent = [], 0
    self.seconds_left = 60 * FLAGS.html_max_minutes

  def fail(self, name, message) -> None:
    """Takes a recording that cannot be read."""
    self._recordings.append({"title": name, "error": message})

  def add(self, name, timeline) -> None:
    """Takes a recording."""
    if FLAGS.html:
      recording = timeline.recording
      data = recording.data(name, timeline.events, self._left_out)
      self._recordings.append(data)
      self.seconds_left -= recording.audio_seconds
      self._silent += not data["audio"]

  def write(self, printer, writer) -> None:
    """Writes the page."""
    if not FLAGS.html:
      return
    if self._silent:
      printer.say(
        f"{FLAGS.html} has no sound of {self._silent} recordings: it holds at "
        f"most --html_max_minutes={FLAGS.html_max_minutes:g} in all"
      )
    window_seconds, hop_seconds = _window_and_hop(self._tagger)
    frames_of = "frames of " if FLAGS.frames else ""
    facts = [
      f"Model {FLAGS.saved_model}, {frames_of}windows of {window_seconds:g} s, "
      f"one each {hop_seconds:g} s. Click a picture or an event to hear it."
    ]
    content = page.page("Sound events", facts, self._recordings)
    writer.write(FLAGS.html, content.encode())


def _window_and_hop(tagger) -> tuple[float, float]:
  """Returns their lengths in seconds."""
  window_seconds = (
    FLAGS.window_seconds or tagger.window_samples / tagger.sample_rate_hz
  )
  return window_seconds, FLAGS.hop_seconds or window_seconds / 2


class _Timeline:
  """A file's windows, and what is drawn and written of them.

  Attributes:
    events: When all `parts` were taken, in the order of their begin.
    recording: A `page.Recording`, with --html.
  """

  def __init__(self, tagger, html_seconds):
    self._tagger = tagger
    self.recording = FLAGS.html and page.Recording(
      tagger.classes.names, tagger.sample_rate_hz, html_seconds
    )
    self._detector = predict_choices.detector(tagger)
    self._picture = picture.Picture(tagger.classes.names, tagger.sample_rate_hz)
    self.events = []

  def parts(self, path):
    window_seconds, hop_seconds = _window_and_hop(self._tagger)
    score = frames.score_frames if FLAGS.frames else prediction.score_windows
    for part in score(
      self._tagger,
      path,
      window_seconds=window_seconds,
      hop_seconds=hop_seconds,
    ):
      if FLAGS.audacity_dir or FLAGS.events or FLAGS.html:
        self.events += self._detector.add(
          part.begin_seconds, part.end_seconds, part.scores
        )
      if FLAGS.png_dir:
        self._picture.add(part)
      if FLAGS.html:
        self.recording.add(part)
      yield part
    self.events = sorted(self.events + self._detector.finish())

  def write(self, name, title, writer) -> None:
    for folder, form in (
      (FLAGS.audacity_dir, "audacity"),
      (FLAGS.events_dir, FLAGS.events),
    ):
      if folder:
        table = predict_choices.event_writer(self._tagger, form).table(
          self.events
        )
        path = os.path.join(folder, name + event_text.ENDINGS[form])
        writer.write(path, table.encode())
    if FLAGS.png_dir:
      path = os.path.join(FLAGS.png_dir, f"{name}.png")
      writer.write(path, self._picture.png(title))
