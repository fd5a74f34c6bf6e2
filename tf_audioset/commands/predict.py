# SPDX-License-Identifier: Apache-2.0
r"""Tags audio files with an exported model.

  python tools/predict.py --saved_model DIR FILE...
  python tools/predict.py --saved_model DIR --timeline [--frames] \
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

import os

from absl import flags

from tf_audioset.runtime import cli
from tf_audioset.runtime.errors import UserError
from tf_audioset.serving import event_text, stream_input

FLAGS = flags.FLAGS
flags.DEFINE_string(
  "saved_model",
  None,
  "What training exported, or a .tflite file of tools/export.py.",
)
flags.DEFINE_integer(
  "top_k",
  None,
  "How many classes to print per file or window. Default: 5; with --min_score, "
  "--above_thresholds or --classes all that these leave.",
  lower_bound=1,
)
flags.DEFINE_float(
  "min_score",
  None,
  "Leave out classes with a lower score.",
  lower_bound=0,
  upper_bound=1,
)
flags.DEFINE_bool(
  "above_thresholds",
  False,
  "Leave out classes whose score is below their threshold, see --threshold.",
)
flags.DEFINE_string(
  "classes",
  None,
  "Leave out all but these: names or mids, with commas between them; with "
  "--ontology also its other nodes, which stand for all classes below them.",
)
flags.DEFINE_string(
  "ontology", None, "For --classes: AudioSet's ontology.json, or one like it."
)
flags.DEFINE_bool("json", False, "Print one JSON object per line.")
flags.DEFINE_bool("csv", False, "Print CSV.")
flags.DEFINE_bool("tsv", False, "Print CSV with tabs.")
flags.DEFINE_string(
  "output",
  None,
  "Write the scores to this .csv, .tsv, .json or .jsonl file, and print none.",
)
flags.DEFINE_string(
  "output_dir",
  None,
  "Write the scores to a table in this folder for each FILE, and print none: "
  "CSV, or what --json or --tsv says.",
)
flags.DEFINE_bool("timeline", False, "Score windows, not whole files.")
flags.DEFINE_bool(
  "frames",
  False,
  "With --timeline: score frames, as models with attention heads can; windows "
  "are then what the model sees at once.",
)
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
  "html",
  None,
  "With --timeline: one page to write that shows, for each FILE, its "
  "spectrogram, class activity and events, and plays it.",
)
flags.DEFINE_float(
  "html_max_minutes",
  60.0,
  "The sound of all files in the page of --html is at most this long; those "
  "that follow have none.",
  lower_bound=0,
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
  "windows' scores. With --stream: how events are printed.",
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
  for name in ("png_dir", "html"):
    if FLAGS[name].value:
      cli.check_matplotlib(f"--{name}")
  # Read by oneDNN when it first computes: a model's weights do not change here,
  # and are kept in the order that it computes in.
  os.environ.setdefault("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", "1")
  # Imported late: a mistake in the flags is answered at once.
  if FLAGS.stream:
    from tf_audioset.commands import predict_stream

    return predict_stream.listen()
  from tf_audioset.serving import inputs

  files = inputs.Inputs(arguments)
  from tf_audioset.commands import predict_files

  return predict_files.predict(files)


_OUTPUT_ENDINGS = (".csv", ".tsv", ".json", ".jsonl")
_STYLES = ("json", "csv", "tsv")
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


_TIMELINE_FLAGS = (
  "frames",
  "window_seconds",
  "hop_seconds",
  "png_dir",
  "html",
  "html_max_minutes",
  *_EVENT_FLAGS,
)
_STREAM_FLAGS = (
  "pcm",
  "pcm_rate_hz",
  "pcm_channels",
  "stall_seconds",
  "give_up_seconds",
)
_FILE_FLAGS = (
  "timeline",
  "frames",
  "embeddings",
  "png_dir",
  "audacity_dir",
  "events_dir",
  "html",
  "html_max_minutes",
  "top_k",
  "min_score",
  "above_thresholds",
  "output",
  "output_dir",
  "tsv",
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
  styles = [f"--{name}" for name in _STYLES if FLAGS[name].value]
  if len(styles) > 1:
    raise UserError(f"{' and '.join(styles)} are given: choose one.")
  if FLAGS.ontology and not FLAGS.classes:
    raise UserError("--ontology is given, which needs --classes.")
  if FLAGS.stream:
    _check_stream_flags(arguments)
    return
  for name in _STREAM_FLAGS:
    if _is_given(name):
      raise UserError(f"--{name} is given, which needs --stream.")
  if FLAGS.timeline and FLAGS.embeddings:
    raise UserError("--embeddings are of whole files: not with --timeline.")
  for name in _TIMELINE_FLAGS:
    if _is_given(name) and not FLAGS.timeline:
      raise UserError(f"--{name} is given, which needs --timeline.")
  has_events = FLAGS.audacity_dir or FLAGS.events or FLAGS.html
  for name in ("threshold", "thresholds_csv"):
    if _is_given(name) and not (has_events or FLAGS.above_thresholds):
      raise UserError(
        f"--{name} is given, which needs --audacity_dir, --events, "
        "--html or --above_thresholds."
      )
  for name in _EVENT_FLAGS[3:]:
    if _is_given(name) and not has_events:
      raise UserError(
        f"--{name} is given, which needs --audacity_dir, --events or --html."
      )
  if FLAGS.events_dir and not FLAGS.events:
    raise UserError("--events_dir is given, which needs --events.")
  _check_outputs(styles)


def _check_outputs(styles) -> None:
  from tf_audioset.runtime import outputs

  if FLAGS.output and FLAGS.output_dir:
    raise UserError("--output and --output_dir are given: choose one.")
  is_printed = not (FLAGS.output or FLAGS.output_dir)
  if FLAGS.events and not FLAGS.events_dir and (styles or not is_printed):
    raise UserError(
      "--events is for events, and the scores' tables are asked for, too: give "
      "--events_dir for both, or --events=json, =csv or =tsv for events alone."
    )
  if FLAGS.output:
    ending = os.path.splitext(FLAGS.output)[1]
    if styles or ending not in _OUTPUT_ENDINGS:
      raise UserError(
        f"--output={FLAGS.output}: the name's ending says how it is written, "
        f"and {' '.join(styles) or repr(ending)} is given: give one of "
        f"{', '.join(_OUTPUT_ENDINGS)} alone."
      )
    outputs.check_file(FLAGS.output, "output")
  if FLAGS.html:
    outputs.check_file(FLAGS.html, "html")
  if _is_given("html_max_minutes") and not FLAGS.html:
    raise UserError("--html_max_minutes is given, which needs --html.")
  for name in ("png_dir", "audacity_dir", "events_dir", "output_dir"):
    if FLAGS[name].value:
      outputs.check_folder(FLAGS[name].value, name)
  if FLAGS.embeddings:  # Written last: told now.
    outputs.check_file(FLAGS.embeddings, "embeddings")


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
