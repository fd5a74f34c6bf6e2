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

import json
import os

from absl import flags

from tf_audioset.runtime import cli
from tf_audioset.runtime.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_string(
  "saved_model",
  None,
  "What training exported, or a .tflite file of tools/export.py.",
)
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
  "Where metrics.json and per_class.csv go. Default: beside the SavedModel or "
  "the scores, in evaluation_SPLIT; from the second version of an export on, "
  "in evaluation_SPLIT_VERSION. The default is refused if it holds another "
  "evaluation.",
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


def main() -> None:
  _check_flags()
  # Imported late: a mistake in the flags is answered at once.
  from tf_audioset.data import labels
  from tf_audioset.evaluation import evaluation_text, judging
  from tf_audioset.runtime import outputs

  path = (FLAGS.saved_model or FLAGS.scores).rstrip("/")
  split = _find_split()
  kind, source, version = _source(path)
  evaluated = {kind: source, "data_sha256": split.digest()}
  folder = _output_dir(path, version, evaluated)
  _check_places(folder)
  if FLAGS.ontology and split.classes is not None:
    labels.branches(FLAGS.ontology, split.classes)
  other = _read_other(split) if FLAGS.compare else None
  score = _run_model if FLAGS.saved_model else _read_scores
  classes, judged, targets, digest = score(path, split)
  judged, targets = _with_targets(path, split, classes, judged, targets)
  writer = outputs.Writer()
  if FLAGS.scores_out:
    _write_scores(writer, judged)
  other_scores = None
  if other:
    judged, targets, other_scores = _paired(
      path, classes, judged, targets, other
    )

  def judge(scores):
    return judging.Judgement(scores, targets, num_resamples=FLAGS.num_resamples)

  judgement = judge(judged.scores)
  branches = labels.branches(FLAGS.ontology, classes) if FLAGS.ontology else {}
  summary = {
    **judgement.summary(branches),
    "num_resamples": FLAGS.num_resamples,
    "ids_sha256": judged.ids_sha256(),
    f"{kind}_sha256": digest,
    "evaluated": evaluated,
  }
  if FLAGS.holdout_percent:
    summary["holdout_percent"] = FLAGS.holdout_percent
  if not summary["num_classes_scored"]:
    raise UserError(_nothing_to_score(len(classes)))
  table = {
    "index": range(len(classes)),
    "mid": classes.mids,
    "name": classes.names,
    **judgement.per_class(),
  }
  lines = evaluation_text.results(
    summary, split.num_clips, f"{kind} {digest[:12]}"
  )
  if other:
    difference, columns = judgement.minus(judge(other_scores))
    table |= columns
    summary["difference"] = {
      "to": FLAGS.compare,
      "sha256": other[3],
      **difference,
    }
    lines += evaluation_text.comparison(FLAGS.compare, difference, table)
  if judgement.confusion is not None:
    lines += evaluation_text.confusions(judgement.confusion, classes.names)
  # Before anything is written: a disk may be full by now.
  print(*lines, sep="\n", flush=True)
  _write_results(writer, folder, summary, table, judgement.confusion)
  if FLAGS.report:  # Last: counting the training clips may take long.
    _write_report(writer, path, digest, summary, table, judged, targets, split)
  writer.close()


def _check_flags() -> None:
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


def _find_split():
  """The clips; refused if they are none or no class could be scored."""
  from tf_audioset.data import prepared

  split = prepared.find_split(FLAGS.data_dir, FLAGS.split)
  if FLAGS.holdout_percent:
    split = split.part(0, FLAGS.holdout_percent)
  if not split.num_clips:
    raise UserError(f"{FLAGS.data_dir}: the split {FLAGS.split!r} is empty.")
  table = split.clips()
  if table is not None and split.classes is not None:
    num_classes = len(split.classes)
    positives = table.count_positives(num_classes)
    if not ((0 < positives) & (positives < len(table))).any():
      raise UserError(_nothing_to_score(num_classes))
  return split


def _nothing_to_score(num_classes) -> str:
  return (
    f"none of the {num_classes} classes has a clip with it and one without, so "
    "that nothing can be measured."
  )


def _source(path):
  """What is evaluated: its kind, its name, and its version, 0 if it has none.

  A mistake in the path is told before anything is made.
  """
  import tensorflow as tf

  from tf_audioset.serving import exported_tagger, tflite_file

  name = os.path.basename(path if "://" in path else os.path.abspath(path))
  if FLAGS.saved_model and tflite_file.is_tflite(path):
    if FLAGS.tpu:
      raise UserError(f"--saved_model={path}: a TFLite model: not with --tpu.")
    tflite_file.load(path)
    return "tflite", name, 0
  if FLAGS.saved_model:
    number = os.path.basename(exported_tagger.find(path))
    version = int(number) if number.isdigit() else 0
    if version and name != number:
      name = f"{name}/{number}"
    return "saved_model", name, version
  if tf.io.gfile.isdir(path):
    raise UserError(
      f"--scores={path}: a folder; scores are in a file, and for a SavedModel "
      "there is --saved_model."
    )
  if not tf.io.gfile.exists(path):
    raise UserError(f"--scores={path}: there is no such file.")
  return "scores", name, 0


def _output_dir(path, version, evaluated) -> str:
  """--output_dir, or a folder beside `path` that holds no other evaluation."""
  import tensorflow as tf

  if FLAGS.output_dir:
    return FLAGS.output_dir
  parent = os.path.dirname(path if "://" in path else os.path.abspath(path))
  suffix = f"_{version}" if version > 1 else ""
  folder = os.path.join(parent, f"evaluation_{FLAGS.split}{suffix}")
  earlier = {}
  try:
    with tf.io.gfile.GFile(os.path.join(folder, "metrics.json")) as file:
      earlier = json.load(file).get("evaluated", {})
  except (tf.errors.OpError, ValueError, AttributeError):
    pass  # There is none, or none that could be overwritten by mistake.
  for name, value in earlier.items():
    if value != evaluated.get(name):
      what = "other data" if name == "data_sha256" else f"{name} {value}"
      raise UserError(
        f"{folder} holds the evaluation of {what}: give --output_dir, which "
        "may be that folder, if it is to be replaced."
      )
  return folder


def _check_places(folder) -> None:
  """Tries all places that will be written to, before the long work."""
  from tf_audioset.runtime import outputs

  outputs.check_folder(folder, "output_dir")
  for flag in ("report", "scores_out"):
    if FLAGS[flag].value:
      outputs.check_file(FLAGS[flag].value, flag)


def _read_other(split):
  """What --compare gives, as `_run_model` or `_read_scores` has it."""
  import tensorflow as tf

  from tf_audioset.serving import tflite_file

  is_model = tf.io.gfile.isdir(FLAGS.compare)
  is_model = is_model or tflite_file.is_tflite(FLAGS.compare)
  other = (_run_model if is_model else _read_scores)(FLAGS.compare, split)
  table = split.clips()
  if table is not None:  # Else it is told when all is scored.
    ids = [clip_id.decode() for clip_id in table.id.tolist()]
    other[1].rows_of(ids, FLAGS.min_coverage, FLAGS.compare)
  return other


def _paired(path, classes, judged, targets, other):
  """Scores, targets and the other's scores of the clips that all have."""
  other_classes, other_judged, *_ = other
  _check_classes(FLAGS.compare, other_classes.mids, path, classes.mids)
  places, rows = other_judged.rows_of(
    judged.ids, FLAGS.min_coverage, FLAGS.compare
  )
  return judged.take(places), targets[places], other_judged.scores[rows]


def _with_targets(path, split, classes, judged, targets):
  """Scores and targets of the clips that have both."""
  from tf_audioset.evaluation import scoring

  if targets is not None:
    return judged, targets
  ids, targets = scoring.read_labels(split, len(classes))
  places, rows = judged.rows_of(ids, FLAGS.min_coverage, path)
  return judged.take(rows), targets[places]


def _write_scores(writer, judged) -> None:
  try:
    content = judged.content()
  except ValueError as e:  # Ids that repeat are no reason to lose the rest.
    writer.fail(FLAGS.scores_out, str(e))
    return
  if writer.write(FLAGS.scores_out, content):
    print(f"wrote {FLAGS.scores_out}")


def _write_results(writer, folder, summary, table, confusion) -> None:
  from tf_audioset.evaluation import evaluation_text
  from tf_audioset.runtime import storage

  names = table["name"]
  files = {
    "metrics.json": (storage.to_json(summary, 2) + "\n").encode(),
    "per_class.csv": evaluation_text.to_csv(table, zip(*table.values())),
  }
  if confusion is not None:
    files["confusion.csv"] = evaluation_text.to_csv(
      ["label", *names], zip(names, *confusion.T)
    )
  written = [
    name
    for name, content in files.items()
    if writer.write(os.path.join(folder, name), content)
  ]
  if written:
    *first, last = written
    listed = f"{', '.join(first)} and {last}" if first else last
    print(f"wrote {folder}/{listed}")


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
  from tf_audioset.serving import exported_tagger, tflite_file

  # With a TPU of other machines, one of those is the default.
  here = exported_tagger.HERE if FLAGS.tpu else None
  with tf.device(here):
    tagger = tflite_file.load(path)
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
    on_tpu = exported_tagger.ReplicatedTagger(tagger.directory, strategy)
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


def _write_report(
  writer, path, digest, summary, table, judged, targets, split
) -> None:
  from tf_audioset.evaluation import html_report

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
  if writer.write(FLAGS.report, page.encode()):
    print(f"wrote {FLAGS.report}")


def run() -> None:
  """Runs the command line."""
  cli.run(main, prog="evaluate", required=["data_dir"])


if __name__ == "__main__":
  run()
