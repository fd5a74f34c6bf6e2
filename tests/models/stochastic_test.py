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


def test_drop_path_drops_whole_examples():
  x = tf.ones([4000, 3, 2, 2])
  out = stochastic.drop_path(x, 0.25, _SEED, layer=1).numpy()
  by_example = out.reshape(4000, -1)
  assert (by_example == by_example[:, :1]).all()
  assert np.mean(by_example[:, 0] > 0) == pytest.approx(0.75, abs=0.03)
  assert by_example.max() == pytest.approx(1 / 0.75)
  other = stochastic.drop_path(x, 0.25, _SEED, layer=2).numpy()
  agreement = np.mean((other[:, 0, 0, 0] > 0) == (by_example[:, 0] > 0))
  # Independent layers agree with probability 0.75**2 + 0.25**2.
  assert agreement == pytest.approx(0.625, abs=0.03)


def test_rate_zero_changes_nothing_and_needs_no_seed():
  x = tf.random.stateless_normal([3, 4], _SEED)
  np.testing.assert_array_equal(stochastic.dropout(x, 0.0, None), x)
  np.testing.assert_array_equal(stochastic.drop_path(x, 0.0, None, 0), x)
