# SPDX-License-Identifier: Apache-2.0
"""The class list: index, mid, display name.

It travels with the records and with the exported model, so that a score can
never be read against another order.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import pathlib
from collections.abc import Sequence

import tensorflow as tf

from tf_audioset.runtime.errors import UserError

# sha256 of AudioSet's 527 mids in the order of its class_labels_indices.csv,
# joined by newlines. Five public projects share that file to the byte.
_AUDIOSET_SHA256 = (
  "fbd94e8a38594c56e778359b1bf3c59f4c669023df8780e7a234d87b93f6e463"
)
_AUDIOSET_SORTED_SHA256 = (
  "5c6649e023b14c4a0bda2fe820c2794ad7bdb0dbd02d5151dc0c56339b042c53"
)


@dataclasses.dataclass(frozen=True)
class ClassList:
  """The classes in the order of the model's outputs.

  Attributes:
    mids: Machine identifiers, "/m/09x0r"; one's own labels have their name.
    names: Display names, "Speech".
  """

  mids: tuple[str, ...]
  names: tuple[str, ...]

  def __post_init__(self):
    if not self.mids:
      raise UserError("the class list is empty.")
    repeated = {mid for mid in self.mids if self.mids.count(mid) > 1}
    if repeated:
      raise UserError(f"class {min(repeated)!r} is in the list twice.")
    if (
      _sha256(sorted(self.mids)) == _AUDIOSET_SORTED_SHA256
      and not self.is_audioset
    ):
      raise UserError(
        "the class list holds AudioSet's 527 classes in another order than its "
        "class_labels_indices.csv; use that file."
      )

  def __len__(self) -> int:
    return len(self.mids)

  @property
  def is_audioset(self) -> bool:
    """Whether these are AudioSet's 527 classes in the canonical order."""
    return _sha256(self.mids) == _AUDIOSET_SHA256

  def index(self) -> dict[str, int]:
    """Index by mid."""
    return {mid: i for i, mid in enumerate(self.mids)}

  @classmethod
  def from_csv(cls, path: str) -> ClassList:
    """Reads AudioSet's form: index,mid,display_name.

    Raises:
      UserError: If the file is missing or not of that form.
    """
    try:
      with tf.io.gfile.GFile(path, "rb") as file:
        text = file.read().decode("utf-8-sig")  # Excel's has a mark in front.
      rows = list(csv.reader(io.StringIO(text, newline="")))
    except (tf.errors.OpError, UnicodeDecodeError, csv.Error) as e:
      raise UserError(f"{path}: cannot read the class list: {e}") from e
    if not rows or rows[0] != ["index", "mid", "display_name"]:
      raise UserError(f"{path}: the first line must be index,mid,display_name.")
    for i, row in enumerate(rows[1:]):
      if len(row) != 3 or row[0] != str(i):
        raise UserError(
          f"{path}, line {i + 2}: expected {i},mid,name, found {','.join(row)}."
        )
    return cls(
      mids=tuple(row[1] for row in rows[1:]),
      names=tuple(row[2] for row in rows[1:]),
    )

  @classmethod
  def audioset(cls) -> ClassList:
    """AudioSet's 527 classes (Gemmeke et al., 2017; CC BY 4.0, Google)."""
    return cls.from_csv(
      str(pathlib.Path(__file__).parent / "audioset_classes.csv")
    )

  @classmethod
  def from_names(cls, names: Sequence[str]) -> ClassList:
    """Classes of one's own, whose mids are their names."""
    return cls(mids=tuple(names), names=tuple(names))

  def to_json(self) -> list[dict[str, int | str]]:
    """[{"index": 0, "mid": "/m/09x0r", "name": "Speech"}, ...]."""
    return [
      {"index": i, "mid": mid, "name": name}
      for i, (mid, name) in enumerate(zip(self.mids, self.names))
    ]

  @classmethod
  def from_json(cls, rows: Sequence[dict[str, int | str]]) -> ClassList:
    """The inverse of `to_json`."""
    return cls(
      mids=tuple(row["mid"] for row in rows),
      names=tuple(row["name"] for row in rows),
    )


def branches(path: str, classes: ClassList) -> dict[str, list[int]]:
  """The classes under each top class of an ontology.

  Args:
    path: A JSON file in the form of AudioSet's ontology.json: a list of
      {"id": mid, "name": ..., "child_ids": [mid, ...]}.
    classes: All must be in it.

  Returns:
    Indices of classes by the name of the branch, in the file's order. A class
    that is under two branches is in both.

  Raises:
    UserError: If the file is not of that form or a class is not in it.

  Reference: Gemmeke et al., Audio Set: An ontology and human-labeled dataset
  for audio events, 2017.
  """
  try:
    # Of bytes, json knows the encoding and takes off a mark in front.
    with tf.io.gfile.GFile(path, "rb") as file:
      nodes = {node["id"]: node for node in json.load(file)}
    children = {mid: set(node["child_ids"]) for mid, node in nodes.items()}
    below = set().union(*children.values())
    names = {mid: node["name"] for mid, node in nodes.items()}
  except tf.errors.OpError as e:
    raise UserError(f"{path}: cannot be read: {e.message}") from e
  except (ValueError, KeyError, TypeError) as e:
    raise UserError(
      f"{path}: not an ontology, a list of id, name and child_ids: {e!r}."
    ) from e
  unknown = [mid for mid in classes.mids if mid not in nodes]
  if unknown:
    raise UserError(
      f"{path}: {len(unknown)} of {len(classes)} classes are not in this "
      f"ontology, such as {unknown[0]!r}."
    )
  found = {}
  for top in children:
    if top not in below:
      members, open_ = {top}, [top]
      while open_:
        new = children.get(open_.pop(), set()) - members
        members |= new
        open_ += new
      found[names[top]] = [
        i for i, mid in enumerate(classes.mids) if mid in members
      ]
  return {name: indices for name, indices in found.items() if indices}


def _sha256(words: Sequence[str]) -> str:
  return hashlib.sha256("\n".join(words).encode()).hexdigest()
