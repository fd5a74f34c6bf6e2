# SPDX-License-Identifier: Apache-2.0
"""Judges an exported tagger: mAP, mAUC and d' over every clip of a split.

  python tools/evaluate.py --saved_model DIR --data_dir DIR [--split eval]

Each clip is scored whole, in one pass. Writes metrics.json and per_class.csv
to --output_dir.
"""

from __future__ import annotations

import csv
import hashlib
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from tf_audioset import cli

FLAGS = flags.FLAGS
flags.DEFINE_string("saved_model", None, "What training exported.")
flags.DEFINE_string("data_dir", None, "What tools/make_tfrecords.py wrote.")
flags.DEFINE_string("split", "eval", "Which part of the data.")
flags.DEFINE_integer(
  "batch_size", 32, "The most clips scored at once.", lower_bound=1
)
flags.DEFINE_string(
  "output_dir",
  None,
  "Where metrics.json and per_class.csv go; default: beside the SavedModel, in "
  "evaluation_SPLIT.",
)


def main() -> None:
  # Imported late: a mistake in the flags is answered at once.
  import numpy as np

  from tf_audioset import data, export, metrics, records

  split = records.find_split(FLAGS.data_dir, FLAGS.split)
  tagger = export.ExportedTagger(FLAGS.saved_model)
  classes = tagger.classes
  if split.classes is not None and split.classes != classes:
    raise ValueError(
      f"the classes of {FLAGS.saved_model} ({len(classes)}) are not those of "
      f"{FLAGS.data_dir} ({len(split.classes)}), or their order differs."
    )
  clips = data.full_clips(
    split,
    num_classes=len(classes),
    batch_size=FLAGS.batch_size,
    min_samples=tagger.min_samples,
    padding=tagger.padding,
  )
  ids, scores, targets = [], [], []
  with cli.progress_bar(split.num_clips, FLAGS.split, " clips") as bar:
    for batch_ids, waveform, batch_targets in clips.as_numpy_iterator():
      ids.extend(batch_ids)
      scores.append(tagger.score(waveform.astype(np.float32) / 32768)[0])
      targets.append(batch_targets)
      bar.update(len(batch_ids))
  if len(ids) != split.num_clips:
    raise ValueError(
      f"{FLAGS.data_dir}: {len(ids)} clips in the shards of {FLAGS.split}, but "
      f"{split.num_clips} in its description: prepare it again."
    )
  result = metrics.evaluate(np.concatenate(scores), np.concatenate(targets))
  summary = result.summary()
  summary["ids_sha256"] = hashlib.sha256(b"\n".join(sorted(ids))).hexdigest()
  folder = pathlib.Path(
    FLAGS.output_dir
    or f"{FLAGS.saved_model.rstrip('/')}/../evaluation_{FLAGS.split}"
  ).resolve()
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "metrics.json").write_text(json.dumps(summary, indent=2) + "\n")
  _write_per_class(folder / "per_class.csv", classes, result)
  print(
    f"mAP    {summary['mAP']:.4f}\n"
    f"mAUC   {summary['mAUC']:.4f}\n"
    f"d'     {summary['dprime']:.4f}  (of the mean AUC; mean of the classes' "
    f"d': {summary['dprime_class_mean']:.4f})\n"
    f"top-1  {summary['top1']:.4f}  (clips whose highest score is a label's)\n"
    f"over {summary['num_classes_scored']} of {summary['num_classes']} classes "
    f"(those with positive and negative clips), {summary['num_clips']} clips, "
    f"ids {summary['ids_sha256'][:12]}\n"
    f"wrote {folder}/metrics.json and per_class.csv"
  )


def _write_per_class(path, classes, result) -> None:
  """One row a class; a class that cannot be scored has empty cells."""

  def cell(value):
    return "" if value != value else f"{value:.6f}"

  with path.open("w", newline="", encoding="utf-8") as file:
    writer = csv.writer(file)
    writer.writerow(
      ["index", "mid", "name", "ap", "auc", "dprime", "positives"]
    )
    columns = zip(
      classes.mids,
      classes.names,
      result.average_precision,
      result.auc,
      result.dprime,
      result.num_positives,
    )
    for index, (mid, name, ap, auc, dprime, positives) in enumerate(columns):
      writer.writerow(
        [index, mid, name, cell(ap), cell(auc), cell(dprime), positives]
      )


if __name__ == "__main__":
  cli.run(main, prog="evaluate", required=["saved_model", "data_dir"])
