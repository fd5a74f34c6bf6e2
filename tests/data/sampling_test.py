# SPDX-License-Identifier: Apache-2.0
"""Balanced sampling: frequencies, repeats, and what it is not given."""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tests import toy
from tf_audioset.data import labels, prepared, sampling
from tf_audioset.data import pipeline as pipeline_lib

_NUM_CLIPS = 60_000
_NUM_CLASSES = 40


@dataclasses.dataclass(frozen=True)
class _Split:
  """As much of `prepared.Split` as a sampler asks for."""

  table: prepared.ClipTable | None
  num_classes: int = _NUM_CLASSES
  files: tuple = ("shard",)
  index: object = True

  @property
  def classes(self):
    names = [f"class {i}" for i in range(self.num_classes)]
    return labels.ClassList.from_names(names)

  def clips(self):
    return self.table


def _table(has: np.ndarray) -> prepared.ClipTable:
  """The table of clips, given bool [num_clips, num_classes]."""
  rows, classes = np.nonzero(has)
  nothing = np.zeros(len(has))
  return prepared.ClipTable(
    np.array([b"%d" % i for i in range(len(has))]),
    nothing.astype(np.int32),
    classes.astype(np.int32),
    np.cumsum(np.bincount(rows, minlength=len(has))),
    nothing.astype(np.uint64),
  )


@functools.cache
def _labels() -> np.ndarray:
  """Bool [num_clips, num_classes]: 20 to 20,000 clips a class, some several."""
  rng = np.random.default_rng(0)
  has = np.zeros([_NUM_CLIPS, _NUM_CLASSES], bool)
  for k, count in enumerate(np.geomspace(20, 20_000, _NUM_CLASSES)):
    has[rng.choice(_NUM_CLIPS, int(count), replace=False), k] = True
  return has


def _draw(split, num_draws, seed=1, first=0, **parameters):
  """Draws, in larger groups than a pipeline, which is faster."""
  order = sampling.BalancedSampler(**parameters).order(split, seed=seed)
  clips = (
    tf.data.Dataset.range(first, first + num_draws).batch(1 << 14).map(order)
  )
  return np.concatenate([*clips.as_numpy_iterator()])


def _expected(has, offset, exponent, share):
  """float64 [num_clips]: each clip's share by the sum over its classes."""
  counts = has.sum(0)
  weights = has @ (counts + float(offset)) ** -exponent
  return share * weights / weights.sum() + (1 - share) / len(has)


@functools.cache
def _a_million_draws() -> np.ndarray:
  return _draw(_Split(_table(_labels())), 1_000_000)


def _assert_frequencies(drawn, expected, tolerance):
  """Compares draws with the share of each clip, float64 [num_clips]."""
  has = _labels()
  actual = np.bincount(drawn, minlength=_NUM_CLIPS)
  expected = len(drawn) * expected
  # Of the classes, whose draws are rounded to whole ones in a cycle.
  per_class = (has.T @ actual) / (has.T @ expected)
  np.testing.assert_allclose(per_class, 1, atol=tolerance)
  # Independent draws would have a variance of 1 in these units.
  residuals = (actual - expected) / np.sqrt(np.maximum(expected, 1))
  assert np.mean(residuals**2) < 0.7


def test_a_million_draws_have_the_frequencies_of_the_formula():
  expected = _expected(_labels(), 100, 1, 1)
  _assert_frequencies(_a_million_draws(), expected, 0.01)


@pytest.mark.parametrize(
  ("offset", "exponent", "share"),
  [(0.01, 1, 1), (100, 2 / 3, 1), (100, 1, 0.5), (0, 0, 1)],
)
def test_other_settings_have_the_frequencies_of_the_formula(
  offset, exponent, share
):
  drawn = _draw(
    _Split(_table(_labels())),
    sampling.CYCLE,
    offset=offset,
    exponent=exponent,
    share=share,
  )
  expected = _expected(_labels(), offset, exponent, share)
  _assert_frequencies(drawn, expected, 0.05)


def test_the_clips_of_the_rarest_class_are_repeated_alike():
  has = _labels()
  actual = np.bincount(_a_million_draws(), minlength=_NUM_CLIPS)
  only = has[:, 0] & (has.sum(1) == 1)
  assert only.sum() >= 3
  counts = has.sum(0)
  share = counts[0] / (counts[0] + 100) / (counts / (counts + 100)).sum()
  repeats = 1_000_000 * share / counts[0]
  assert np.abs(actual[only] - repeats).max() < 1 + 0.01 * repeats


def test_each_clip_of_a_class_comes_once_in_each_round_of_the_class():
  # One label a clip: a clip tells which class was drawn.
  has = np.zeros([403, 3], bool)
  has[:3, 0] = has[3:103, 1] = has[103:, 2] = True
  drawn = _draw(_Split(_table(has), 3), 300_000)  # More than a cycle.
  orders = []
  for k, count in enumerate(has.sum(0)):
    clips = np.flatnonzero(has[:, k])
    sequence = drawn[np.isin(drawn, clips)]
    rounds = sequence[: len(sequence) // count * count].reshape(-1, count)
    assert len(rounds) > 300
    np.testing.assert_array_equal(
      np.sort(rounds, axis=1), np.tile(clips, [len(rounds), 1])
    )
    orders.append(rounds - clips[0])
  # Rounds are in orders of their own: of 3 clips all 6 come as often.
  _, times = np.unique(orders[0], axis=0, return_counts=True)
  assert len(times) == 6
  assert stats.chisquare(times).pvalue > 1e-3
  for rounds in orders[1:]:
    ranks = [stats.spearmanr(*rounds[i : i + 2])[0] for i in range(300)]
    deviation = 1 / np.sqrt(rounds.shape[1] - 1)
    assert np.std(ranks) == pytest.approx(deviation, rel=0.2)
    assert abs(np.mean(ranks)) < 4 * deviation / np.sqrt(300)


def test_classes_are_spread_evenly():
  has = np.zeros([403, 3], bool)
  has[:3, 0] = has[3:103, 1] = has[103:, 2] = True
  drawn = _draw(_Split(_table(has), 3), 30_000, offset=0)
  for members in (drawn < 3, (3 <= drawn) & (drawn < 103), drawn >= 103):
    in_windows = members.reshape(-1, 300).sum(1)
    # 8 is the deviation of independent draws.
    assert np.abs(in_windows - 100).max() <= 2


def test_any_position_is_found_without_those_before():
  split = _Split(_table(_labels()))
  whole = _draw(split, 2000, share=0.7)
  np.testing.assert_array_equal(
    _draw(split, 500, first=1500, share=0.7), whole[1500:]
  )
  far = _draw(split, 640, first=1 << 40)
  assert 0 <= far.min() and far.max() < _NUM_CLIPS
  assert (_draw(split, 2000, seed=2, share=0.7) != whole).any()


def test_without_a_balanced_share_an_epoch_is_every_clip_once():
  drawn = _draw(_Split(_table(_labels())), _NUM_CLIPS, share=0)
  np.testing.assert_array_equal(np.sort(drawn), np.arange(_NUM_CLIPS))


def test_a_class_without_clips_and_clips_without_a_class_are_told():
  has = np.zeros([10, 4], bool)
  has[:4, 0] = has[4:6, 2] = True
  split = _Split(_table(has), 4)
  assert set(_draw(split, 1000)) == set(range(6))
  lines = sampling.BalancedSampler().remarks(split)
  assert lines[1:] == [
    "balanced sampling: 2 of 4 classes have no training clip and are left "
    "out: class 1, class 3",
    "warning: balanced sampling never draws 4 training clips, which have no "
    "label: BalancedSampler.share below 1 does",
  ]
  assert len(sampling.BalancedSampler(share=0.9).remarks(split)) == 2
  assert set(_draw(split, 1000, share=0.9)) == set(range(10))
  # c / (c + 100) is 4 / 104 and 2 / 102: drawn in 1.96 to 1, for 4 and 2 clips.
  assert "rarest classes come once in 6 draws" in lines[0]


@pytest.mark.parametrize(
  ("split", "message"),
  [
    (_Split(None), "shard: BalancedSampler needs the labels of all clips"),
    (
      dataclasses.replace(_Split(_table(np.ones([2, 1], bool))), index=None),
      "needs the labels",
    ),
    (_Split(_table(np.zeros([3, 1], bool))), "no clip of this split has a"),
  ],
)
def test_what_cannot_be_balanced_is_refused(split, message):
  with pytest.raises(ValueError, match=message):
    sampling.BalancedSampler().order(split, seed=0)


@pytest.mark.parametrize(
  ("parameters", "message"),
  [
    ({"offset": -1}, "BalancedSampler.offset is -1"),
    ({"exponent": -0.5}, "BalancedSampler.exponent is -0.5"),
    ({"exponent": float("nan")}, "BalancedSampler.exponent is nan"),
    ({"share": 1.5}, "BalancedSampler.share is 1.5"),
    ({"share": -0.1}, "BalancedSampler.share is -0.1"),
  ],
)
def test_bad_values_are_refused(parameters, message):
  with pytest.raises(ValueError, match=message):
    sampling.BalancedSampler(**parameters)


@pytest.mark.parametrize("num_slots", [5, 17, 1000])
def test_slots_follow_the_largest_remainders(num_slots):
  shares = np.array([0.5, 0.3, 0.1999, 0.0001, 0])
  slots = sampling._apportion(shares, num_slots)
  assert slots.sum() == num_slots
  assert (slots[:-1] >= 1).all() and slots[-1] == 0
  assert np.abs(slots - shares * num_slots).max() <= 1.5


def _batches(split, first_step=0, num_steps=6, context=None, **parameters):
  batches = pipeline_lib.Pipeline(
    crop_seconds=0.2, sampler=sampling.BalancedSampler(offset=0), **parameters
  ).training(
    split,
    num_classes=3,
    batch_size=8,
    seed=1,
    first_step=first_step,
    context=context,
  )
  return list(batches.take(num_steps).as_numpy_iterator())


@pytest.fixture(name="split", scope="module")
def _split(tmp_path_factory):
  folder = tmp_path_factory.mktemp("sampling")
  toy.write_dataset(folder, num_samples=4000, broken="train7")
  return prepared.find_split(str(folder), "train")


def test_the_stream_resumes_and_is_shared_by_hosts(split):
  whole = _batches(split, max_bad_records=9)
  rest = _batches(split, first_step=4, num_steps=2, max_bad_records=9)
  for one, other in zip(whole[4:], rest):
    for a, b in zip(one, other):
      np.testing.assert_array_equal(a, b)
  hosts = [
    _batches(
      split, context=tf.distribute.InputContext(2, i, 2), max_bad_records=9
    )
    for i in range(2)
  ]
  for step in (1, 2):
    together = np.concatenate([host[step][0] for host in hosts])
    assert together.shape == (8, 3200)
    if not whole[step][2]:  # Where no clip was replaced by a neighbour.
      assert {w.tobytes() for w in together} == {
        w.tobytes() for w in whole[step][0]
      }


def test_the_ids_of_a_step_are_those_that_are_drawn(split):
  pipeline = pipeline_lib.Pipeline(sampler=sampling.BalancedSampler())
  ids = pipeline.training_ids(split, batch_size=8, seed=1, step=3)
  order = sampling.BalancedSampler().order(split, seed=1)
  clips = order(tf.range(24, 32, dtype=tf.int64)).numpy()
  assert ids == [split.clips().id[i].decode() for i in clips]


def test_bad_records_are_replaced_and_counted_each_time(split):
  batches = _batches(split, num_steps=20, max_bad_records=1)
  pipeline = pipeline_lib.Pipeline(sampler=sampling.BalancedSampler(offset=0))
  ids = pipeline.training_ids(split, batch_size=160, seed=1, step=0)
  expected = [ids[8 * i :][:8].count("train7") for i in range(20)]
  assert [num_bad for *_, num_bad in batches] == expected
  assert sum(expected) > 1


def test_a_part_of_a_split_is_balanced_by_its_own_clips(split):
  part = split.part(30, 100)
  order = sampling.BalancedSampler(offset=0).order(part, seed=1)
  clips = order(tf.range(3000, dtype=tf.int64)).numpy()
  assert clips.max() < part.num_clips < split.num_clips
  table = part.clips()
  has = np.zeros([part.num_clips, 3])
  for row in range(part.num_clips):
    has[row, table.labels_of(row)] = 1
  expected = _expected(has, 0, 1, 1)
  actual = np.bincount(clips, minlength=len(has)) / 3000
  np.testing.assert_allclose(actual, expected, atol=2e-3)
