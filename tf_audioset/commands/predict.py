# SPDX-License-Identifier: Apache-2.0
r"""Tags audio files with an exported model.

  python tools/predict.py --saved_model DIR FILE...
  python tools/predict.py --saved_model DIR --timeline \
      [--png_dir DIR] [--events tsv|audacity|raven [--events_dir DIR]] FILE...
  ffmpeg ... -f wav - | python tools/predict.py --saved_model DIR --stream

FILE is an audio file of any rate and number of channels, a folder (all audio in
and below it), a pattern such as 'sounds/*.wav', or - for a file on the standard
input. Each file is scored whole, or with --timeline in windows, which takes no
more memory for hours than for minutes.

With --stream it reads the samples of a live source from the standard input,
scores each window as soon as it is complete, and prints each event when it is
over: onset, offset, class, score. Ctrl-C ends it as the end of the stream does.

On a terminal it prints a table, otherwise lines of tab-separated fields: file,
then with --timeline begin and end in seconds, then score, class. --json and
--csv are for programs. The exit code is 1 if a file could not be read.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import time

from absl import flags

from tf_audioset.runtime import cli
from tf_audioset.runtime.errors import UserError
from tf_audioset.serving import event_text, stream_input

FLAGS = flags.FLAGS
flags.DEFINE_string("saved_model", None, "What training exported.")
flags.DEFINE_integer(
  "top_k", 5, "How many classes to print per file or window.", lower_bound=1
)
flags.DEFINE_bool("json", False, "Print one JSON object per line.")
flags.DEFINE_bool("csv", False, "Print CSV.")
flags.DEFINE_bool("timeline", False, "Score windows, not whole files.")
flags.DEFINE_float(
  "window_seconds",
  None,
  "Length of a window. Default: that of a training crop.",
  lower_bound=0.01,
  upper_bound=600,
)
flags.DEFINE_float(
  "hop_seconds",
  None,
  "From the start of a window to the next. Default: half a window.",
  lower_bound=0.01,
  upper_bound=600,
)
flags.DEFINE_string(
  "png_dir",
  None,
  "With --timeline: folder for FILE.png, the spectrogram above class activity.",
)
flags.DEFINE_string(
  "audacity_dir",
  None,
  "With --timeline: folder for FILE.txt, a label track for Audacity, as with "
  "--events=audacity.",
)
flags.DEFINE_enum(
  "events",
  None,
  event_text.FORMATS,
  "With --timeline: print when each class begins and ends, in the place of the "
  "windows' scores.",
)
flags.DEFINE_string(
  "events_dir",
  None,
  "Folder for the tables of --events, one for each FILE; the windows' scores "
  "are printed then.",
)
flags.DEFINE_float(
  "threshold",
  None,
  "Score with which an event begins. Default: the model's own threshold for "
  "each class, 0.5 where it has none. With --thresholds_csv: for classes "
  "without one there.",
  lower_bound=0,
  upper_bound=1,
)
flags.DEFINE_float(
  "off_threshold",
  None,
  "An event goes on while scores are at or above this. Default, and at most: "
  "the score with which it begins.",
  lower_bound=0,
  upper_bound=1,
)
flags.DEFINE_string(
  "thresholds_csv",
  None,
  "Thresholds of classes: a table of mid or name, threshold and perhaps "
  "off_threshold, such as per_class.csv of tools/evaluate.py.",
)
flags.DEFINE_float(
  "merge_seconds",
  0.0,
  "Events of a class with a pause of at most this between them are one.",
  lower_bound=0,
)
flags.DEFINE_float(
  "min_seconds", 0.0, "Leave out shorter events.", lower_bound=0
)
flags.DEFINE_bool(
  "stream",
  False,
  "Print events of the PCM that arrives on the standard input, raw or behind a "
  "wav header.",
)
flags.DEFINE_enum(
  "pcm",
  None,
  stream_input.ENCODINGS,
  "With --stream: how samples without a wav header are written, by FFmpeg's "
  "names (arecord's S16_LE is s16le).",
)
flags.DEFINE_integer("pcm_rate_hz", 16000, "Of --pcm: samples per second.")
flags.DEFINE_integer("pcm_channels", 1, "Of --pcm: channels, to be averaged.")
flags.DEFINE_float(
  "stall_seconds",
  10.0,
  "With --stream: say so if nothing arrives for so long.",
  lower_bound=0.1,
)
flags.DEFINE_float(
  "give_up_seconds",
  None,
  "With --stream: end if nothing arrives for so long. Default: wait for ever.",
  lower_bound=0.1,
)
flags.DEFINE_string(
  "embeddings",
  None,
  "An .npz to write: files [n], embeddings [n, size], scores [n, classes], "
  "names [classes].",
)


def main(arguments: list[str]) -> int:
  _check_flags(arguments)
  if FLAGS.png_dir:
    cli.check_matplotlib("--png_dir")
  # Read by oneDNN when it first computes: a model's weights do not change here,
  # and are kept in the order that it computes in.
  os.environ.setdefault("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", "1")
  # Imported late: a mistake in the flags is answered at once.
  if FLAGS.stream:
    from tf_audioset.commands import predict_stream

    return predict_stream.listen(_detector, _event_writer)
  from tf_audioset.runtime import outputs
  from tf_audioset.serving import inputs

  files = inputs.Inputs(arguments)
  from tf_audioset.serving import export, prediction

  tagger = export.ExportedTagger(FLAGS.saved_model)
  _detector(tagger)  # Thresholds that do not fit are told now.
  printer = _printer(tagger)
  writer = outputs.Writer()
  with tempfile.TemporaryDirectory() as folder:
    files.copy_pipes(folder)
    if files.passed_over():
      printer.say(files.passed_over())
    for failure in files.failures:
      printer.fail(str(failure))
    start = time.perf_counter()
    if FLAGS.timeline:
      audio_seconds = _timelines(tagger, files, printer, writer)
    else:
      audio_seconds = _clips(tagger, files, printer, writer)
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


_EVENT_FLAGS = (
  "audacity_dir",
  "events",
  "events_dir",
  "off_threshold",
  "merge_seconds",
  "min_seconds",
)


def _is_given(name: str) -> bool:
  return FLAGS[name].value != FLAGS[name].default


_STREAM_FLAGS = (
  "pcm",
  "pcm_rate_hz",
  "pcm_channels",
  "stall_seconds",
  "give_up_seconds",
)
_FILE_FLAGS = (
  "timeline",
  "embeddings",
  "png_dir",
  "audacity_dir",
  "events_dir",
  "top_k",
)


def _check_stream_flags(arguments) -> None:
  if arguments not in ([], ["-"]):
    raise UserError(
      f"--stream reads the standard input, and {arguments[0]!r} is given: "
      "leave out one of them."
    )
  for name in _FILE_FLAGS:
    if _is_given(name):
      raise UserError(f"--{name} is for files: not with --stream.")
  if (FLAGS.json or FLAGS.csv) and FLAGS.events:
    raise UserError("--events says how events are printed: not --json, --csv.")
  if FLAGS.pcm is None:
    for name in ("pcm_rate_hz", "pcm_channels"):
      if _is_given(name):
        raise UserError(f"--{name} is given, which needs --pcm.")


def _check_flags(arguments) -> None:
  from tf_audioset.runtime import outputs

  if FLAGS.json and FLAGS.csv:
    raise UserError("--json and --csv are given: choose one.")
  if FLAGS.stream:
    _check_stream_flags(arguments)
    return
  for name in _STREAM_FLAGS:
    if _is_given(name):
      raise UserError(f"--{name} is given, which needs --stream.")
  if FLAGS.timeline and FLAGS.embeddings:
    raise UserError("--embeddings are of whole files: not with --timeline.")
  for name in ("window_seconds", "hop_seconds", "png_dir", *_EVENT_FLAGS):
    if _is_given(name) and not FLAGS.timeline:
      raise UserError(f"--{name} is given, which needs --timeline.")
  for name in ("threshold", "thresholds_csv", *_EVENT_FLAGS[3:]):
    if _is_given(name) and not (FLAGS.audacity_dir or FLAGS.events):
      raise UserError(
        f"--{name} is given, which needs --audacity_dir or --events."
      )
  if FLAGS.events_dir and not FLAGS.events:
    raise UserError("--events_dir is given, which needs --events.")
  if FLAGS.events and not FLAGS.events_dir and (FLAGS.json or FLAGS.csv):
    raise UserError(
      "--events prints events, --json and --csv scores: give --events_dir for "
      "both, or --events=json or --events=csv."
    )
  for name in ("png_dir", "audacity_dir", "events_dir"):
    if FLAGS[name].value:
      outputs.check_folder(FLAGS[name].value, name)
  if FLAGS.embeddings:  # Written last: told now.
    outputs.check_file(FLAGS.embeddings, "embeddings")


def _printer(tagger):
  from tf_audioset.serving import prediction_text

  style = prediction_text.LINES
  if FLAGS.json or FLAGS.csv:
    style = prediction_text.JSON if FLAGS.json else prediction_text.CSV
  elif sys.stdout.isatty():
    style = prediction_text.TABLE
  return prediction_text.Printer(
    tagger.classes.names,
    tagger.classes.mids,
    style=style,
    top_k=FLAGS.top_k,
    has_times=FLAGS.timeline,
  )


def _detector(tagger):
  from tf_audioset.serving import events, thresholds

  on, off = thresholds.choose(
    tagger.classes,
    tagger.thresholds,
    csv=FLAGS.thresholds_csv,
    on=FLAGS.threshold,
    off=FLAGS.off_threshold,
  )
  return events.Detector(
    on,
    off,
    merge_seconds=FLAGS.merge_seconds,
    min_seconds=FLAGS.min_seconds,
  )


def _event_writer(tagger, form: str, has_files: bool = False):
  return event_text.Writer(
    form,
    tagger.classes.names,
    tagger.classes.mids,
    tagger.sample_rate_hz,
    has_files=has_files,
  )


def _clips(tagger, files, printer, writer) -> float:
  """Scores files whole; returns the seconds of audio."""
  import numpy as np

  from tf_audioset.serving import prediction

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


def _timelines(tagger, files, printer, writer) -> float:
  """Scores files by windows; returns the seconds of audio."""
  from tf_audioset.data import audio

  names = files.output_names()
  printed = None
  if FLAGS.events and not FLAGS.events_dir:
    has_files = FLAGS.events in event_text.NAMING_FILES
    if len(files.paths) > 1 and not has_files:
      raise UserError(
        f"--events={FLAGS.events} has no place for the names of "
        f"{len(files.paths)} recordings: give --events_dir for a table of each."
      )
    printed = _event_writer(tagger, FLAGS.events, has_files)
    printer.text(printed.head())
  audio_seconds = 0.0
  total_seconds = sum(map(audio.duration_seconds, files.paths))
  with printer.progress(total_seconds, "s"):
    for path in files.paths:
      given = files.given(path)
      timeline = _Timeline(tagger)
      if not printed:
        printer.begin(given)
      try:
        for part in timeline.parts(path):
          seconds = len(part.waveform) / tagger.sample_rate_hz
          audio_seconds += seconds
          printer.advance(seconds)
          if printed:
            printer.remark(given, part.remarks)
          else:
            printer.windows(given, part)
      except audio.AudioError as e:
        printer.fail(files.shown(str(e)))
        continue
      if printed:
        lines = [printed.line(event, given) for event in timeline.events]
        printer.text("".join(lines))
      timeline.write(names[path], given, writer)
  return audio_seconds


class _Timeline:
  """A file's windows, and what is drawn and written of them.

  Attributes:
    events: When all `parts` were taken, in the order of their begin.
  """

  def __init__(self, tagger):
    from tf_audioset.serving import picture

    self._tagger = tagger
    self._detector = _detector(tagger)
    self._picture = picture.Picture(tagger.classes.names, tagger.sample_rate_hz)
    self.events = []

  def parts(self, path):
    from tf_audioset.serving import prediction

    rate_hz = self._tagger.sample_rate_hz
    window_seconds = (
      FLAGS.window_seconds or self._tagger.window_samples / rate_hz
    )
    for part in prediction.score_windows(
      self._tagger,
      path,
      window_seconds=window_seconds,
      hop_seconds=FLAGS.hop_seconds or window_seconds / 2,
    ):
      if FLAGS.audacity_dir or FLAGS.events:
        self.events += self._detector.add(
          part.begin_seconds, part.end_seconds, part.scores
        )
      if FLAGS.png_dir:
        self._picture.add(part)
      yield part
    self.events = sorted(self.events + self._detector.finish())

  def write(self, name, title, writer) -> None:
    for folder, form in (
      (FLAGS.audacity_dir, "audacity"),
      (FLAGS.events_dir, FLAGS.events),
    ):
      if folder:
        table = _event_writer(self._tagger, form).table(self.events)
        path = os.path.join(folder, name + event_text.ENDINGS[form])
        writer.write(path, table.encode())
    if FLAGS.png_dir:
      path = os.path.join(FLAGS.png_dir, f"{name}.png")
      writer.write(path, self._picture.png(title))


def run() -> None:
  """Runs the command line."""
  cli.run(
    main,
    prog="predict",
    required=["saved_model"],
    positional="FILE",
    instead="stream",
  )


if __name__ == "__main__":
  run()
