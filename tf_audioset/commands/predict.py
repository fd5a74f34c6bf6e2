# SPDX-License-Identifier: Apache-2.0
r"""Tags audio files with an exported model.

  python tools/predict.py --saved_model DIR FILE...
  python tools/predict.py --saved_model DIR --timeline \
      [--png_dir DIR] [--audacity_dir DIR] FILE...

FILE is an audio file of any rate and number of channels, a folder (all audio in
and below it), a pattern such as 'sounds/*.wav', or - for a file on the standard
input. Each file is scored whole, or with --timeline in windows, which takes no
more memory for hours than for minutes.

On a terminal it prints a table, otherwise lines of tab-separated fields: file,
then with --timeline begin and end in seconds, then score, class. --json and
--csv are for programs. The exit code is 1 if a file could not be read.
"""

from __future__ import annotations

import csv
import io
import os
import sys
import tempfile
import time

from absl import flags

from tf_audioset.runtime import cli
from tf_audioset.runtime.errors import UserError

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
  "With --timeline: folder for FILE.txt, a label track for Audacity of the "
  "classes that are at or above their thresholds.",
)
flags.DEFINE_float(
  "threshold",
  None,
  "For --audacity_dir. Default: the model's own threshold for each class, 0.5 "
  "where it has none. With --thresholds_csv: for classes without one there.",
  lower_bound=0,
  upper_bound=1,
)
flags.DEFINE_string(
  "thresholds_csv",
  None,
  "For --audacity_dir: take thresholds from this per_class.csv, which "
  "tools/evaluate.py wrote.",
)
flags.DEFINE_string(
  "embeddings",
  None,
  "An .npz to write: files [n], embeddings [n, size], scores [n, classes], "
  "names [classes].",
)


def main(arguments: list[str]) -> int:
  _check_flags()
  if FLAGS.png_dir:
    cli.check_matplotlib("--png_dir")
  # Read by oneDNN when it first computes: a model's weights do not change here,
  # and are kept in the order that it computes in.
  os.environ.setdefault("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", "1")
  # Imported late: a mistake in the flags is answered at once.
  from tf_audioset.runtime import outputs
  from tf_audioset.serving import inputs

  files = inputs.Inputs(arguments)
  from tf_audioset.serving import export, prediction

  tagger = export.ExportedTagger(FLAGS.saved_model)
  thresholds = _thresholds(tagger)
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
      audio_seconds = _timelines(tagger, files, thresholds, printer, writer)
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


def _check_flags() -> None:
  from tf_audioset.runtime import outputs

  if FLAGS.json and FLAGS.csv:
    raise UserError("--json and --csv are given: choose one.")
  if FLAGS.timeline and FLAGS.embeddings:
    raise UserError("--embeddings are of whole files: not with --timeline.")
  for name in ("window_seconds", "hop_seconds", "png_dir", "audacity_dir"):
    if FLAGS[name].value is not None and not FLAGS.timeline:
      raise UserError(f"--{name} is given, which needs --timeline.")
  for name in ("threshold", "thresholds_csv"):
    if FLAGS[name].value is not None and not FLAGS.audacity_dir:
      raise UserError(f"--{name} is given, which needs --audacity_dir.")
  for name in ("png_dir", "audacity_dir"):
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


def _thresholds(tagger):
  """float64 [num_classes]."""
  import numpy as np

  own = None
  if FLAGS.thresholds_csv:
    try:
      with open(FLAGS.thresholds_csv, newline="", encoding="utf-8-sig") as file:
        rows = {row.get("mid"): row for row in csv.DictReader(file)}
    except (csv.Error, UnicodeDecodeError) as e:
      raise UserError(f"{FLAGS.thresholds_csv}: cannot be read: {e}") from e
    missing = [
      mid
      for mid in tagger.classes.mids
      if rows.get(mid, {}).get("threshold") is None
    ]
    if missing:
      raise UserError(
        f"{FLAGS.thresholds_csv}: no threshold of class {missing[0]}; wanted "
        "is per_class.csv, of tools/evaluate.py, of a model with these classes."
      )
    try:
      # The cell of a class without a positive clip is empty.
      own = [
        float(rows[mid]["threshold"] or "nan") for mid in tagger.classes.mids
      ]
    except ValueError as e:
      raise UserError(f"{FLAGS.thresholds_csv}: threshold: {e}") from e
  elif FLAGS.threshold is None:
    own = tagger.thresholds
  thresholds = np.full(
    len(tagger.classes), 0.5 if FLAGS.threshold is None else FLAGS.threshold
  )
  return thresholds if own is None else np.where(np.isnan(own), thresholds, own)


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


def _timelines(tagger, files, thresholds, printer, writer) -> float:
  """Scores files by windows; returns the seconds of audio."""
  from tf_audioset.data import audio

  names = files.output_names()
  audio_seconds = 0.0
  total_seconds = sum(map(audio.duration_seconds, files.paths))
  with printer.progress(total_seconds, "s"):
    for path in files.paths:
      timeline = _Timeline(tagger, thresholds)
      printer.begin(files.given(path))
      try:
        for part in timeline.parts(path):
          seconds = len(part.waveform) / tagger.sample_rate_hz
          audio_seconds += seconds
          printer.advance(seconds)
          printer.windows(files.given(path), part)
      except audio.AudioError as e:
        printer.fail(files.shown(str(e)))
        continue
      timeline.write(names[path], files.given(path), writer)
  return audio_seconds


class _Timeline:
  """A file's windows, and what is drawn and written of them."""

  def __init__(self, tagger, thresholds):
    from tf_audioset.serving import picture, prediction

    self._tagger = tagger
    self._regions = prediction.Regions(thresholds)
    self._picture = picture.Picture(tagger.classes.names, tagger.sample_rate_hz)

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
      if FLAGS.audacity_dir:
        self._regions.add(part)
      if FLAGS.png_dir:
        self._picture.add(part)
      yield part

  def write(self, name, title, writer) -> None:
    if FLAGS.audacity_dir:
      track = self._regions.audacity(self._tagger.classes.names)
      path = os.path.join(FLAGS.audacity_dir, f"{name}.txt")
      writer.write(path, track.encode())
    if FLAGS.png_dir:
      path = os.path.join(FLAGS.png_dir, f"{name}.png")
      writer.write(path, self._picture.png(title))


def run() -> None:
  """Runs the command line."""
  cli.run(main, prog="predict", required=["saved_model"], positional="FILE")


if __name__ == "__main__":
  run()
