# SPDX-License-Identifier: Apache-2.0
"""Labelled audio files to TFRecord shards: one split in one call.

  python tools/make_tfrecords.py --output_dir=DIR --split=SPLIT FLAGS

FLAGS say what to read:

  AudioSet's form:       --segments_csv --class_labels_csv --audio_dir
  a manifest:            --manifest_csv --labels_map [--labels_delim ,]
  one folder per class:  --class_dirs

It writes SPLIT-?????-of-?????.tfrecord, SPLIT.index.npz, SPLIT.clips.npz,
dataset_info.json, audit.json and audit.txt to --output_dir. Call it again with
another --split to add that one. If it is stopped, the same call continues.

wav, flac, ogg, opus and mp3 files, and with the extra [av] m4a, mp4 and webm,
of any rate and channel count become mono clips at 16 kHz of at most
--clip_seconds. Files must already be cut: the start in a segments CSV only
helps to find YTID_START.flac. Paths may be gs://. The audit accounts for every
row: whether it was written, or why not.
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
  "class_labels_csv", None, "AudioSet's class_labels_indices.csv."
)
flags.DEFINE_string("audio_dir", None, "Where the segments' files are.")
flags.DEFINE_string(
  "manifest_csv",
  None,
  "Columns files,labels; paths relative to the CSV, absolute or gs://.",
)
flags.DEFINE_string("labels_map", None, "JSON: label -> index from 0.")
flags.DEFINE_string("labels_delim", ",", "Between labels in the manifest.")
flags.DEFINE_string("class_dirs", None, "A folder with one folder per class.")
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
  "silent,short,clipped,in_two_splits.",
)
flags.DEFINE_float(
  "min_coverage",
  0.99,
  "Share of the rows that must be written. Below it the exit code is 1, but "
  "everything readable is still written.",
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

_FORMS = {
  "segments_csv": ("segments_csv", "class_labels_csv", "audio_dir"),
  "manifest_csv": ("manifest_csv", "labels_map"),
  "class_dirs": ("class_dirs",),
}


def main() -> int:
  given = [name for name in _FORMS if FLAGS[name].value]
  if len(given) != 1:
    raise UserError(
      "give exactly one of --segments_csv, --manifest_csv and --class_dirs."
    )
  form = given[0]
  for flag in _FORMS[form]:
    if not FLAGS[flag].value:
      raise UserError(f"--{form} needs --{flag}.")
  if not FLAGS.split.replace("_", "").isalnum():
    raise UserError(f"--split={FLAGS.split}: letters, digits and _ only.")
  if FLAGS.beam_options and not FLAGS.runner:
    raise UserError("--beam_options needs --runner.")

  import tensorflow as tf

  from tf_audioset.preparation import audit, clip_lists, prepare

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
  paths = [FLAGS[flag].value for flag in _FORMS[form]]
  for flag, path in zip(_FORMS[form], paths):
    if not tf.io.gfile.exists(path):
      raise UserError(f"--{flag}={path}: no such file or folder.")
  if form == "segments_csv":
    classes, clips = clip_lists.from_segments(*paths)
  elif form == "manifest_csv":
    classes, clips = clip_lists.from_manifest(*paths, FLAGS.labels_delim)
  else:
    classes, clips = clip_lists.from_class_dirs(*paths)

  of_split = prepare.prepare(
    classes,
    clips,
    FLAGS.output_dir,
    FLAGS.split,
    prepare.Options(
      clip_seconds=FLAGS.clip_seconds,
      codec=FLAGS.codec,
      clips_per_shard=FLAGS.clips_per_shard,
      drop=tuple(sorted(set(FLAGS.drop))),
    ),
    run,
  )
  print(audit.summary(FLAGS.split, of_split))
  print(f"see {os.path.join(FLAGS.output_dir, audit.TEXT_FILE)}")
  written, expected = of_split["written"], of_split["expected"]
  if written / expected < FLAGS.min_coverage:
    print(
      f"make_tfrecords: error: {written} of {expected} rows are written, less "
      f"than --min_coverage={FLAGS.min_coverage}",
      file=sys.stderr,
    )
    return 1
  return 0


def run() -> None:
  """Runs the command line."""
  cli.run(main, prog="make_tfrecords", required=["output_dir"])


if __name__ == "__main__":
  run()
