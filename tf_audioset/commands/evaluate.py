# SPDX-License-Identifier: Apache-2.0
"""Evaluates an exported tagger: mAP, mAUC and d' over every clip of a split.

  python tools/evaluate.py --saved_model DIR --data_dir DIR [--split eval]
  python tools/evaluate.py --saved_model DIR --data_dir DIR --tpu NAME
  python tools/evaluate.py --scores FILE --data_dir DIR [--compare FILE_OR_DIR]

Each clip is scored whole, in one pass. Writes metrics.json and per_class.csv
to --output_dir. Each number is followed by its 95 % confidence interval, by
bootstrap over clips; for a class with few positive clips it is too narrow.
Where each clip has one label, accuracy and confusion.csv (rows: the label;
columns: the highest score) are added. --report FILE.html also writes a page
with a table of the classes, curves, calibration and the hardest clips.

A file of scores, read by --scores and --compare and written by --scores_out,
is NumPy's .npz of ids [clips], mids [classes] and scores [clips, classes].
"""

from __future__ import annotations

import csv
import io
import math
import os

from absl import flags

from tf_audioset.runtime import cli
from tf_audioset.runtime.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_string("saved_model", None, "What training exported.")
flags.DEFINE_string(
  "scores", None, "Evaluate the scores in this file, of any system, instead."
)
flags.DEFINE_string(
  "tpu",
  None,
  "TPU name or grpc:// address, or 'local' on a TPU VM: scores the clips that "
  "have the length of the export's signature 'batched'; the others are scored "
  "on the host.",
)
flags.DEFINE_string("data_dir", None, "What tools/make_tfrecords.py wrote.")
flags.DEFINE_string("split", "eval", "Which part of the data.")
flags.DEFINE_integer(
  "holdout_percent",
  0,
  "Score only those clips of the split that train.holdout_percent kept out of "
  "the training.",
  lower_bound=0,
  upper_bound=99,
)
flags.DEFINE_integer(
  "batch_size", 32, "The most clips to score at once.", lower_bound=1
)
flags.DEFINE_string(
  "output_dir",
  None,
  "Where metrics.json and per_class.csv go; default: beside the SavedModel or "
  "the scores, in evaluation_SPLIT.",
)
flags.DEFINE_string("scores_out", None, "Write the scores to this file.")
flags.DEFINE_string(
  "report", None, "Write a page to this file, such as report.html."
)
flags.DEFINE_string(
  "train_split",
  "train",
  "The split whose number of clips per class the report shows. All of it is "
  "read if there is no table of its clips. Empty: the numbers are not shown.",
)
flags.DEFINE_string(
  "compare",
  None,
  "Another SavedModel or file of scores: print the difference from it, on the "
  "clips that both have.",
)
flags.DEFINE_float(
  "min_coverage",
  0.99,
  "The smallest share of the clips that a file of scores must have.",
  lower_bound=0,
  upper_bound=1,
)
flags.DEFINE_string(
  "ontology",
  None,
  "AudioSet's ontology.json: adds averages for each of its top branches.",
)
flags.DEFINE_integer(
  "num_resamples",
  1000,
  "Bootstrap resamples. They take 8 bytes times clips times resamples.",
  lower_bound=2,
)

_NUM_MOVED = 10
_NUM_CONFUSED = 5


def main() -> None:
  if bool(FLAGS.saved_model) == bool(FLAGS.scores):
    raise UserError("one of --saved_model and --scores is required.")
  for name in ("tpu", "holdout_percent"):
    if FLAGS[name].value and not FLAGS.saved_model:
      raise UserError(f"--{name} is given, which needs --saved_model.")
  if FLAGS.holdout_percent and FLAGS.split != FLAGS.train_split:
    raise UserError(
      f"--holdout_percent: --split={FLAGS.split} is not the split that was "
      f"trained on, --train_split={FLAGS.train_split}."
    )
  # Imported late: a mistake in the flags is answered at once.
  import tensorflow as tf

  from tf_audioset.data import labels, prepared
  from tf_audioset.evaluation import judging, scoring
  from tf_audioset.runtime import storage

  path = (FLAGS.saved_model or FLAGS.scores).rstrip("/")
  folder = FLAGS.output_dir or os.path.join(
    os.path.dirname(path if "://" in path else os.path.abspath(path)),
    f"evaluation_{FLAGS.split}",
  )
  split = prepared.find_split(FLAGS.data_dir, FLAGS.split)
  if FLAGS.holdout_percent:
    split = split.part(0, FLAGS.holdout_percent)
  if not split.num_clips:
    raise UserError(f"{FLAGS.data_dir}: the split {FLAGS.split!r} is empty.")
  # A mistake is told before the long work; one in the path, by its reader.
  if tf.io.gfile.exists(path):
    _make_folders(folder)
  if FLAGS.ontology and split.classes is not None:
    labels.branches(FLAGS.ontology, split.classes)
  if FLAGS.compare:
    score = _run_model if tf.io.gfile.isdir(FLAGS.compare) else _read_scores
    other_classes, other, _, other_digest = score(FLAGS.compare, split)
  score = _run_model if FLAGS.saved_model else _read_scores
  classes, judged, targets, digest = score(path, split)
  branches = labels.branches(FLAGS.ontology, classes) if FLAGS.ontology else {}
  if targets is None:
    ids, targets = scoring.read_labels(split, len(classes))
    places, rows = judged.rows_of(ids, FLAGS.min_coverage, path)
    judged, targets = judged.take(rows), targets[places]
  if FLAGS.scores_out:
    judged.write(FLAGS.scores_out)
  if FLAGS.compare:
    _check_classes(FLAGS.compare, other_classes.mids, path, classes.mids)
    places, rows = other.rows_of(judged.ids, FLAGS.min_coverage, FLAGS.compare)
    judged, targets = judged.take(places), targets[places]
  judgement = judging.Judgement(
    judged.scores, targets, num_resamples=FLAGS.num_resamples
  )
  kind = "saved_model" if FLAGS.saved_model else "scores"
  summary = {
    **judgement.summary(branches),
    "num_resamples": FLAGS.num_resamples,
    "ids_sha256": judged.ids_sha256(),
    f"{kind}_sha256": digest,
  }
  if FLAGS.holdout_percent:
    summary["holdout_percent"] = FLAGS.holdout_percent
  if not summary["num_classes_scored"]:
    raise UserError(
      f"none of the {len(classes)} classes has a clip with it and one without."
    )
  table = {
    "index": range(len(classes)),
    "mid": classes.mids,
    "name": classes.names,
    **judgement.per_class(),
  }
  lines = _report(summary, split.num_clips, f"{kind} {digest[:12]}")
  if FLAGS.compare:
    difference, columns = judgement.minus(
      judging.Judgement(
        other.scores[rows], targets, num_resamples=FLAGS.num_resamples
      )
    )
    table |= columns
    summary["difference"] = {
      "to": FLAGS.compare,
      "sha256": other_digest,
      **difference,
    }
    lines += _comparison(difference, table)
  storage.write_json(os.path.join(folder, "metrics.json"), summary, indent=2)
  storage.write_file(
    os.path.join(folder, "per_class.csv"), _to_csv(table, zip(*table.values()))
  )
  written = "metrics.json and per_class.csv"
  if judgement.confusion is not None:
    columns = [classes.names, *judgement.confusion.T]
    storage.write_file(
      os.path.join(folder, "confusion.csv"),
      _to_csv(["label", *classes.names], zip(*columns)),
    )
    lines += _confusions(judgement.confusion, classes.names)
    written = "metrics.json, per_class.csv and confusion.csv"
  print(*lines, f"wrote {folder}/{written}", sep="\n")
  if FLAGS.report:  # Last: counting the training clips may take long.
    _write_report(path, digest, summary, table, judged, targets, split)
    print(f"wrote {FLAGS.report}")


def _make_folders(output_dir) -> None:
  """All that will be written to."""
  import tensorflow as tf

  from tf_audioset.runtime import storage

  storage.check_bucket(output_dir)
  tf.io.gfile.makedirs(output_dir)
  for flag in ("report", "scores_out"):
    file = FLAGS[flag].value
    if file and tf.io.gfile.isdir(file):
      raise UserError(f"--{flag}={file}: a folder; give a file in it.")
    if file:
      storage.check_bucket(file)
      tf.io.gfile.makedirs(os.path.dirname(file) or ".")


def _check_classes(path, mids, other_path, other_mids) -> None:
  if mids != other_mids:
    raise UserError(
      f"the classes of {path} ({len(mids)}) are not those of {other_path} "
      f"({len(other_mids)}), or their order differs."
    )


def _run_model(path, split):
  """The SavedModel's classes, scores, targets in their order, and digest."""
  import numpy as np
  import tensorflow as tf

  from tf_audioset.data import pipeline as pipeline_lib
  from tf_audioset.data import records
  from tf_audioset.evaluation import scoring
  from tf_audioset.runtime import distribution
  from tf_audioset.serving import export

  # With a TPU of other machines, one of those is the default.
  here = export.HERE if FLAGS.tpu else None
  with tf.device(here):
    tagger = export.ExportedTagger(path)
  classes = tagger.classes
  if split.classes is not None:
    _check_classes(path, classes.mids, FLAGS.data_dir, split.classes.mids)
  if tagger.sample_rate_hz != records.SAMPLE_RATE_HZ:
    raise UserError(
      f"{path} is for {tagger.sample_rate_hz} Hz, but the clips in "
      f"{FLAGS.data_dir} have {records.SAMPLE_RATE_HZ} Hz."
    )
  on_tpu = None
  if FLAGS.tpu:
    strategy = distribution.strategy(FLAGS.tpu)
    on_tpu = export.ReplicatedTagger(tagger.directory, strategy)
  with tf.device(here):
    clips = pipeline_lib.full_clips(
      split,
      num_classes=len(classes),
      batch_size=on_tpu.batch_size if on_tpu else FLAGS.batch_size,
      min_samples=tagger.min_samples,
      padding=tagger.padding,
    ).as_numpy_iterator()
  ids, scores, targets = [], [], []
  num_on_tpu = 0
  with cli.progress_bar(split.num_clips, FLAGS.split, " clips") as bar:
    for batch_ids, waveform, batch_targets in clips:
      ids.extend(clip_id.decode() for clip_id in batch_ids)
      waveform = waveform.astype(np.float32) / 32768
      if on_tpu and waveform.shape[1] == on_tpu.num_samples:
        scores.append(on_tpu.score(waveform))
        num_on_tpu += len(waveform)
      else:
        with tf.device(here):
          scores.append(tagger.score(waveform)[0])
      targets.append(batch_targets)
      bar.update(len(batch_ids))
  if on_tpu:
    print(
      f"{num_on_tpu} clips scored on {distribution.describe(strategy)}, "
      f"{len(ids) - num_on_tpu} of other lengths than {on_tpu.num_samples} "
      "samples on the host"
    )
  if len(ids) != split.num_clips:
    raise UserError(
      f"{FLAGS.data_dir}: {len(ids)} clips in the shards of {FLAGS.split}, but "
      f"{split.num_clips} in its description: prepare it again."
    )
  order = np.argsort(ids, kind="stable")
  result = scoring.Scores(
    np.array(ids), np.array(classes.mids), np.concatenate(scores)
  )
  return (
    classes,
    result.take(order),
    np.concatenate(targets)[order],
    scoring.sha256_of(tagger.directory),
  )


def _read_scores(path, split):
  """The classes, scores, no targets, and digest of a file."""
  from tf_audioset.evaluation import scoring

  scores = scoring.Scores.read(path)
  if split.classes is None:
    raise UserError(f"{FLAGS.data_dir} does not tell its classes.")
  _check_classes(path, tuple(scores.mids), FLAGS.data_dir, split.classes.mids)
  return split.classes, scores, None, scoring.sha256_of(path)


def _training_positives(num_classes):
  """Clips of each class, or None and why they are not known."""
  from tf_audioset.data import prepared
  from tf_audioset.evaluation import scoring

  if not FLAGS.train_split:
    return None, "The training clips were not counted (--train_split)."
  try:
    split = prepared.find_split(FLAGS.data_dir, FLAGS.train_split)
    if FLAGS.holdout_percent:
      split = split.part(FLAGS.holdout_percent, 100)
  except ValueError as e:
    return None, f"The training clips are not known: {e}"
  with cli.progress_bar(split.num_clips, FLAGS.train_split, " clips") as bar:
    return scoring.count_positives(split, num_classes, bar.update), ""


def _write_report(path, digest, summary, table, judged, targets, split):
  from tf_audioset.evaluation import html_report
  from tf_audioset.runtime import storage

  counts, no_training = _training_positives(len(table["mid"]))
  if counts is not None:
    table = {**table, "training_positives": counts}
  num_clips, num_classes = judged.scores.shape
  facts = [
    f"{path} (sha256 {digest[:12]}) on the split {FLAGS.split} of "
    f"{FLAGS.data_dir}.",
    f"{num_clips:,} of {split.num_clips:,} clips (sha256 of their ids "
    f"{summary['ids_sha256'][:12]}); {summary['num_classes_scored']:,} of "
    f"{num_classes:,} classes have a clip with them and one without.",
  ]
  page = html_report.page(
    title="Evaluation of " + "/".join(path.split("/")[-2:]),
    facts=facts,
    summary=summary,
    table=table,
    ids=judged.ids,
    scores=judged.scores,
    targets=targets,
    no_training=no_training,
  )
  storage.write_file(FLAGS.report, page.encode())


def _report(summary, num_clips, source):
  """Lines for the terminal."""

  def value(name, of=summary):
    low, high = of["intervals"][name]
    return f"{of[name]:.4f}  [{low:.4f}, {high:.4f}]"

  top = f"top-1  {value('top1')}  (clips whose highest score is a label's)"
  if "recall" in summary:  # One label a clip.
    top = (
      f"acc.   {value('top1')}  (accuracy; mean of the classes' own: "
      f"{summary['recall']:.4f}; top-3 {summary['top3']:.4f}, top-5 "
      f"{summary['top5']:.4f})"
    )
  lines = [
    f"mAP    {value('mAP')}",
    f"mAUC   {value('mAUC')}",
    f"d'     {value('dprime')}  (of the mean AUC; mean of the classes' d': "
    f"{summary['dprime_class_mean']:.4f})",
    top,
    f"mAP    {value('mAP', summary['positive_weighted'])}  (a class counts by "
    "its positive clips)",
  ]
  if math.isfinite(summary["ece"]):
    lines.append(
      f"ECE    {summary['ece']:.4f}  (mean calibration error of the classes)"
    )
  for name, branch in summary["branches"].items():
    num_classes = branch["num_classes"]
    lines.append(
      f"mAP    {value('mAP', branch)}  ({name}, {num_classes} classes)"
    )
  lines.append(
    f"over {summary['num_classes_scored']} of {summary['num_classes']} classes "
    f"(those with positive and negative clips), {summary['num_clips']} clips"
  )
  lines.append(f"ids {summary['ids_sha256'][:12]}, {source}; [95 % intervals]")
  if summary["num_clips"] < num_clips:
    left_out = num_clips - summary["num_clips"]
    lines.append(f"{left_out} of {num_clips} clips have no scores: left out")
  return lines


def _confusions(confusion, names):
  """Lines for the terminal: the pairs of classes most often confused."""
  import numpy as np

  wrong = confusion - np.diag(confusion.diagonal())
  order = np.argsort(-wrong, axis=None, kind="stable")
  pairs = np.dstack(np.unravel_index(order, wrong.shape))[0]
  lines = [
    f"       {wrong[i, j]} of {confusion[i].sum()}  {names[i]} is taken for "
    f"{names[j]}"
    for i, j in pairs[:_NUM_CONFUSED]
    if wrong[i, j]
  ]
  return ["most often confused:", *lines] if lines else []


def _comparison(difference, table):
  """Lines for the terminal."""
  lines = [f"minus {FLAGS.compare}, on the same clips:"]
  for name, shown in (("mAP", "mAP "), ("mAUC", "mAUC"), ("dprime", "d'  ")):
    low, high = difference["intervals"][name]
    lines.append(f"{shown}  {difference[name]:+.4f}  [{low:+.4f}, {high:+.4f}]")
  columns = ("ap_difference", "difference_low", "difference_high", "name")
  rows = [x for x in zip(*map(table.get, columns)) if math.isfinite(x[0])]
  rows.sort(key=lambda row: -abs(row[0]))
  lines.append(
    "classes whose AP moved most (of many, some move by chance; intervals of "
    "classes with few positive clips are too narrow):"
  )
  for value, low, high, name in rows[:_NUM_MOVED]:
    lines.append(f"      {value:+.4f}  [{low:+.4f}, {high:+.4f}]  {name}")
  return lines


def _to_csv(header, rows) -> bytes:
  """What cannot be measured is an empty cell."""

  def cell(value):
    # In full: a rounded threshold would leave out the clip it is the score of.
    if isinstance(value, float):
      return "" if math.isnan(value) else float(value)
    return value

  file = io.StringIO(newline="")
  writer = csv.writer(file)
  writer.writerow(header)
  writer.writerows([map(cell, row) for row in rows])
  return file.getvalue().encode()


def run() -> None:
  """Runs the command line."""
  cli.run(main, prog="evaluate", required=["data_dir"])


if __name__ == "__main__":
  run()
