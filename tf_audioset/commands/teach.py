# SPDX-License-Identifier: Apache-2.0
r"""Scores every training clip with one or several models, to teach another.

  python tools/teach.py --saved_model=A [--saved_model=B]... --data_dir=DIR
  python -m tf_audioset.train ... --gin_bindings="Pipeline.teacher = 'TABLE'"

The scores of several models are averaged. They are written to a table, a folder
(DIR/SPLIT.teacher unless --output_dir is given), in the order of the clips. A
run that was stopped goes on where it was. Clips that cannot be read are named,
have no scores, and make the exit code 1.

EfficientAT's published teacher is converted to such a table with

  --efficientat_logits=passt_enemble_logits_mAP_495.npy \
  --efficientat_index=fname_to_index.pkl

in place of --saved_model.
"""

from __future__ import annotations

import os
import sys

from absl import flags

from tf_audioset.runtime import cli
from tf_audioset.runtime.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_multi_string(
  "saved_model", [], "A teacher: an exported SavedModel. Repeatable."
)
flags.DEFINE_string("data_dir", None, "What tools/make_tfrecords.py wrote.")
flags.DEFINE_string("split", "train", "The clips to score.")
flags.DEFINE_string(
  "output_dir", None, "The table. Default: DATA_DIR/SPLIT.teacher."
)
flags.DEFINE_integer(
  "top_k",
  0,
  "Keep the scores of each clip's best classes alone, and the mean of the "
  "others: 20 of 527 take a twelfth of the room. 0: all.",
  lower_bound=0,
)
flags.DEFINE_integer("batch_size", 32, "Clips at a time.", lower_bound=1)
flags.DEFINE_string(
  "efficientat_logits", None, "Convert these logits of EfficientAT, an .npy."
)
flags.DEFINE_string(
  "efficientat_index", None, "The rows of the ids in them, a .pkl."
)


def main() -> int:
  _check_flags()
  # Imported late: a mistake in the flags is answered at once.
  from tf_audioset.data import prepared, teacher
  from tf_audioset.runtime import outputs

  split = prepared.find_split(FLAGS.data_dir, FLAGS.split)
  if not split.num_clips:
    raise UserError(f"{FLAGS.data_dir}: the split {FLAGS.split!r} is empty.")
  teacher.whole_ids(split)
  if FLAGS.top_k >= len(split.classes):
    raise UserError(
      f"--top_k={FLAGS.top_k}: the data has {len(split.classes)} classes; give "
      "fewer, or 0 for all."
    )
  source = _Published(split) if FLAGS.efficientat_logits else _Models(split)
  plan = teacher.Plan.of(split, source.digests, FLAGS.top_k)
  folder = _folder()
  outputs.check_folder(folder, "output_dir")
  _refuse_other(folder, plan)
  with cli.progress_bar(split.num_clips, FLAGS.split, " clips") as bar:
    for number, (first, end) in enumerate(plan.parts):
      if teacher.is_part_whole(folder, plan, number):
        bar.update(end - first)
        continue
      scores = source.score(first, end, bar.update)
      teacher.write_part(folder, plan, number, scores)
  coverage = teacher.write_info(folder, plan, source.names)
  print(
    f"wrote {folder}: scores of {coverage:.2%} of {split.num_clips} clips by "
    f"{', '.join(source.names)}"
  )
  if coverage == 1:
    return 0
  needed = f"training needs {teacher.MIN_COVERAGE:.0%}"
  print(f"teach: not all clips have scores; {needed}", file=sys.stderr)
  return 1


def _check_flags() -> None:
  published = [FLAGS.efficientat_logits, FLAGS.efficientat_index]
  if any(published) != all(published):
    raise UserError(
      "--efficientat_logits and --efficientat_index belong together: give both."
    )
  if bool(FLAGS.saved_model) == any(published):
    raise UserError(
      "one of --saved_model and --efficientat_logits is required."
    )
  if len(set(FLAGS.saved_model)) < len(FLAGS.saved_model):
    raise UserError("--saved_model: the same model is given twice.")


def _folder() -> str:
  if FLAGS.output_dir:
    return FLAGS.output_dir.rstrip("/")
  return os.path.join(FLAGS.data_dir, f"{FLAGS.split}.teacher")


def _refuse_other(folder, plan) -> None:
  """Refuses to write over the table of other teachers or clips."""
  from tf_audioset.data import teacher

  found = teacher.read_info(folder)
  if found is not None and found[0] != plan:
    raise UserError(
      f"{folder} holds another table, of {', '.join(found[1]['names'])}: give "
      "another --output_dir, or remove it."
    )


class _Models:
  """Teachers that are exported models."""

  def __init__(self, split):
    """Loads them; refuses those of other classes or another sample rate."""
    from tf_audioset.data import records
    from tf_audioset.evaluation import scoring
    from tf_audioset.serving import exported_tagger

    self._split = split
    self.names = FLAGS.saved_model
    self._taggers = [
      exported_tagger.ExportedTagger(path) for path in self.names
    ]
    for path, tagger in zip(self.names, self._taggers):
      if tagger.classes.mids != split.classes.mids:
        raise UserError(
          f"the classes of {path} ({len(tagger.classes)}) are not those of "
          f"{FLAGS.data_dir} ({len(split.classes)}), or their order differs."
        )
      if tagger.sample_rate_hz != records.SAMPLE_RATE_HZ:
        raise UserError(
          f"{path} is for {tagger.sample_rate_hz} Hz, but the clips in "
          f"{FLAGS.data_dir} have {records.SAMPLE_RATE_HZ} Hz."
        )
    # As in the metrics.json of evaluate.py.
    self.digests = [scoring.sha256_of(t.directory) for t in self._taggers]

  def score(self, first, end, update):
    """Scores clips: float32 [end - first, num_classes], nan if unreadable."""
    import numpy as np

    from tf_audioset.data import pipeline as pipeline_lib

    num_classes = len(self._split.classes)
    scores = np.full([end - first, num_classes], np.nan, np.float32)
    clips = pipeline_lib.whole_clips(
      self._split, num_classes=num_classes, first=first
    )
    waiting = {}  # By length: only clips of one make a batch.
    for row, (_, waveform, _, error) in enumerate(
      clips.take(end - first).as_numpy_iterator()
    ):
      if error:
        print(f"bad record: {error.decode()}", file=sys.stderr)
        update(1)
        continue
      batch = waiting.setdefault(len(waveform), [])
      batch.append((row, waveform))
      if len(batch) == FLAGS.batch_size:
        self._score(waiting.pop(len(waveform)), scores)
        update(FLAGS.batch_size)
    for batch in waiting.values():
      self._score(batch, scores)
      update(len(batch))
    return scores

  def _score(self, batch, scores) -> None:
    import numpy as np

    rows, waveforms = zip(*batch)
    waveforms = np.stack(waveforms).astype(np.float32) / 32768
    found = [tagger.score(waveforms)[0] for tagger in self._taggers]
    scores[list(rows)] = np.mean(found, axis=0, dtype=np.float64)
    if not np.isfinite(scores[list(rows)]).all():
      raise UserError(
        f"{', '.join(self.names)}: scores that are not finite: a broken model."
      )


class _Published:
  """The teacher that EfficientAT published."""

  def __init__(self, split):
    """Opens its files; refuses other classes than AudioSet's."""
    from tf_audioset.data import efficientat, teacher
    from tf_audioset.evaluation import scoring

    paths = [FLAGS.efficientat_logits, FLAGS.efficientat_index]
    self._logits = efficientat.Logits(*paths)
    if not split.classes.is_audioset or self._logits.num_classes != len(
      split.classes
    ):
      raise UserError(
        f"{paths[0]} has {self._logits.num_classes} classes; wanted are "
        f"AudioSet's 527, and these as the classes of {FLAGS.data_dir}, which "
        f"has {len(split.classes)}."
      )
    self._ids = [clip_id.decode() for clip_id in teacher.whole_ids(split)]
    self.names = [os.path.basename(paths[0])]
    self.digests = [scoring.sha256_of(path) for path in paths]

  def score(self, first, end, update):
    """As of `_Models`."""
    update(end - first)
    return self._logits.scores(self._ids[first:end])


def run() -> None:
  """Runs the command line."""
  cli.run(main, prog="teach", required=["data_dir"])


if __name__ == "__main__":
  run()
