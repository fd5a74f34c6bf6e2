# SPDX-License-Identifier: Apache-2.0
"""Reads the teacher scores that EfficientAT published.

They are two files: logits, an array of NumPy [num_rows, 527] in .npy form, and
a pickle of a dictionary from YouTube ids to rows.

Reference: Schmid et al., "Efficient Large-Scale Audio Tagging via
Transformer-to-CNN Knowledge Distillation", 2023.
"""

from __future__ import annotations

import io
import os
import pickle
import re
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf_audioset.runtime.errors import UserError

_ENDINGS = re.compile(r"\.(mp3|wav|flac|m4a|ogg|opus)$")
_ID_LENGTH = 11  # Of YouTube's.


class _PlainUnpickler(pickle.Unpickler):
  """Reads dictionaries, texts and numbers, and nothing that could run code."""

  def find_class(self, module, name):
    raise UserError(
      f"it asks for {module}.{name}. Only a dictionary of texts and whole "
      "numbers is read, as anything else could run code."
    )


class Logits:
  """The published logits, whose rows are found by the ids of clips."""

  def __init__(self, logits_npy: str, index_pkl: str):
    """Opens the files; a local array is mapped and not read.

    Raises:
      UserError: If a file is missing, broken or not of this form.
    """
    self._logits = _read_npy(logits_npy)
    if self._logits.ndim != 2 or self._logits.dtype.kind != "f":
      raise UserError(
        f"{logits_npy}: {self._logits.dtype} of shape {self._logits.shape}; "
        "wanted are logits, floats [num_rows, num_classes]."
      )
    self._rows = {}
    for name, row in _read_index(index_pkl).items():
      if not 0 <= row < len(self._logits):
        raise UserError(
          f"{index_pkl}: {name!r} has the row {row}, but {logits_npy} has "
          f"{len(self._logits)}: of another table, or cut off."
        )
      if self._rows.setdefault(plain_id(name), row) != row:
        raise UserError(f"{index_pkl}: {plain_id(name)!r} has two rows.")

  @property
  def num_classes(self) -> int:
    """Returns the number of classes."""
    return self._logits.shape[1]

  def scores(self, ids: Sequence[str]) -> np.ndarray:
    """Returns scores.

    Args:
      ids: Of clips, with or without YouTube's "Y" in front and an ending.

    Returns:
      float32 [len(ids), num_classes] in [0, 1]; nan where an id has no row.
    """
    found = [self._rows.get(plain_id(clip_id), -1) for clip_id in ids]
    scores = np.full([len(ids), self.num_classes], np.nan, np.float32)
    known = np.flatnonzero(np.array(found, int) >= 0)
    if len(known):
      logits = self._logits[[found[i] for i in known]].astype(np.float64)
      scores[known] = 1 / (1 + np.exp(-logits))
    return scores


def plain_id(name: str) -> str:
  """Returns the YouTube id in a clip's name; other names without an ending."""
  name = _ENDINGS.sub("", os.path.basename(name))
  if len(name) == _ID_LENGTH + 1 and name.startswith("Y"):
    return name[1:]
  return name


def _read_npy(path: str) -> np.ndarray:
  try:
    if "://" not in path:
      return np.load(path, mmap_mode="r", allow_pickle=False)
    with tf.io.gfile.GFile(path, "rb") as file:
      return np.load(io.BytesIO(file.read()), allow_pickle=False)
  except (tf.errors.OpError, OSError, ValueError, EOFError) as e:
    reason = " ".join(str(e).split())[:200]
    raise UserError(
      f"{path}: not a whole array in .npy form ({reason})."
    ) from e


def _read_index(path: str) -> dict[str, int]:
  try:
    with tf.io.gfile.GFile(path, "rb") as file:
      index = _PlainUnpickler(io.BytesIO(file.read())).load()
  except UserError as e:
    raise UserError(f"{path}: {e}") from e
  # A broken pickle raises exceptions of many families.
  except Exception as e:
    reason = " ".join(str(e).split())[:200]
    raise UserError(f"{path}: not a whole pickle ({reason}).") from e
  is_index = isinstance(index, dict) and all(
    isinstance(name, str) and isinstance(row, int)
    for name, row in index.items()
  )
  if not is_index:
    raise UserError(
      f"{path}: not a dictionary from ids to whole numbers, the rows."
    )
  return index
