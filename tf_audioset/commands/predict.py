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

import contextlib
import csv
import io
import json
import os
import shutil
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

_BAR_LETTERS = 20


def main(arguments: list[str]) -> int:
  _check_flags()
  # Imported late: a mistake in the flags is answered at once.
  from tf_audioset.data import audio

  files = audio.find_files(arguments)
  if FLAGS.png_dir or FLAGS.audacity_dir:
    _check_names(files)
  if FLAGS.png_dir:
    cli.check_matplotlib("--png_dir")
  # Read by oneDNN when it first computes: a model's weights do not change here,
  # and are kept in the order that it computes in.
  os.environ.setdefault("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", "1")
  from tf_audioset.serving import export, prediction

  tagger = export.ExportedTagger(FLAGS.saved_model)
  thresholds = _thresholds(tagger)
  with tempfile.TemporaryDirectory() as folder:
    output = _Output(tagger.classes.names, tagger.classes.mids)
    if "-" in files:
      head = sys.stdin.buffer.peek(12)
      # What PyAV decodes is known by its name.
      suffix = ".m4a" if head[4:8] == b"ftyp" else ""
      suffix = ".webm" if head[:4] == b"\x1aE\xdf\xa3" else suffix
      output.stdin = os.path.join(folder, f"stdin{suffix}")
      with open(output.stdin, "wb") as copy:
        shutil.copyfileobj(sys.stdin.buffer, copy)
      files = [output.stdin if file == "-" else file for file in files]
    start = time.perf_counter()
    if FLAGS.timeline:
      audio_seconds = _timelines(tagger, files, thresholds, output)
    else:
      audio_seconds = _clips(tagger, files, output)
  seconds = time.perf_counter() - start
  num_done = len(files) - output.num_failed
  print(
    f"{num_done} of {len(files)} clips, {prediction.clock(audio_seconds)} of "
    f"audio, in {seconds:.1f} s: {num_done / seconds:.1f} clips/s, "
    f"{audio_seconds / seconds:.0f} x real time",
    file=sys.stderr,
  )
  return 1 if output.num_failed else 0


def _check_flags() -> None:
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
  for folder in (FLAGS.png_dir, FLAGS.audacity_dir):
    if folder:
      os.makedirs(folder, exist_ok=True)
  if FLAGS.embeddings:
    folder = os.path.dirname(FLAGS.embeddings) or "."
    os.makedirs(folder, exist_ok=True)
    if os.path.exists(FLAGS.embeddings) and not os.path.isfile(
      FLAGS.embeddings
    ):
      raise UserError(f"--embeddings={FLAGS.embeddings}: that is no file.")
    with tempfile.TemporaryFile(dir=folder):
      pass  # Written last: a folder that takes no file is told now.


def _check_names(files: list[str]) -> None:
  """Pictures and label tracks are named after the files."""
  seen = {}
  for file in files:
    name = os.path.basename(file)
    if seen.setdefault(name, file) != file:
      raise UserError(
        f"{seen[name]} and {file} have one name, and so would what is written "
        "for them: give them in two calls and write to two folders."
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


def _clips(tagger, files, output) -> float:
  """Scores files whole; returns the seconds of audio."""
  import numpy as np

  from tf_audioset.runtime import storage
  from tf_audioset.serving import prediction

  names, embeddings, all_scores = [], [], []
  audio_seconds = 0.0
  with output.progress(len(files), "files"):
    for clip in prediction.score_files(tagger, files):
      output.advance(1)
      if isinstance(clip, Exception):
        output.fail(clip)
        continue
      audio_seconds += clip.seconds
      output.clip(clip)
      if FLAGS.embeddings:
        names.append(output.shown(clip.file))
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
    storage.write_file(os.path.realpath(FLAGS.embeddings), content.getvalue())
  return audio_seconds


def _timelines(tagger, files, thresholds, output) -> float:
  """Scores files by windows; returns the seconds of audio."""
  from tf_audioset.data import audio
  from tf_audioset.serving import picture, prediction

  rate_hz = tagger.sample_rate_hz
  window_seconds = FLAGS.window_seconds or tagger.min_samples / rate_hz
  hop_seconds = FLAGS.hop_seconds or window_seconds / 2
  audio_seconds = 0.0
  total_seconds = sum(map(audio.duration_seconds, files))
  with output.progress(int(total_seconds), "s"):
    for file in files:
      regions = prediction.Regions(thresholds)
      image = picture.Picture(tagger.classes.names, rate_hz)
      output.begin(file)
      try:
        for part in prediction.score_windows(
          tagger,
          file,
          window_seconds=window_seconds,
          hop_seconds=hop_seconds,
        ):
          seconds = len(part.waveform) / rate_hz
          audio_seconds += seconds
          output.advance(seconds)
          output.windows(file, part)
          if FLAGS.audacity_dir:
            regions.add(part)
          if FLAGS.png_dir:
            image.add(part)
      except audio.AudioError as e:
        output.fail(e)
        continue
      name = os.path.basename(file)
      if FLAGS.audacity_dir:
        path = os.path.join(FLAGS.audacity_dir, f"{name}.txt")
        with open(path, "w", encoding="utf-8") as track:
          track.write(regions.audacity(tagger.classes.names))
      if FLAGS.png_dir:
        path = os.path.join(FLAGS.png_dir, f"{name}.png")
        image.save(path, output.shown(file))
  return audio_seconds


class _Output:
  """What is printed: results, in one of the formats; errors; progress."""

  def __init__(self, names, mids):
    self.num_failed = 0
    self.stdin = None  # The file that was given as "-".
    self._names, self._mids = names, mids
    self._is_table = sys.stdout.isatty() and not FLAGS.json and not FLAGS.csv
    self._bar, self._done = None, 0.0
    self._csv = csv.writer(sys.stdout, lineterminator="\n")
    if FLAGS.csv:
      times = ["begin_seconds", "end_seconds"] if FLAGS.timeline else []
      self._csv.writerow(["file", *times, "mid", "name", "score"])

  def shown(self, text: str) -> str:
    return text.replace(self.stdin, "-") if self.stdin else text

  @contextlib.contextmanager
  def progress(self, total, unit):
    with cli.progress_bar(total, "predict", unit) as self._bar:
      yield

  def advance(self, amount) -> None:
    self._done += amount
    self._bar.update(int(self._done) - self._bar.n)

  def fail(self, error: Exception) -> None:
    self.num_failed += 1
    self._write(f"predict: error: {self.shown(str(error))}", sys.stderr)

  def clip(self, clip) -> None:
    if self._is_table:
      self._write(f"{self.shown(clip.file)}  ({clip.seconds:.2f} s)")
      for score, name, _ in self._highest(clip.scores):
        self._write(f"  {score:.4f}  {_bar(score)}  {name}")
    else:
      self._record(clip.file, {}, clip.scores, seconds=clip.seconds)

  def begin(self, file: str) -> None:
    if self._is_table:
      self._write(self.shown(file))

  def windows(self, file: str, part) -> None:
    from tf_audioset.serving import prediction

    for begin, end, scores in zip(
      part.begin_seconds.tolist(), part.end_seconds.tolist(), part.scores
    ):
      if self._is_table:
        first, *others = self._highest(scores)
        line = f"  {prediction.clock(begin):10}  {first[0]:.4f}  "
        line += f"{_bar(first[0])}  {first[1]}"
        for score, name, _ in others:
          line += f"; {name} {score:.2f}"
        self._write(line)
      else:
        times = {"begin_seconds": begin, "end_seconds": end}
        self._record(file, times, scores)

  def _record(self, file, times, scores, **others):
    file = self.shown(file)
    highest = self._highest(scores)
    if FLAGS.json:
      keys = ("score", "name", "mid")
      tags = [dict(zip(keys, tag)) for tag in highest]
      line = {"file": file, **times, **others, "tags": tags}
      print(json.dumps(line, ensure_ascii=False))
      return
    for score, name, mid in highest:
      if FLAGS.csv:
        self._csv.writerow([file, *times.values(), mid, name, score])
      else:
        print(file, *times.values(), f"{score:.4f}", name, sep="\t")

  def _highest(self, scores):
    """The first (score, name, mid), as many as --top_k says."""
    order = (-scores).argsort(kind="stable")[: FLAGS.top_k]
    return [(float(scores[i]), self._names[i], self._mids[i]) for i in order]

  def _write(self, text, file=None) -> None:
    """Prints a line; where the progress bar is written, too, above it."""
    file = file or sys.stdout
    if file is sys.stderr or (file.isatty() and sys.stderr.isatty()):
      self._bar.write(text, file=file)
    else:
      print(text, file=file)


def _bar(score: float) -> str:
  return ("█" * round(score * _BAR_LETTERS)).ljust(_BAR_LETTERS, "░")


def run() -> None:
  """Runs the command line."""
  cli.run(main, prog="predict", required=["saved_model"], positional="FILE")


if __name__ == "__main__":
  run()
