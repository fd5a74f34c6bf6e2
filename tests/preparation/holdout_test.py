# SPDX-License-Identifier: Apache-2.0
"""Parts that share no group, with the classes' shares near to those wanted."""

import itertools

import numpy as np
import pytest

from tf_audioset.preparation import clip_lists, holdout
from tf_audioset.runtime.errors import UserError


def _clips(*ids):
  return [clip_lists.Clip(clip_id, clip_id, (0,)) for clip_id in ids]


@pytest.mark.parametrize(
  ("group_by", "expected"),
  [
    ("clip", ["a/x1@0-1", "a/x1@1-2", "b/y2@0-1"]),
    ("recording", ["a/x1", "a/x1", "b/y2"]),
    ("folder", ["a", "a", "b"]),
    (r"\d@", ["1@", "1@", "2@"]),
    (r"([a-z])\d@", ["x", "x", "y"]),
  ],
)
def test_clips_of_a_group_have_its_name(group_by, expected):
  clips = _clips("a/x1@0-1", "a/x1@1-2", "b/y2@0-1")
  assert holdout.groups(clips, group_by) == expected


def test_expressions_that_do_not_fit_are_refused():
  clips = _clips("a/x1", "b/y2")
  with pytest.raises(UserError, match="not found in 1 of 2 ids, such as b/y2"):
    holdout.groups(clips, "x")
  with pytest.raises(UserError, match="no regular expression: missing"):
    holdout.groups(clips, "(")


def _random(rng, num_groups, num_classes):
  keys, labels = [], []
  for group in range(num_groups):
    of_group = rng.choice(num_classes, rng.integers(1, 4))
    for _ in range(rng.integers(1, 15)):
      keys.append(f"g{group}")
      labels.append(tuple(set(rng.choice(of_group, rng.integers(1, 3)))))
  return keys, labels


@pytest.mark.parametrize("seed", range(10))
def test_no_group_is_divided_and_classes_keep_their_share(seed):
  rng = np.random.default_rng(seed)
  keys, labels = _random(rng, 200, 8)
  is_out = holdout.choose(keys, labels, 20)
  out = {key for key, x in zip(keys, is_out) if x}
  assert not out & {key for key, x in zip(keys, is_out) if not x}
  assert is_out.mean() == pytest.approx(0.2, abs=0.03)
  for index in range(8):
    share = np.mean([x for x, row in zip(is_out, labels) if index in row])
    assert share == pytest.approx(0.2, abs=0.06)
  order = rng.permutation(len(keys))
  again = holdout.choose(
    [keys[i] for i in order], [labels[i] for i in order], 20
  )
  np.testing.assert_array_equal(again, is_out[order])


def _error(side, counts, share):
  """How far the classes' shares are from that wanted."""
  return np.abs((side @ counts) / counts.sum(axis=0) - share).mean()


@pytest.mark.parametrize("seed", range(10))
def test_it_is_near_to_the_best_of_all_divisions(seed):
  rng = np.random.default_rng(100 + seed)
  keys, labels = _random(rng, 12, 3)
  names = sorted(set(keys))
  counts = np.zeros([len(names), 3])
  for key, row in zip(keys, labels):
    counts[names.index(key), list(row)] += 1
  counts = counts[:, counts.sum(axis=0) > 0]
  best = min(
    _error(np.array(side), counts, 0.3)
    for side in itertools.product((0, 1), repeat=len(names))
  )
  out = {k for k, x in zip(keys, holdout.choose(keys, labels, 30)) if x}
  got = _error(np.array([name in out for name in names]), counts, 0.3)
  assert got <= best + 0.15


def test_a_class_of_two_groups_is_in_both_parts():
  keys = ["a", "a", "b", *(f"c{i}" for i in range(30)), "d"]
  labels = [(0,)] * 3 + [(1,)] * 30 + [(2,)]
  is_out = holdout.choose(keys, labels, 10)
  assert list(is_out[:3]) == [False, False, True]
  assert is_out[3:-1].sum() == 3
  # Who has one only is needed for training.
  assert not is_out[-1]
  clips = [clip_lists.Clip(key, key, row) for key, row in zip(keys, labels)]
  assert holdout.one_sided(clips, is_out, "xyz") == ["z"]
