# SPDX-License-Identifier: Apache-2.0
"""Which threshold counts, of those that a model, a file and flags have."""

import numpy as np
import pytest

from tf_audioset.data import labels
from tf_audioset.runtime.errors import UserError
from tf_audioset.serving import thresholds

_CLASSES = labels.ClassList(
  mids=("/m/1", "/m/2", "/m/3"), names=("Dog", "Cat, wild", "Bell")
)
_OWN = np.array([0.25, np.nan, 0.75])


def _file(tmp_path, *lines):
  path = tmp_path / "limits.csv"
  path.write_text("\n".join(lines))
  return str(path)


@pytest.mark.parametrize(
  ("own", "given", "on", "off"),
  [
    (None, {}, [0.5] * 3, [0.5] * 3),
    (_OWN, {}, [0.25, 0.5, 0.75], [0.25, 0.5, 0.75]),
    (_OWN, {"off": 0.4}, [0.25, 0.5, 0.75], [0.25, 0.4, 0.4]),
    (_OWN, {"on": 0.3}, [0.3] * 3, [0.3] * 3),
    (_OWN, {"on": 0.3, "off": 0.1}, [0.3] * 3, [0.1] * 3),
  ],
)
def test_flags_come_before_the_models_own(own, given, on, off):
  got = thresholds.choose(_CLASSES, own, **given)
  np.testing.assert_array_equal(got, [on, off])


def test_a_file_comes_first_and_may_have_off_thresholds(tmp_path):
  path = _file(
    tmp_path,
    "name,off_threshold,threshold",
    '"Cat, wild",0.125,0.75',
    "/m/3,,0.5",
    "Dog,,",
  )
  got = thresholds.choose(_CLASSES, _OWN, csv=path, on=0.25, off=0.375)
  np.testing.assert_array_equal(got, [[0.25, 0.75, 0.5], [0.25, 0.125, 0.375]])


def test_with_a_threshold_for_the_others_a_file_may_leave_classes_out(tmp_path):
  path = _file(tmp_path, "label;threshold", "Dog;0.25")
  on, off = thresholds.choose(_CLASSES, _OWN, csv=path, on=0.75)
  np.testing.assert_array_equal(on, [0.25, 0.75, 0.75])
  np.testing.assert_array_equal(off, on)
  with pytest.raises(UserError, match="no threshold of class /m/2"):
    thresholds.choose(_CLASSES, _OWN, csv=path)


@pytest.mark.parametrize(
  ("lines", "message"),
  [
    (["name,threshold", "Dgo,0.5"], "line 2: the model has no class 'Dgo'"),
    (["name,threshold", "Dog,1", "/m/1,1"], "line 3: .* is in line 2, too"),
    (["name,threshold", "Dog,high"], "threshold: could not convert"),
    (["name,threshold", "Dog,inf"], "threshold: inf is no score"),
    (
      ["name,threshold,off_threshold", "Dog,0.5,0.75"],
      "'Dog': off_threshold 0.75 is above its threshold, 0.5",
    ),
    ([""], "no threshold of class /m/1"),
  ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, lines, message):
  with pytest.raises(UserError, match=message):
    thresholds.choose(_CLASSES, None, csv=_file(tmp_path, *lines), on=0.5)


def test_an_event_cannot_end_above_where_it_begins():
  with pytest.raises(UserError, match="--off_threshold=0.6 is above"):
    thresholds.choose(_CLASSES, None, on=0.5, off=0.6)
