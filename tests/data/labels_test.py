# SPDX-License-Identifier: Apache-2.0
"""The class list and what is refused."""

import csv
import hashlib
import json
import pathlib

import pytest

from tests import reference
from tf_audioset.data import labels


def test_audiosets_list_is_recognised():
  path = reference.golden("class_labels_indices.csv")
  classes = labels.ClassList.from_csv(str(path))
  with open(path, newline="", encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
  assert len(classes) == 527
  assert classes.names == tuple(row["display_name"] for row in rows)
  assert classes.index()["/m/05zppz"] == 1
  assert classes.is_audioset
  assert labels.ClassList.from_json(classes.to_json()) == classes


def test_audiosets_classes_in_another_order_are_refused():
  path = reference.golden("class_labels_indices.csv")
  classes = labels.ClassList.from_csv(str(path))
  with pytest.raises(ValueError, match="another order"):
    labels.ClassList(classes.mids[::-1], classes.names[::-1])


def test_own_names_are_their_own_mids():
  classes = labels.ClassList.from_names(["Cat, purring", "Dog"])
  assert classes.mids == classes.names == ("Cat, purring", "Dog")
  assert not classes.is_audioset


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("mid,name\n", "first line must be"),
    ("index,mid,display_name\n", "empty"),
    ("index,mid,display_name\n1,/m/a,A\n", "line 2: expected 0"),
    ("index,mid,display_name\n0,/m/a,A\n1,/m/a,B\n", "'/m/a'.*twice"),
    ("index,mid,display_name\n0,/m/a,A,B\n", "line 2"),
    ("x" * 200_000, "classes.csv: cannot read the class list: field larger"),
  ],
)
def test_a_malformed_list_is_refused(tmp_path, text, message):
  path = tmp_path / "classes.csv"
  path.write_text(text)
  with pytest.raises(ValueError, match=message):
    labels.ClassList.from_csv(str(path))


def test_the_mark_that_excel_writes_in_front_is_no_letter(tmp_path):
  path = tmp_path / "classes.csv"
  path.write_bytes(b"\xef\xbb\xbfindex,mid,display_name\r\n0,/m/a,A\r\n")
  classes = labels.ClassList.from_csv(str(path))
  assert classes == labels.ClassList(("/m/a",), ("A",))
  path = tmp_path / "ontology.json"
  path.write_bytes(
    b'\xef\xbb\xbf[{"id": "/m/a", "name": "\xc3\x84", "child_ids": []}]'
  )
  assert labels.branches(str(path), classes) == {"\u00c4": [0]}


def test_a_missing_list_is_refused(tmp_path):
  with pytest.raises(ValueError, match="cannot read the class list"):
    labels.ClassList.from_csv(str(tmp_path / "none.csv"))


def test_the_shipped_list_is_audiosets_file_to_the_byte():
  path = pathlib.Path(labels.__file__).parent / "audioset_classes.csv"
  # As five public projects have it.
  assert hashlib.sha256(path.read_bytes()).hexdigest() == (
    "cdd1049833c4b86127c2773ac0d14a2754b6a6d0d1798002ed5c66e699708429"
  )
  assert labels.ClassList.audioset().is_audioset


@pytest.mark.parametrize(
  ("name", "text"),
  [
    ("map.json", '{"cat": 1, "dog, big": 0}'),
    ("map.json", '{" cat": 1, "dog, big ": 0}'),
    ("map.json", '["dog, big", "cat"]'),
    ("map.json", '{"0": "dog, big", "1": "cat"}'),
    ("map.txt", "dog, big\ncat\n"),
    ("map.txt", "\ufeffdog, big\r\n\r\ncat"),
    ("map.csv", "label\ndog, big\ncat\n"),
    ("map.csv", '0,"dog, big"\n1,cat\n'),
    ("map.csv", '1,cat\n0,"dog, big"\n'),
    ("map.csv", "index\tlabel\n0\tdog, big\n1\tcat\n"),
    ("map.csv", 'label,index\n"dog, big",0\ncat,1\n'),
    ("map.csv", "index;name\n0;dog, big\n1;cat\n"),
  ],
)
def test_classes_of_ones_own_come_in_many_forms(tmp_path, name, text):
  (tmp_path / name).write_text(text, newline="")
  classes = labels.from_map(str(tmp_path / name))
  assert classes == labels.ClassList.from_names(["dog, big", "cat"])


@pytest.mark.parametrize(
  "text",
  [
    "0,Electric_guitar,/m/02sgy\n1,Guitar,/m/0342h\n",  # FSD50K's.
    "index,name,mid\n0,Electric_guitar,/m/02sgy\n1,Guitar,/m/0342h\n",
    "index,mid,display_name\n0,/m/02sgy,Electric_guitar\n1,/m/0342h,Guitar\n",
    '{"classes": [{"index": 0, "mid": "/m/02sgy", "name": "Electric_guitar"}, '
    '{"index": 1, "mid": "/m/0342h", "name": "Guitar"}]}',
  ],
)
def test_classes_keep_their_mids(tmp_path, text):
  (tmp_path / "map").write_text(text)
  assert labels.from_map(str(tmp_path / "map")) == labels.ClassList(
    ("/m/02sgy", "/m/0342h"), ("Electric_guitar", "Guitar")
  )


def test_audiosets_own_list_is_one_of_the_forms():
  path = reference.golden("class_labels_indices.csv")
  assert labels.from_map(str(path)) == labels.ClassList.audioset()


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "it is empty"),
    ("1,dog\n2,cat\n", "must be 0, 1, 2"),
    ("0,dog\n0,cat\n", "must be 0, 1, 2"),
    ("dog\ncat\ndog\n", "class 'dog' is in the list twice"),
    ("0,dog\n1,\n", "the label of index 1 is empty"),
    ('0,"dog\n1,cat\n', "line 1: a quote is opened"),
    ('{"dog": "x"}', "invalid literal for int"),
    ("{", "Expecting property name"),
    ("[]", "the class list is empty"),
  ],
)
def test_what_gives_no_classes_is_refused(tmp_path, text, message):
  (tmp_path / "map").write_text(text)
  with pytest.raises(ValueError, match=f"map: not label -> index: .*{message}"):
    labels.from_map(str(tmp_path / "map"))


@pytest.mark.parametrize(
  ("cell", "known", "unknown"),
  [
    ("/m/a", [0], []),
    ("/m/b,/m/a", [1, 0], []),
    ("/m/a, /m/a ,'/m/a'", [0], []),
    ("Speech", [0], []),
    ("Male speech, man speaking", [1], []),
    ("Speech,Male speech, man speaking,Dog", [0, 1, 2], []),
    ("Male speech,Dog", [2], ["Male speech"]),
    ("Dog, dog", [2], [" dog"]),
    ("", [], []),
    (" , ", [], []),
    ('"Dog",', [2], []),
    ("['Dog', 'Speech']", [2, 0], []),
    # Two classes have this name: only their mids tell.
    ("Twin", [], ["Twin"]),
    ("/m/d,/m/e", [3, 4], []),
    ("[silence]", [5], []),
  ],
)
def test_a_cell_names_classes(cell, known, unknown):
  classes = labels.ClassList(
    ("/m/a", "/m/b", "/m/c", "/m/d", "/m/e", "/m/f"),
    ("Speech", "Male speech, man speaking", "Dog", "Twin", "Twin", "[silence]"),
  )
  assert labels.Lookup(classes).find(cell) == (known, unknown)


def _ontology(tmp_path, rows):
  path = tmp_path / "ontology.json"
  keys = ("id", "name", "child_ids")
  path.write_text(json.dumps([dict(zip(keys, row)) for row in rows]))
  return str(path)


def test_branches_are_what_is_under_the_top_classes(tmp_path):
  path = _ontology(
    tmp_path,
    [
      ("/a", "Animal", ["/d", "/w"]),
      ("/d", "Dog", ["/b", "/gone"]),
      ("/b", "Bark", []),
      ("/w", "Wild", []),
      ("/n", "Natural sounds", ["/w"]),
      ("/c", "Channel", ["/e"]),
      ("/e", "Echo", []),
    ],
  )
  classes = labels.ClassList(("/w", "/b", "/n"), ("Wild", "Bark", "Natural"))
  assert labels.branches(path, classes) == {
    "Animal": [0, 1],
    "Natural sounds": [0, 2],
  }
  own = labels.ClassList.from_names(["/w", "Hum"])
  with pytest.raises(ValueError, match="1 of 2 classes.*'Hum'"):
    labels.branches(path, own)


@pytest.mark.parametrize(
  "text",
  [
    "",
    "{}",
    "[1]",
    '[{"id": "/a"}]',
    '[{"id": "/a", "name": "A", "child_ids": null}]',
    '[{"id": "/a", "name": "A", "child_ids": [["/b"]]}]',
    b"\xff",
  ],
)
def test_what_is_no_ontology_is_refused(tmp_path, text):
  path = tmp_path / "ontology.json"
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  classes = labels.ClassList.from_names(["/a"])
  with pytest.raises(ValueError, match="not (an|in this) ontology"):
    labels.branches(str(path), classes)
  with pytest.raises(ValueError, match=r"none.json: cannot be read: .*No such"):
    labels.branches(str(tmp_path / "none.json"), classes)
