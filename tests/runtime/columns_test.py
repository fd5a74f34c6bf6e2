# SPDX-License-Identifier: Apache-2.0
"""Tables of letters that take two columns of a terminal, or none."""

import unicodedata

import pytest

from tf_audioset.runtime import columns


@pytest.mark.parametrize(
  ("text", "width"),
  [
    ("dog", 3),
    ("犬", 2),
    ("イヌ 1", 6),
    ("개", 2),
    (unicodedata.normalize("NFD", "é"), 1),
    ("é", 1),
    ("🐕", 2),
    ("", 0),
  ],
)
def test_width_is_that_of_a_terminal(text, width):
  assert columns.width(text) == width


def test_columns_are_below_one_another():
  rows = [["class", "clips"], ["犬の声", "12"], ["dog", "3"], ["e\u0301", "40"]]
  assert columns.columns(rows, num_left=1).splitlines() == [
    "class   clips",
    "犬の声     12",
    "dog         3",
    "e\u0301          40",
  ]
