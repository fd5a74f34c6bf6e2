# SPDX-License-Identifier: Apache-2.0
"""Classes that are chosen by name, by mid or as a branch."""

import json

import pytest

from tf_audioset.data import labels
from tf_audioset.runtime.errors import UserError
from tf_audioset.serving import chosen_classes

_CLASSES = labels.ClassList(
  mids=("/m/dog", "/m/cat", "/m/bell", "/m/own"),
  names=("Dog", "Cat, wild", "Bell", "Mine"),
)
_NODES = [
  ("/t/animals", "Animals", ["/m/pets", "/m/lion"]),
  ("/m/pets", "Pets, domestic", ["/m/dog", "/m/cat"]),
  ("/m/dog", "Dog", []),
  ("/m/cat", "Cat, wild", []),
  ("/m/lion", "Lion", []),
  ("/t/things", "Things", ["/m/bell"]),
  ("/m/bell", "Bell", []),
]


@pytest.fixture(name="ontology")
def _ontology(tmp_path):
  path = tmp_path / "ontology.json"
  keys = "id", "name", "child_ids"
  path.write_text(json.dumps([dict(zip(keys, node)) for node in _NODES]))
  return str(path)


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("Dog", [0]),
    ("Cat, wild,Dog", [0, 1]),
    (" /m/bell , Mine,Bell", [2, 3]),
  ],
)
def test_classes_go_by_name_or_mid(text, expected):
  assert chosen_classes.find(text, _CLASSES) == expected


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("Animals", [0, 1]),
    ("Pets, domestic,Mine", [0, 1, 3]),
    ("/t/things,Dog", [0, 2]),
  ],
)
def test_a_node_stands_for_all_below_it(text, expected, ontology):
  assert chosen_classes.find(text, _CLASSES, ontology) == expected


def test_what_is_no_class_is_told(ontology):
  with pytest.raises(UserError, match=r"'Animals' is no class; .* --ontology"):
    chosen_classes.find("Dog,Animals", _CLASSES)
  with pytest.raises(UserError, match="'Dgo' is no class; .* of the ontology"):
    chosen_classes.find("Dgo", _CLASSES, ontology)
  with pytest.raises(UserError, match="'Lion' has no class of this model"):
    chosen_classes.find("Lion", _CLASSES, ontology)
  with pytest.raises(UserError, match="',' is no class"):
    chosen_classes.find(",", _CLASSES)
