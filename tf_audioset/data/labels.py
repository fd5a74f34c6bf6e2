# SPDX-License-Identifier: Apache-2.0
"""The class list: index, mid, display name.

It travels with the records and with the exported model, so that a score can
never be read against another order.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import pathlib
import unicodedata
from collections.abc import Sequence

import tensorflow as tf

from tf_audioset.runtime import tables
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
    """Returns whether these are AudioSet's 527 classes in canonical order."""
    return _sha256(self.mids) == _AUDIOSET_SHA256

  def index(self) -> dict[str, int]:
    """Maps each mid to its index."""
    return {mid: i for i, mid in enumerate(self.mids)}

  @classmethod
  def from_csv(cls, path: str) -> ClassList:
    """Reads AudioSet's form: index,mid,display_name.

    Raises:
      UserError: If the file is missing or not of that form.
    """
    try:
      table = tables.read(path, is_right=_is_class_list_head)
    except ValueError as e:
      raise UserError(
        str(e).replace("cannot be read", "cannot read the class list", 1)
      ) from e
    if not table.rows or not _is_class_list_head(table.rows[0]):
      found = tables.shown(table.rows[0]) if table.rows else "nothing"
      raise UserError(
        f"{path}: the first line must be index,mid,display_name; found {found}."
      )
    for i, (line, row) in enumerate(zip(table.lines[1:], table.rows[1:])):
      if len(row) != 3 or row[0] != str(i):
        raise UserError(
          f"{path}, line {line}: expected {i},mid,name, found {','.join(row)}."
        )
    return cls(
      mids=tuple(row[1] for row in table.rows[1:]),
      names=tuple(row[2] for row in table.rows[1:]),
    )

  @classmethod
  def audioset(cls) -> ClassList:
    """Reads AudioSet's 527 classes (Gemmeke et al., 2017; CC BY 4.0)."""
    return cls.from_csv(
      str(pathlib.Path(__file__).parent / "audioset_classes.csv")
    )

  @classmethod
  def from_names(cls, names: Sequence[str]) -> ClassList:
    """Classes of one's own, whose mids are their names."""
    return cls(mids=tuple(names), names=tuple(names))

  def to_json(self) -> list[dict[str, int | str]]:
    """Returns [{"index": 0, "mid": "/m/09x0r", "name": "Speech"}, ...]."""
    return [
      {"index": i, "mid": mid, "name": name}
      for i, (mid, name) in enumerate(zip(self.mids, self.names))
    ]

  @classmethod
  def from_json(cls, rows: Sequence[dict[str, int | str]]) -> ClassList:
    """Inverts `to_json`."""
    return cls(
      mids=tuple(row["mid"] for row in rows),
      names=tuple(row["name"] for row in rows),
    )


class Lookup:
  """Finds the classes that a cell of a list names."""

  def __init__(self, classes: ClassList, delimiter: str = ","):
    """Makes a lookup.

    Args:
      classes: A class goes by its mid, and by its name if no other has that.
      delimiter: What stands between the labels of a cell.
    """
    self._delimiter = delimiter
    by_name = collections.defaultdict(list)
    for i, name in enumerate(classes.names):
      by_name[plain(name)].append(i)
    self._index = {
      name: indices[0] for name, indices in by_name.items() if len(indices) == 1
    }
    self._index.update((plain(mid), i) for i, mid in enumerate(classes.mids))
    # Labels may hold the delimiter: "Male speech, man speaking". Hardly any is
    # also a row of other labels.
    self._is_simple = not any(
      delimiter in text and all(x in self._index for x in text.split(delimiter))
      for text in self._index
    )
    self._num_parts = 1 + max(text.count(delimiter) for text in self._index)

  def find(self, cell: str) -> tuple[list[int], list[str]]:
    """Finds the labels of a cell.

    Spaces and quotes around them, and brackets around all, do not count.

    Args:
      cell: As it is in the list.

    Returns:
      Indices, each once, and the labels that are none, as they are written.
    """
    if self._is_simple:  # Most cells of millions are as they should be.
      indices = [*map(self._index.get, cell.split(self._delimiter))]
      if None not in indices:
        return list(dict.fromkeys(indices)), []
    whole = self._find_one(cell)
    if whole is not None:
      return [whole], []
    parts = split(cell, self._delimiter)
    known, unknown = {}, []
    while parts:
      for length in range(min(self._num_parts, len(parts)), 0, -1):
        found = self._find_one(self._delimiter.join(parts[:length]))
        if found is not None:
          known[found] = None
          break
      else:
        unknown.append(parts[0])
      parts = parts[length:]
    return list(known), unknown

  def _find_one(self, text: str) -> int | None:
    found = self._index.get(text)
    if found is None:
      found = self._index.get(plain(text))
    if found is None:
      found = self._index.get(plain(tables.unquoted(text)))
    return found


def from_map(path: str) -> ClassList:
  """Reads the classes of a dataset of one's own.

  Args:
    path: JSON: {label: index from 0}, {index: label}, [label, ...] or a
      dataset_info.json; or a table of index,label or index,label,mid with or
      without a first line that says so; or one label a line.

  Returns:
    The class list. A class without a mid has its label for it.

  Raises:
    UserError: If the file is not of one of these forms, or the indices are not
      0, 1, 2 ..., each once.
  """
  text = tables.read_text(path)
  try:
    if text.lstrip()[:1] in ("{", "[") or path.endswith(".json"):
      return _from_json_map(json.loads(text))
    table = tables.read(path, text=text, is_right=lambda row: len(row) > 1)
    return _from_table(table, text)
  except (ValueError, TypeError, AttributeError, KeyError) as e:
    raise UserError(f"{path}: not label -> index: {e}") from e


def _from_json_map(content) -> ClassList:
  if isinstance(content, dict) and "classes" in content:
    if isinstance(content["classes"], list):
      return ClassList.from_json(content["classes"])
  if isinstance(content, list):
    content = {label: i for i, label in enumerate(content)}
  elif content and all(isinstance(x, str) for x in content.values()):
    content = {label: int(i) for i, label in content.items()}
  names = sorted(content, key=content.get)
  indices = [content[name] for name in names]
  # 0.0 and false equal 0.
  if not all(type(i) is int for i in indices):
    raise UserError("the indices must be 0, 1, 2 ..., integers, each once")
  return _numbered(indices, [[name] for name in names])


# How columns of a class list are called.
_INDEX_COLUMNS = ("index", "idx", "id", "class_id", "label_id", "target")
_MID_COLUMNS = ("mid", "mids")
_NAME_COLUMNS = (
  "display_name",
  "name",
  "label",
  "labels",
  "class",
  "classes",
  "class_name",
  "category",
)


def _from_table(table: tables.Table, text: str) -> ClassList:
  if not table.rows:
    raise UserError("it is empty")
  heads = [tables.column_key(cell) for cell in table.rows[0]]
  known = (*_INDEX_COLUMNS, *_MID_COLUMNS, *_NAME_COLUMNS)
  has_head = all(head in known or not head for head in heads)
  rows = table.rows[has_head:]
  widths = {len(row) for row in rows}
  first_is_index = all(row[0].isdigit() for row in rows)
  last_is_index = all(row[-1].isdigit() for row in rows)
  if widths not in ({2}, {3}) or not (first_is_index or last_is_index):
    # Labels alone, which may hold what separates the cells of others.
    lines = [[tables.unquoted(x)] for x in text.split("\n") if x.strip()]
    return _numbered(range(len(lines[has_head:])), lines[has_head:])
  if first_is_index:
    return _numbered([int(row[0]) for row in rows], [row[1:] for row in rows])
  return _numbered([int(row[-1]) for row in rows], [row[:-1] for row in rows])


def _numbered(indices, rows) -> ClassList:
  """Returns the classes of rows of a label, or of a label and a mid."""
  order = sorted(range(len(indices)), key=indices.__getitem__)
  if [indices[i] for i in order] != list(range(len(indices))):
    raise UserError("the indices must be 0, 1, 2 ..., integers, each once")
  rows = [
    [unicodedata.normalize("NFC", x.strip()) for x in rows[i]] for i in order
  ]
  if all(len(row) == 2 and row[0].startswith("/") for row in rows):
    rows = [row[::-1] for row in rows]
  names = tuple(row[0] for row in rows)
  if "" in names:
    raise UserError(f"the label of index {names.index('')} is empty")
  return ClassList(mids=tuple(row[-1] for row in rows), names=names)


def _is_class_list_head(cells: Sequence[str]) -> bool:
  keys = [tables.column_key(cell) for cell in cells]
  return keys == ["index", "mid", "display_name"]


def split(cell: str, delimiter: str) -> list[str]:
  """Returns the labels of a cell as they are written, without empty ones.

  Quotes and brackets around all of them, as lists of Python have, do not count.
  """
  cell = tables.unquoted(cell)
  if cell[:1] == "[" and cell[-1:] == "]":
    cell = cell[1:-1]
  return [part for part in cell.split(delimiter) if tables.unquoted(part)]


def plain(text: str) -> str:
  """Returns what labels are compared by: composed (NFC), no spaces around."""
  return unicodedata.normalize("NFC", text.strip())


def branches(path: str, classes: ClassList) -> dict[str, list[int]]:
  """Returns the classes under each top class of an ontology.

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
  names, children = ontology(path)
  below = set().union(*children.values())
  unknown = [mid for mid in classes.mids if mid not in children]
  if unknown:
    raise UserError(
      f"{path}: {len(unknown)} of {len(classes)} classes are not in this "
      f"ontology, such as {unknown[0]!r}."
    )
  found = {}
  for top in children:
    if top not in below:
      members = under(top, children)
      found[names[top]] = [
        i for i, mid in enumerate(classes.mids) if mid in members
      ]
  return {name: indices for name, indices in found.items() if indices}


def ontology(path: str) -> tuple[dict[str, str], dict[str, set[str]]]:
  """Returns the names and the children of an ontology's nodes, by their mids.

  Raises:
    UserError: As `branches` does, if the file is not of that form.
  """
  try:
    # Of bytes, json knows the encoding and takes off a mark in front.
    with tf.io.gfile.GFile(path, "rb") as file:
      nodes = {node["id"]: node for node in json.load(file)}
    children = {mid: set(node["child_ids"]) for mid, node in nodes.items()}
    names = {mid: node["name"] for mid, node in nodes.items()}
  except tf.errors.OpError as e:
    raise UserError(f"{path}: cannot be read: {e.message}") from e
  except (ValueError, KeyError, TypeError) as e:
    raise UserError(
      f"{path}: not an ontology, a list of id, name and child_ids: {e!r}."
    ) from e
  return names, children


def under(top: str, children: dict[str, set[str]]) -> set[str]:
  """Returns a node of an ontology and all those below it."""
  members, open_ = {top}, [top]
  while open_:
    new = children.get(open_.pop(), set()) - members
    members |= new
    open_ += new
  return members


def _sha256(words: Sequence[str]) -> str:
  return hashlib.sha256("\n".join(words).encode()).hexdigest()
