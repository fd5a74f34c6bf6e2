# SPDX-License-Identifier: Apache-2.0
"""Scores that teachers gave to the clips of a split, stored in their order.

A folder of parts of `PART_CLIPS` clips each, and teacher.json, which is written
last: whose scores these are, of which clips and classes. Scores are kept as
logits, whose float16 are exact to 1 % also where scores are near 0 or 1: those
of all classes, or of each clip's best `top_k` with the mean of the others.

In training the whole table is in memory. A clip's row is found by its number,
and its targets become

  (1 - weight) * labels + weight * scores

before Mixup. Cross-entropy is linear in the targets, so that this is a loss on
the labels and one on the teacher's scores, in these shares.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Sequence
from concurrent import futures

import numpy as np
import tensorflow as tf

from tf_audioset.data import labels, prepared
from tf_audioset.runtime import storage
from tf_audioset.runtime.errors import UserError

INFO_FILE = "teacher.json"
PART_CLIPS = 4096
MIN_COVERAGE = 0.99

_FORMAT_VERSION = 1
_PARALLEL_READS = 8
# Scores are kept this far from 0 and 1: float32 has no nearer one below 1.
_LEAST_SCORE = 2.0**-24


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a table is to hold; it decides the names of its parts."""

  teachers: tuple[str, ...]  # SHA-256 of each.
  ids_sha256: str  # Of the ids of all clips in their order, by newlines.
  classes_sha256: str  # Likewise of the classes' mids.
  num_clips: int
  num_classes: int
  top_k: int  # 0: all classes.
  part_clips: int

  @classmethod
  def of(
    cls, split: prepared.Split, teachers: Sequence[str], top_k: int
  ) -> Plan:
    """Plans a table of all clips of a split.

    Raises:
      UserError: If the ids of the clips, or their classes, are not known.
    """
    ids = whole_ids(split)
    return cls(
      tuple(teachers),
      _sha256(ids),
      _sha256(_mids(split.classes)),
      len(ids),
      len(split.classes),
      top_k,
      PART_CLIPS,
    )

  @property
  def parts(self) -> list[tuple[int, int]]:
    """Returns the first clip of each part and the one after its last."""
    begins = range(0, self.num_clips, self.part_clips)
    return [(i, min(i + self.part_clips, self.num_clips)) for i in begins]

  def file(self, number: int) -> str:
    """Returns the name of a part."""
    text = json.dumps(dataclasses.asdict(self), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{digest}-{number:05}-of-{len(self.parts):05}.npz"


def whole_ids(split: prepared.Split) -> np.ndarray:
  """Returns bytes [num_clips], the ids of all clips of a split, not of a part.

  Raises:
    UserError: If they are not known.
  """
  if not split.clips_file or split.classes is None:
    raise UserError(
      f"{split.files[0]}: a teacher's scores are found by the ids and the "
      "class list of the clips, which this data does not have: prepare it "
      "again with tools/make_tfrecords.py."
    )
  return prepared.ClipTable.read(split.clips_file).id


def write_part(
  folder: str, plan: Plan, number: int, scores: np.ndarray
) -> None:
  """Writes a part at one stroke.

  Args:
    folder: Of the table.
    plan: Of the table.
    number: Of the part, from 0.
    scores: float [n, num_classes] in [0, 1]; nan in the rows of clips that the
      teachers did not score.
  """
  known = np.clip(scores.astype(np.float64), _LEAST_SCORE, 1 - _LEAST_SCORE)
  arrays = _packed(known, plan.top_k)
  content = io.BytesIO()
  np.savez(content, **arrays)
  storage.write_file(
    os.path.join(folder, plan.file(number)), content.getvalue()
  )


def is_part_whole(folder: str, plan: Plan, number: int) -> bool:
  """Returns whether an earlier start has written a part."""
  first, end = plan.parts[number]
  try:
    arrays = _read_part(os.path.join(folder, plan.file(number)))
  except UserError:
    return False
  return all(len(array) == end - first for array in arrays.values())


def write_info(folder: str, plan: Plan, names: Sequence[str]) -> float:
  """Writes teacher.json, once all parts are there; returns the coverage.

  Args:
    folder: Of the table.
    plan: Of the table.
    names: Of the teachers, for people.
  """
  paths = [os.path.join(folder, plan.file(i)) for i in range(len(plan.parts))]
  num_known = sum(int(_is_known(_read_part(path)).sum()) for path in paths)
  content = {
    "format_version": _FORMAT_VERSION,
    **dataclasses.asdict(plan),
    "names": list(names),
    "coverage": num_known / plan.num_clips,
    "num_bytes": [tf.io.gfile.stat(path).length for path in paths],
  }
  storage.write_json(os.path.join(folder, INFO_FILE), content)
  return content["coverage"]


def read_info(folder: str) -> tuple[Plan, dict] | None:
  """Reads teacher.json; None where there is none.

  Raises:
    UserError: If it is not of this format.
  """
  path = os.path.join(folder, INFO_FILE)
  if not tf.io.gfile.exists(path):
    return None
  try:
    with tf.io.gfile.GFile(path) as file:
      content = json.load(file)
    if content["format_version"] != _FORMAT_VERSION:
      raise ValueError("another format version")
    names = [field.name for field in dataclasses.fields(Plan)]
    plan = Plan(**{name: content[name] for name in names})
    plan = dataclasses.replace(plan, teachers=tuple(plan.teachers))
    if len(content["num_bytes"]) != len(plan.parts):
      raise ValueError("another number of parts")
  except (ValueError, KeyError, TypeError, AttributeError) as e:
    raise UserError(
      f"{path}: not the description of a table of scores that this version can "
      f"read ({e!r}): write it again with tools/teach.py."
    ) from e
  return plan, content


class Teacher:
  """A table in memory, for the clips of a split or of a part of one.

  Attributes:
    digest: SHA-256, hexadecimal, of whose scores of which clips these are.
    about: A line on it.
    num_bytes: Memory that it takes.
  """

  def __init__(self, folder: str, split: prepared.Split):
    """Reads a table.

    Args:
      folder: What tools/teach.py wrote, on a disk or in a bucket.
      split: What is trained on.

    Raises:
      UserError: If the table is missing, broken, of other clips or classes, or
        has less than `MIN_COVERAGE` of the clips.
    """
    found = read_info(folder)
    if found is None:
      raise UserError(
        f"Pipeline.teacher: {folder} is no table of scores, as it has no "
        f"{INFO_FILE}: tools/teach.py makes one, and writes that last."
      )
    plan, content = found
    _check(folder, plan, split)
    arrays = _read_parts(folder, plan, content["num_bytes"])
    if split.rows is not None:
      arrays = {name: array[split.rows] for name, array in arrays.items()}
    known = _is_known(arrays)
    share = known.mean()
    if share < MIN_COVERAGE:
      raise UserError(
        f"{folder}: {known.sum()} of the {len(known)} training clips, "
        f"{share:.1%}, have a teacher's scores; at least {MIN_COVERAGE:.0%} "
        "are needed: score them all with tools/teach.py."
      )
    text = json.dumps(dataclasses.asdict(plan), sort_keys=True)
    self.digest = hashlib.sha256(text.encode()).hexdigest()
    self.num_bytes = sum(array.nbytes for array in arrays.values())
    kept = f"best {plan.top_k}" if plan.top_k else "all"
    self.about = (
      f"teacher: {', '.join(content['names'])}; {known.sum()} of {len(known)} "
      f"training clips have scores, {kept} of {plan.num_classes} classes, "
      f"{self.num_bytes / 1e6:.0f} MB"
    )
    self._num_classes = plan.num_classes
    self._arrays = {name: tf.constant(array) for name, array in arrays.items()}

  def mixed(
    self, targets: tf.Tensor, clips: tf.Tensor, weight: float
  ) -> tf.Tensor:
    """Mixes the labels of clips with their scores.

    Args:
      targets: float32 [batch, num_classes].
      clips: int64 [batch], their numbers in the split.
      weight: Of the scores.

    Returns:
      float32 [batch, num_classes]; the labels of clips without scores stay.
    """
    rows = {name: tf.gather(x, clips) for name, x in self._arrays.items()}
    logits = tf.cast(rows["logits"], tf.float32)
    is_known = ~tf.math.is_nan(logits[:, :1])
    if "classes" in rows:
      logits = self._spread(rows)
    weight = tf.where(is_known, weight, 0.0)
    scores = tf.where(is_known, tf.sigmoid(logits), 0.0)
    return (1 - weight) * targets + weight * scores

  def _spread(self, rows):
    """Logits of all classes, from those of the best and of the others."""
    classes = tf.cast(rows["classes"], tf.int64)
    numbers = tf.broadcast_to(
      tf.range(tf.shape(classes, tf.int64)[0])[:, tf.newaxis],
      tf.shape(classes),
    )
    others = tf.tile(rows["others"][:, tf.newaxis], [1, self._num_classes])
    spread = tf.tensor_scatter_nd_update(
      others, tf.stack([numbers, classes], axis=-1), rows["logits"]
    )
    return tf.cast(spread, tf.float32)


def _check(folder: str, plan: Plan, split: prepared.Split) -> None:
  """Refuses a table of other clips or classes."""
  if plan.classes_sha256 != _sha256(_mids(split.classes)):
    raise UserError(
      f"{folder}: the scores are for other classes ({plan.num_classes}) than "
      f"those of the data ({len(split.classes)}), or in another order: score "
      "these clips with tools/teach.py."
    )
  ids = whole_ids(split)
  if (plan.num_clips, plan.ids_sha256) != (len(ids), _sha256(ids)):
    raise UserError(
      f"{folder}: the scores are of other clips ({plan.num_clips}) than "
      f"those of the split ({len(ids)}), or in another order, as after a new "
      "preparation: score these clips with tools/teach.py."
    )


def _read_parts(folder, plan, num_bytes) -> dict[str, np.ndarray]:
  paths = [os.path.join(folder, plan.file(i)) for i in range(len(num_bytes))]

  def read(path, expected):
    if not tf.io.gfile.exists(path):
      raise UserError(
        f"{path}: this part of the table is missing: copy the whole folder, or "
        "write it again with tools/teach.py."
      )
    found = tf.io.gfile.stat(path).length
    if found != expected:
      raise UserError(
        f"{path}: {found} bytes, where {INFO_FILE} says {expected}: a broken "
        "copy: copy the whole folder, or write it again with tools/teach.py."
      )
    return _read_part(path)

  with futures.ThreadPoolExecutor(_PARALLEL_READS) as pool:
    parts = list(pool.map(read, paths, num_bytes))
  return {
    name: np.concatenate([part[name] for part in parts]) for name in parts[0]
  }


def _read_part(path: str) -> dict[str, np.ndarray]:
  try:
    with tf.io.gfile.GFile(path, "rb") as file:
      return dict(np.load(io.BytesIO(file.read())))  # It checks CRCs.
  except (
    tf.errors.OpError,
    OSError,
    ValueError,
    EOFError,
    zipfile.BadZipFile,
  ) as e:
    raise UserError(
      f"{path}: which belongs to the table of scores, is missing or broken: "
      "write it again with tools/teach.py."
    ) from e


def _packed(scores: np.ndarray, top_k: int) -> dict[str, np.ndarray]:
  """Returns the arrays of a part, for scores between 0 and 1, or nan."""
  if not top_k:
    return {"logits": _logit(scores)}
  order = np.argsort(-scores, axis=1, kind="stable")
  best, others = order[:, :top_k], order[:, top_k:]
  return {
    "classes": best.astype(np.min_scalar_type(scores.shape[1])),
    "logits": _logit(np.take_along_axis(scores, best, axis=1)),
    "others": _logit(np.take_along_axis(scores, others, axis=1).mean(axis=1)),
  }


def _logit(scores: np.ndarray) -> np.ndarray:
  return (np.log(scores) - np.log1p(-scores)).astype(np.float16)


def _is_known(arrays: dict[str, np.ndarray]) -> np.ndarray:
  return ~np.isnan(arrays["logits"][:, 0])


def _mids(classes: labels.ClassList) -> list[bytes]:
  return [mid.encode() for mid in classes.mids]


def _sha256(words: Sequence[bytes]) -> str:
  return hashlib.sha256(b"\n".join(words)).hexdigest()
