# SPDX-License-Identifier: Apache-2.0
"""What would be lost is told before hours of work."""

import collections

import pytest

from tf_audioset.data import audio_files, labels
from tf_audioset.preparation import clip_lists

_CLASSES = labels.ClassList.from_names(["cat", "dog"])


def _clip_list(unknown=(), num_labels=0, problems=(), **kwargs):
  clips = [clip_lists.Clip("a", None, (0,), dict.fromkeys(problems, ""))]
  return clip_lists.ClipList(
    "list.csv",
    _CLASSES,
    clips,
    num_labels=num_labels,
    unknown_labels=collections.Counter(unknown),
    **kwargs,
  )


@pytest.mark.parametrize(
  ("num_labels", "limit", "is_refused"),
  [(100, 0.02, True), (100, 0.03, False), (3, 1.0, False), (3, 0.99, True)],
)
def test_more_than_a_share_of_unknown_labels_is_refused(
  num_labels, limit, is_refused
):
  found = _clip_list([" cats", " cats", "Dog"], num_labels)
  if not is_refused:
    found.check(limit)
    return
  with pytest.raises(ValueError) as error:
    found.check(limit)
  share = 100 * 3 / num_labels
  assert str(error.value) == (
    f"list.csv: 3 of {num_labels} labels ({share:.2f} %) are not in the class "
    "list, such as ' cats', 'Dog'; that has 'cat', 'dog' and so on. "
    f"--max_unknown_labels={limit:g} is the share that may be lost."
  )


def test_where_no_row_has_a_file_what_is_there_is_told():
  paths = {f"/in/x/{i} %.wav": clip_lists.NO_ROW for i in range(6)}
  found = _clip_list(problems=["missing"], folder="/in", passed_over=paths)
  with pytest.raises(ValueError) as error:
    found.check(0.0)
  assert str(error.value) == (
    "/in holds 6 audio files, such as x/0 %.wav; none is named for a row of "
    "list.csv, such as a."
  )
  texts = {"/in/a.txt": audio_files.NOT_AUDIO}
  found = _clip_list(problems=["missing"], folder="/in", passed_over=texts)
  with pytest.raises(ValueError, match=r"/in holds no .*passed over: 1 .txt"):
    found.check(0.0)
  with pytest.raises(
    ValueError, match="none of its 1 files is there.*audio_dir"
  ):
    _clip_list(problems=["missing"]).check(0.0)
  _clip_list(folder="/in", passed_over=paths).check(0.0)


def test_classes_are_told_with_their_counts():
  clips = [clip_lists.Clip(str(i), None, (i % 3,)) for i in range(5000)]
  few = labels.ClassList.from_names(["a", "b", "c", "d"])
  said = clip_lists.ClipList("", few, clips).class_counts()
  assert said == "4 classes: a 1,667, b 1,667, c 1,666, d 0"
  many = labels.ClassList.from_names([f"x{i}" for i in range(30)])
  said = clip_lists.ClipList("", many, clips).class_counts()
  assert said == (
    "30 classes: x0 1,667, x1 1,667, x2 1,666, and 27 more, 27 of them without "
    "a clip"
  )
