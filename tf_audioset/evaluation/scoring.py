# SPDX-License-Identifier: Apache-2.0
"""A model and a split to scores, and to metrics; scores as a file."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import os
import zipfile
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tf_audioset.data import prepared, records
from tf_audioset.evaluation import metrics
from tf_audioset.runtime import distribution
from tf_audioset.runtime.errors import UserError


class Evaluator:
  """Scores every clip of a split once, on all replicas, while training."""

  def __init__(
    self, strategy, tagger, pipeline, split, *, num_classes, batch_size
  ):
    """Distributes the centre crops of `split`.

    Args:
      strategy: Where the replicas are.
      tagger: A `Tagger` created in the strategy's scope.
      pipeline: `data.Pipeline`.
      split: `prepared.Split`.
      num_classes: Width of the targets.
      batch_size: Global.
    """
    self._strategy = strategy
    self._tagger = tagger
    self._shape = (split.num_clips, num_classes)
    self._num_batches = -(-split.num_clips // batch_size)
    self._batches = distribution.batches(
      strategy,
      lambda context: pipeline.centre_crops(
        split, num_classes=num_classes, batch_size=batch_size, context=context
      ),
    )

  def evaluate(
    self, progress: Callable[[int, int], None]
  ) -> tuple[metrics.Metrics, np.ndarray, np.ndarray, float]:
    """Runs the model over the split.

    Args:
      progress: Called after each batch: clips scored, clips in all.

    Returns:
      The metrics of the logarithms of its scores, which tie less often than
      the scores; float64 [num_classes] twice, the threshold of each class's
      scores with the greatest F1, and that F1, as `metrics.best_thresholds`;
      and the mean of the clips' losses.

    Raises:
      UserError: If the split's files hold another number of clips than its
        description says.
    """
    scores = np.zeros(self._shape, np.float32)
    targets = np.zeros(self._shape, np.float32)
    losses = np.zeros(self._shape[0])
    times_seen = np.zeros(self._shape[0], np.int64)
    # Not up to their end, which on other hosts is an error that is logged.
    for batch in itertools.islice(self._batches, self._num_batches):
      index, batch_scores, batch_targets, batch_losses = (
        x.numpy() for x in self._score(batch)
      )
      real = (0 <= index) & (index < self._shape[0])
      index = index[real]
      scores[index] = batch_scores[real]
      targets[index] = batch_targets[real]
      losses[index] = batch_losses[real]
      times_seen[index] += 1
      progress(int(times_seen.sum()), len(times_seen))
    if not (times_seen == 1).all():
      raise UserError(
        f"{(times_seen == 0).sum()} of {self._shape[0]} clips of the "
        "evaluation split were not found in its shards: prepare it again."
      )
    thresholds, f1 = metrics.best_thresholds(scores, targets)
    # A hair lower, since the export rounds otherwise.
    thresholds = np.exp(thresholds - 1e-4)
    result = metrics.evaluate(scores, targets)
    return result, thresholds, f1, float(losses.mean())

  @tf.function(autograph=False)
  def _score(self, batch):
    def replica(index, waveform, targets):
      logits = self._tagger(waveform)
      loss = self._tagger.loss_function
      return index, loss.log_scores(logits), targets, loss(targets, logits)

    # Gathered in here: outside, each call would be traced anew.
    return [
      self._strategy.gather(x, axis=0)
      for x in self._strategy.run(replica, args=batch)
    ]


@dataclasses.dataclass(frozen=True)
class Scores:
  """What some system gave to clips.

  As a file, the three arrays in NumPy's .npz, from whatever program:

      np.savez("scores.npz", ids=ids, mids=mids, scores=scores)

  Attributes:
    ids: str [num_clips], those of the records.
    mids: str [num_classes], the classes in the order of the scores.
    scores: float [num_clips, num_classes]; higher is likelier.
  """

  ids: np.ndarray
  mids: np.ndarray
  scores: np.ndarray

  def take(self, rows: np.ndarray) -> Scores:
    """Returns the clips of the given rows, int [n], in that order."""
    return Scores(self.ids[rows], self.mids, self.scores[rows])

  def ids_sha256(self) -> str:
    """Returns the SHA-256 of the sorted ids, as in dataset_info.json."""
    return hashlib.sha256("\n".join(sorted(self.ids)).encode()).hexdigest()

  def content(self) -> bytes:
    """Returns what the file holds.

    Raises:
      UserError: If two clips have the same id, or none has one.
    """
    _refuse_repeated(self.ids, "the data")
    buffer = io.BytesIO()
    np.savez(buffer, **{k: np.asarray(v) for k, v in vars(self).items()})
    return buffer.getvalue()

  @classmethod
  def read(cls, path: str) -> Scores:
    """Reads a file of that form.

    Raises:
      UserError: If it is not of that form, or two clips have the same id.
    """
    try:
      with tf.io.gfile.GFile(path, "rb") as file:
        arrays = np.load(io.BytesIO(file.read()))
      ids, mids = (
        np.char.decode(x, "utf-8") if x.dtype.kind == "S" else x.astype(str)
        for x in (arrays["ids"], arrays["mids"])
      )
      result = cls(ids, mids, arrays["scores"])
    except (
      tf.errors.OpError,
      zipfile.BadZipFile,
      EOFError,
      IndexError,
      KeyError,
      ValueError,
    ) as e:
      raise UserError(
        f"{path}: not a file of scores, an .npz of ids, mids and scores: {e}"
      ) from e
    if result.scores.dtype.kind not in "fiub":
      raise UserError(
        f"{path}: scores of type {result.scores.dtype}: not real numbers."
      )
    shape = result.ids.shape + result.mids.shape
    if result.scores.shape != shape or len(shape) != 2:
      raise UserError(
        f"{path}: scores of shape {result.scores.shape} for ids of shape "
        f"{result.ids.shape} and mids of shape {result.mids.shape}."
      )
    bad = result.ids[~np.isfinite(result.scores).all(axis=1)]
    if len(bad):
      raise UserError(
        f"{path}: {len(bad)} of {len(result.ids)} clips have a non-finite "
        f"score, the first is {bad[0]}."
      )
    _refuse_repeated(result.ids, path)
    return result

  def rows_of(
    self, ids: Sequence[str], min_coverage: float, path: str
  ) -> tuple[np.ndarray, np.ndarray]:
    """Finds clips by their ids.

    Args:
      ids: Distinct.
      min_coverage: The least share of them that must be found.
      path: Where these scores came from, for the message.

    Returns:
      int64 [num_found] twice: places in `ids`, rising, and the rows here.

    Raises:
      UserError: If fewer are found, or two clips here have the same id.
    """
    _refuse_repeated(self.ids, path)
    rows = {clip_id: row for row, clip_id in enumerate(self.ids)}
    places = [i for i, clip_id in enumerate(ids) if clip_id in rows]
    if not places or len(places) < min_coverage * len(ids):
      lost = next(clip_id for clip_id in ids if clip_id not in rows)
      example = f", whose ids are like {self.ids[0]!r}" if len(self.ids) else ""
      raise UserError(
        f"{len(places)} of {len(ids)} clips are in {path}{example}; {lost!r} "
        f"is not. At least {min_coverage:.0%} are asked for (--min_coverage)."
      )
    return np.array(places), np.array([rows[ids[i]] for i in places])


def read_labels(
  split: prepared.Split, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
  """Reads what the records say but for their audio, in the order of the ids.

  Returns:
    ids, str [num_clips], and targets, float32 [num_clips, num_classes].

  Raises:
    UserError: If two clips have the same id, as audax's records have.
  """
  ids, targets = [], []
  for of_some in _labels(split, num_classes):
    ids.extend(of_some[0])
    targets.append(of_some[1])
  ids = np.array([clip_id.decode() for clip_id in ids])
  _refuse_repeated(ids, split.files[0])
  order = np.argsort(ids)
  return ids[order], np.concatenate(targets)[order]


@tf.autograph.experimental.do_not_convert
def _labels(split, num_classes):
  """Ids and targets of some hundred records at a time, their audio skipped."""

  def read(serialized):
    batch = records.parse_examples(serialized)
    targets, errors = records.labels_to_multi_hot(batch["labels"], num_classes)
    named = tf.strings.join(["clip ", batch["id"], ": ", errors])
    with tf.control_dependencies(
      records.refuse(tf.where(errors == "", "", named))
    ):
      return batch["id"], tf.identity(targets)

  parallel = tf.data.AUTOTUNE
  return (
    prepared.read_shards(split.files, split.compression, parallel)
    .batch(256)
    .map(read, num_parallel_calls=parallel)
    .as_numpy_iterator()
  )


def count_positives(
  split: prepared.Split, num_classes: int, progress: Callable[[int], None]
) -> np.ndarray:
  """Counts the clips of each class.

  Without a table of clips (older preparations, audax's) it reads all the audio.

  Args:
    split: The clips.
    num_classes: Labels are below this.
    progress: Called again and again with how many more clips were read.

  Returns:
    int64 [num_classes].

  Raises:
    UserError: If a clip's label is not below num_classes.
  """
  table = split.clips()
  if table is not None:
    if table.labels.max(initial=-1) >= num_classes:
      raise UserError(
        f"{split.clips_file}: label {table.labels.max()}, where the classes "
        f"are {num_classes}."
      )
    progress(len(table))
    return table.count_positives(num_classes)

  total = np.zeros(num_classes, np.int64)
  for ids, targets in _labels(split, num_classes):
    total += (targets != 0).sum(axis=0)
    progress(len(ids))
  return total


def sha256_of(path: str) -> str:
  """Returns the SHA-256 of a file, or of all names and files of a folder."""
  digest = hashlib.sha256()
  is_folder = tf.io.gfile.isdir(path)
  files = [path]
  if is_folder:
    files = sorted(
      os.path.join(folder, name)
      for folder, _, names in tf.io.gfile.walk(path)
      for name in names
    )
  for name in files:
    if is_folder:
      digest.update(f"{os.path.relpath(name, path)}\n".encode())
    with tf.io.gfile.GFile(name, "rb") as file:
      while block := file.read(1 << 20):
        digest.update(block)
  return digest.hexdigest()


def _refuse_repeated(ids, path) -> None:
  if len(set(ids)) < len(ids):
    raise UserError(
      f"{path}: {len(ids)} clips have {len(set(ids))} different ids, so that "
      "scores cannot be found by them."
    )
