# SPDX-License-Identifier: Apache-2.0
"""Labelled audio files to TFRecord shards: one split in one call.

  python tools/make_tfrecords.py --output_dir=DIR --split=SPLIT FLAGS

FLAGS say what to read:

  AudioSet's form:       --segments_csv --audio_dir [--class_labels_csv]
  a list of files:       --manifest_csv [--labels_map] [--audio_dir]
  one folder per class:  --class_dirs

It writes SPLIT-?????-of-?????.tfrecord, SPLIT.index.npz, SPLIT.clips.npz,
dataset_info.json, audit.json and audit.txt to --output_dir. Call it again with
another --split to add that one. If it is stopped, the same call continues.

Audio of any format that libsndfile or FFmpeg decodes, of any rate and channel
count, becomes mono clips at 16 kHz of at most --clip_seconds. Files must
already be cut: start and end in a segments CSV only help to find the file, and
to tell if it is too short or too long. Paths may be gs://. The audit accounts
for every row, whether it was written or why not, and for every file of the
folder.
"""

from __future__ import annotations

import os
import sys

from absl import flags

# No module that imports TensorFlow, here: wrong flags are answered at once.
from tf_audioset.data import audio
from tf_audioset.runtime import cli
from tf_audioset.runtime.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_string("output_dir", None, "Where the shards go.")
flags.DEFINE_string("split", "train", "Name of the split.")
flags.DEFINE_string(
  "segments_csv", None, 'Lines of `YTID, start, end, "mid,mid"`.'
)
flags.DEFINE_string(
  "class_labels_csv",
  None,
  "index,mid,display_name. Default: AudioSet's 527 classes.",
)
flags.DEFINE_string(
  "audio_dir",
  None,
  "Where the files of --segments_csv or --manifest_csv are, in folders or not.",
)
flags.DEFINE_string(
  "manifest_csv",
  None,
  "Columns files,labels; paths relative to the CSV or below --audio_dir, "
  "absolute or gs://.",
)
flags.DEFINE_string(
  "labels_map",
  None,
  "The classes of the manifest: JSON of label -> index from 0, a CSV of "
  "index,label[,mid], or one label a line. Default: the manifest's labels, "
  "sorted.",
)
flags.DEFINE_string(
  "labels_delim", ",", "Between labels in a cell of the manifest; tab for one."
)
flags.DEFINE_string(
  "file_column",
  None,
  "The manifest's column with the files; without a first line of names, its "
  "number. Default: files, or another well-known name.",
)
flags.DEFINE_string(
  "label_column", None, "The same of the labels. Default: labels and the like."
)
flags.DEFINE_string(
  "separator",
  None,
  "Between the cells of --segments_csv or --manifest_csv: comma, tab, "
  "semicolon or a character. Default: what the first line has.",
)
flags.DEFINE_string("class_dirs", None, "A folder with one folder per class.")
flags.DEFINE_bool(
  "any_class_dirs",
  False,
  "The folders of --class_dirs are classes, although they are called like "
  "folds, splits or parts of a dataset.",
)
flags.DEFINE_float(
  "clip_seconds",
  10.0,
  "Longer clips are cut to this.",
  lower_bound=0.1,
  upper_bound=600,  # The most that an exported model scores at once.
)
flags.DEFINE_enum("codec", "flac", audio.CODECS, "How samples are stored.")
flags.DEFINE_integer(
  "clips_per_shard", 1024, "The most in a shard.", lower_bound=1
)
flags.DEFINE_list(
  "drop",
  [],
  "Leave out these, besides unusable clips: any of "
  "silent,short,clipped,truncated,overlong,in_two_splits.",
)
flags.DEFINE_float(
  "min_coverage",
  0.99,
  "Share of the clips that must be written. Below it the exit code is 1, but "
  "everything readable is still written.",
  lower_bound=0.0,
  upper_bound=1.0,
)
flags.DEFINE_float(
  "max_unknown_labels",
  0.01,  # As --min_coverage: a name in another spelling costs more.
  "Share of the labels that may be missing in the class list. Above it, "
  "nothing is written.",
  lower_bound=0.0,
  upper_bound=1.0,
)
flags.DEFINE_integer(
  "num_workers", os.cpu_count(), "Processes that decode.", lower_bound=1
)
flags.DEFINE_enum(
  "runner",
  None,
  ["DirectRunner", "FlinkRunner", "DataflowRunner"],
  "Use this runner of Apache Beam, not processes on this machine.",
)
flags.DEFINE_string(
  "beam_options", "", "Options for Beam: '--region=... --...'."
)

# What each form needs, and what it may have.
_FORMS = {
  "segments_csv": (("audio_dir",), ("class_labels_csv", "separator")),
  "manifest_csv": (
    (),
    (
      "audio_dir",
      "labels_map",
      "labels_delim",
      "file_column",
      "label_column",
      "separator",
    ),
  ),
  "class_dirs": ((), ("any_class_dirs",)),
}
_PATHS = (
  "segments_csv",
  "class_labels_csv",
  "audio_dir",
  "manifest_csv",
  "labels_map",
  "class_dirs",
)


def main() -> int:
  form = _form()
  if not FLAGS.split.replace("_", "").isalnum():
    raise UserError(f"--split={FLAGS.split}: letters, digits and _ only.")
  if FLAGS.beam_options and not FLAGS.runner:
    raise UserError("--beam_options needs --runner.")

  from tf_audioset.preparation import audit, prepare

  wrong = set(FLAGS.drop) - set(audit.DROPPABLE)
  if wrong:
    raise UserError(
      f"--drop={','.join(FLAGS.drop)}: {min(wrong)!r} is none of "
      f"{','.join(audit.DROPPABLE)}."
    )
  if FLAGS.runner:
    run = prepare.beam_runner(FLAGS.runner, FLAGS.beam_options)
  else:
    run = prepare.local_runner(FLAGS.num_workers)
  _check_paths(form)
  clip_list = _read(form)
  source = audit.of_source(clip_list)
  # Now, while there is time to think again.
  print("\n".join(source["remarks"]), flush=True)
  clip_list.check(FLAGS.max_unknown_labels)
  for warning in source["warnings"]:
    print(f"make_tfrecords: warning: {warning}", file=sys.stderr)

  of_split = prepare.prepare(
    clip_list.classes,
    clip_list.clips,
    FLAGS.output_dir,
    FLAGS.split,
    prepare.Options(
      clip_seconds=FLAGS.clip_seconds,
      codec=FLAGS.codec,
      clips_per_shard=FLAGS.clips_per_shard,
      drop=tuple(sorted(set(FLAGS.drop))),
    ),
    run,
    source,
  )
  print(audit.summary(FLAGS.split, of_split))
  print(f"see {os.path.join(FLAGS.output_dir, audit.TEXT_FILE)}")
  written = of_split["written"]
  expected = of_split["expected"] - of_split["repeated"]
  if written / expected < FLAGS.min_coverage:
    print(
      f"make_tfrecords: error: {written} of {expected} clips are written, less "
      f"than --min_coverage={FLAGS.min_coverage}",
      file=sys.stderr,
    )
    return 1
  return 0


def _form() -> str:
  """Returns the flag that names what to read; checks those that go with it."""
  given = [name for name in _FORMS if FLAGS[name].value]
  if len(given) != 1:
    raise UserError(
      "give exactly one of --segments_csv, --manifest_csv and --class_dirs."
    )
  (form,) = given
  needed, allowed = _FORMS[form]
  for flag in needed:
    if not FLAGS[flag].value:
      raise UserError(f"--{form} needs --{flag}.")
  others = {
    flag for flags_ in _FORMS.values() for flag in (*flags_[0], *flags_[1])
  }
  for flag in sorted(others - {*needed, *allowed}):
    if FLAGS[flag].present:
      raise UserError(f"--{flag} does not go with --{form}.")
  return form


def _check_paths(form: str) -> None:
  import tensorflow as tf

  for flag in _PATHS:
    path = FLAGS[flag].value
    if path and not tf.io.gfile.exists(path):
      raise UserError(f"--{flag}={path}: no such file or folder.")
  for flag in ("audio_dir", "class_dirs"):
    path = FLAGS[flag].value
    if path and not tf.io.gfile.isdir(path):
      raise UserError(f"--{flag}={path}: is no folder.")
  if form == "class_dirs" and _is_below(FLAGS.output_dir, FLAGS.class_dirs):
    raise UserError(
      f"--output_dir={FLAGS.output_dir} is in --class_dirs={FLAGS.class_dirs}, "
      "where it would be a class: choose another."
    )


def _is_below(path: str, folder: str) -> bool:
  if "://" not in path + folder:
    path, folder = os.path.realpath(path), os.path.realpath(folder)
  return f"{path}/".startswith(f"{folder.rstrip('/')}/")


def _read(form):
  """Returns the list that the flags name."""
  from tf_audioset.preparation import class_folders, manifests, segment_lists
  from tf_audioset.runtime import tables

  if form == "class_dirs":
    return class_folders.read(FLAGS.class_dirs, any_names=FLAGS.any_class_dirs)
  separator = FLAGS.separator
  if separator is not None:
    separator = tables.separator_of(separator)
  if form == "segments_csv":
    return segment_lists.read(
      FLAGS.segments_csv,
      FLAGS.class_labels_csv,
      FLAGS.audio_dir,
      separator=separator,
    )
  delimiter = FLAGS.labels_delim
  return manifests.read(
    FLAGS.manifest_csv,
    FLAGS.labels_map,
    {"tab": "\t", r"\t": "\t"}.get(delimiter, delimiter),
    audio_dir=FLAGS.audio_dir,
    file_column=FLAGS.file_column,
    label_column=FLAGS.label_column,
    separator=separator,
  )


def run() -> None:
  """Runs the command line."""
  cli.run(main, prog="make_tfrecords", required=["output_dir"])


if __name__ == "__main__":
  run()
