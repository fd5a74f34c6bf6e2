# SPDX-License-Identifier: Apache-2.0
"""Dropout and stochastic depth: what is kept, how often, and how scaled."""

import numpy as np
import pytest
import tensorflow as tf

from tf_audioset.models import stochastic

_SEED = tf.constant([5, 6])


def test_dropout_keeps_the_right_share_and_the_mean():
  out = stochastic.dropout(tf.ones([1000, 100]), 0.4, _SEED).numpy()
  np.testing.assert_allclose(np.unique(out), [0, 1 / 0.6], rtol=1e-6)
  assert np.mean(out > 0) == pytest.approx(0.6, abs=0.01)
  assert np.abs(np.mean(out > 0, axis=1) - 0.6).max() > 0.05  # Not by row.


def test_stochastic_depth_drops_whole_examples_of_each_branch():
  x = tf.ones([4000, 3, 2, 2])
  drop = stochastic.depth([0.0, 0.25, 0.5], x, _SEED, training=True)
  kept = []
  for number, rate in ((1, 0.25), (2, 0.5)):
    out = drop(x, number).numpy()
    by_example = out.reshape(4000, -1)
    assert (by_example == by_example[:, :1]).all()
    assert np.mean(by_example[:, 0] > 0) == pytest.approx(1 - rate, abs=0.03)
    assert by_example.max() == pytest.approx(1 / (1 - rate))
    kept.append(by_example[:, 0] > 0)
  # The branches are independent, so that they agree on half of the examples.
  assert np.mean(kept[0] == kept[1]) == pytest.approx(0.5, abs=0.03)


def test_rate_zero_changes_nothing_and_needs_no_seed():
  x = tf.random.stateless_normal([3, 4], _SEED)
  np.testing.assert_array_equal(stochastic.dropout(x, 0.0, None), x)
  drop = stochastic.depth([0.0], x, None, training=True)
  np.testing.assert_array_equal(drop(x, 0), x)
  drop = stochastic.depth([0.0, 0.5], x, _SEED, training=True)
  np.testing.assert_array_equal(drop(x, 0), x)


def test_stochastic_depth_is_for_training_alone():
  x = tf.random.stateless_normal([3, 4], _SEED)
  drop = stochastic.depth([0.5], x, None, training=False)
  np.testing.assert_array_equal(drop(x, 0), x)
  with pytest.raises(ValueError, match="needs a seed"):
    stochastic.depth([0.5], x, None, training=True)
