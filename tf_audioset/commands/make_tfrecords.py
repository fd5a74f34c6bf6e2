# SPDX-License-Identifier: Apache-2.0
"""Labelled audio files to TFRecord shards: one split in one call.

  python tools/make_tfrecords.py --output_dir=DIR --split=SPLIT FLAGS

FLAGS say what to read:

  AudioSet's form:       --segments_csv --audio_dir [--class_labels_csv]
  a list of files:       --manifest_csv [--labels_map] [--audio_dir]
  one folder per class:  --class_dirs
  events of recordings:  --events_tsv --audio_dir [--labels_map]

It writes SPLIT-?????-of-?????.tfrecord, SPLIT.index.npz, SPLIT.clips.npz,
dataset_info.json, audit.json and audit.txt to --output_dir. Call it again with
another --split to add that one. If it is stopped, the same call continues.

Audio of any format that libsndfile or FFmpeg decodes, of any rate and channel
count, becomes mono clips at 16 kHz of at most --clip_seconds. Files must
already be cut: start and end in a segments CSV only help to find the file, and
to tell if it is too short or too long. With --events_tsv, this tool cuts them.
--holdout_percent divides the clips into two splits. Paths may be gs://. The
audit accounts for every row, whether it was written or why not, and for every
file of the folder.
"""

from __future__ import annotations

import os
import shutil
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
flags.DEFINE_string(
  "events_tsv",
  None,
  "A table of filename, onset, offset and label; or a folder of such tables, "
  "label tracks of Audacity or selection tables of Raven, called like the "
  "recordings in --audio_dir. Clips are cut where the events are.",
)
flags.DEFINE_string(
  "unlabelled_class",
  None,
  "With --events_tsv: the class of clips of what has no event. Default: these "
  "stretches are left out.",
)
flags.DEFINE_float(
  "min_clip_seconds",
  1.0,
  "With --events_tsv: shorter events are cut with what is around them.",
  lower_bound=0.01,
  upper_bound=600,
)
flags.DEFINE_string(
  "clips_dir",
  None,
  "With --events_tsv: keep the clips there, one folder per class.",
)
flags.DEFINE_float(
  "holdout_percent",
  0.0,
  "Write this share of the clips, of each class, to --holdout_split.",
  lower_bound=0,
  upper_bound=99,
)
flags.DEFINE_string("holdout_split", "eval", "Name of the split held out.")
flags.DEFINE_string(
  "group_by",
  None,
  "For --holdout_percent: clips that stay together are those of a recording, "
  "of a folder, or with the same match of a regular expression in their ids, "
  "or of its group. Default: recording with --events_tsv, otherwise clip.",
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

_NUM_CLASSES = 60  # In the table at the end; audit.txt has all.
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
  "events_tsv": (
    ("audio_dir",),
    (
      "labels_map",
      "label_column",
      "unlabelled_class",
      "min_clip_seconds",
      "clips_dir",
    ),
  ),
}
_PATHS = (
  "segments_csv",
  "class_labels_csv",
  "audio_dir",
  "manifest_csv",
  "labels_map",
  "class_dirs",
  "events_tsv",
)


def main() -> int:
  form = _form()
  for flag in ("split", "holdout_split"):
    if not FLAGS[flag].value.replace("_", "").isalnum():
      raise UserError(
        f"--{flag}={FLAGS[flag].value}: letters, digits and _ only."
      )
  _check_holdout()
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
  cut_dir = FLAGS.clips_dir or os.path.join(
    FLAGS.output_dir, f".{FLAGS.split}.clips"
  )
  clip_list = _read(form, cut_dir)
  source = audit.of_source(clip_list)
  # Now, while there is time to think again.
  print("\n".join(source["remarks"]), flush=True)
  clip_list.check(FLAGS.max_unknown_labels)
  for warning in source["warnings"]:
    print(f"make_tfrecords: warning: {warning}", file=sys.stderr)
  code = 0
  of_splits, parts = {}, _parts(clip_list)
  for split, clips in parts.items():
    of_splits[split] = prepare.prepare(
      clip_list.classes,
      clips,
      FLAGS.output_dir,
      split,
      prepare.Options(
        clip_seconds=FLAGS.clip_seconds,
        codec=FLAGS.codec,
        clips_per_shard=FLAGS.clips_per_shard,
        drop=tuple(sorted(set(FLAGS.drop))),
      ),
      run,
      source,
      renewed=[name for name in parts if name not in of_splits],
    )
    print(audit.summary(split, of_splits[split]))
    code = max(code, _coverage(of_splits[split]))
  if form == "events_tsv" and not FLAGS.clips_dir:
    shutil.rmtree(cut_dir, ignore_errors=True)
  print(_class_table(of_splits))
  print(f"see {os.path.join(FLAGS.output_dir, audit.TEXT_FILE)}")
  return code


def _check_holdout() -> None:
  if not FLAGS.holdout_percent:
    for flag in ("holdout_split", "group_by"):
      if FLAGS[flag].present:
        raise UserError(f"--{flag} is given, which needs --holdout_percent.")
  elif FLAGS.holdout_split == FLAGS.split:
    raise UserError(f"--holdout_split={FLAGS.split} is --split itself.")


def _parts(clip_list):
  """Returns the clips of each split that is written."""
  if not FLAGS.holdout_percent:
    return {FLAGS.split: clip_list.clips}
  from tf_audioset.preparation import holdout

  clips = clip_list.clips
  default = holdout.RECORDING if FLAGS.events_tsv else holdout.CLIP
  keys = holdout.groups(clips, FLAGS.group_by or default)
  if len(set(keys)) < 2:
    raise UserError(
      f"--holdout_percent: all {len(clips):,} clips are one group, "
      f"{keys[0]!r}, which cannot be divided; see --group_by."
    )
  is_out = holdout.choose(
    keys, [clip.labels for clip in clips], FLAGS.holdout_percent
  )
  if is_out.all() or not is_out.any():
    raise UserError(
      f"--holdout_percent={FLAGS.holdout_percent:g}: of {len(set(keys)):,} "
      f"groups of clips this is {'all' if is_out.any() else 'none'}."
    )
  print(
    f"held out: {is_out.sum():,} of {len(clips):,} clips "
    f"({100 * is_out.mean():.1f} %), "
    f"{len({key for key, out in zip(keys, is_out) if out}):,} of "
    f"{len(set(keys)):,} groups"
  )
  alone = holdout.one_sided(clips, is_out, clip_list.classes.names)
  if alone:
    print(
      f"make_tfrecords: warning: {len(alone)} classes are in one of the splits "
      f"only: {', '.join(alone[:5])}{' ...' * (len(alone) > 5)}",
      file=sys.stderr,
    )
  return {
    name: [clip for clip, out in zip(clips, is_out) if out == wanted]
    for name, wanted in ((FLAGS.split, False), (FLAGS.holdout_split, True))
  }


def _coverage(of_split) -> int:
  """Returns the exit code that the share of written clips gives."""
  written = of_split["written"]
  expected = of_split["expected"] - of_split["repeated"]
  if written / expected >= FLAGS.min_coverage:
    return 0
  print(
    f"make_tfrecords: error: {written} of {expected} clips are written, less "
    f"than --min_coverage={FLAGS.min_coverage}",
    file=sys.stderr,
  )
  return 1


def _class_table(of_splits) -> str:
  """Returns the classes and how many clips of each were written."""
  from tf_audioset.runtime import columns

  counts = [
    (one[0]["name"], [of_class["written"] for of_class in one])
    for one in zip(*(split["classes"] for split in of_splits.values()))
  ]
  num_left_out = max(len(counts) - _NUM_CLASSES, 0)
  if num_left_out:
    counts.sort(key=lambda one: -sum(one[1]))
  rows = [["class", *(f"{name} clips" for name in of_splits)]]
  rows += [
    [name, *map("{:,}".format, numbers)]
    for name, numbers in counts[:_NUM_CLASSES]
  ]
  more = f"\nand {num_left_out} more classes" if num_left_out else ""
  return columns.columns(rows, num_left=1) + more


def _form() -> str:
  """Returns the flag that names what to read; checks those that go with it."""
  given = [name for name in _FORMS if FLAGS[name].value]
  if len(given) != 1:
    raise UserError(
      "give exactly one of --segments_csv, --manifest_csv, --class_dirs and "
      "--events_tsv."
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


def _read(form, cut_dir):
  """Returns the list that the flags name."""
  from tf_audioset.preparation import (
    class_folders,
    cutting,
    manifests,
    segment_lists,
  )
  from tf_audioset.runtime import tables

  if form == "class_dirs":
    return class_folders.read(FLAGS.class_dirs, any_names=FLAGS.any_class_dirs)
  if form == "events_tsv":
    return cutting.read(
      FLAGS.events_tsv,
      FLAGS.audio_dir,
      cut_dir,
      cutting.Options(
        clip_seconds=FLAGS.clip_seconds,
        min_seconds=min(FLAGS.min_clip_seconds, FLAGS.clip_seconds),
        unlabelled_class=FLAGS.unlabelled_class or "",
      ),
      labels_map=FLAGS.labels_map,
      label_column=FLAGS.label_column,
      num_workers=FLAGS.num_workers,
    )
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
