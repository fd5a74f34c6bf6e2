# SPDX-License-Identifier: Apache-2.0
"""The draws are uniform, and the same with and without XLA."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from tf_audioset.runtime import randomness

_SEED = tf.constant([3, 4])


def test_uniform_is_uniform_on_the_half_open_interval():
  draws = randomness.uniform([50000], _SEED).numpy()
  assert 0 <= draws.min() and draws.max() < 1
  assert scipy.stats.kstest(draws, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_graph_and_xla_draw_what_eager_execution_draws(jit_compile):
  def draw():
    first, second = randomness.split(_SEED, 2)
    return tf.stack(
      [
        randomness.uniform([9], first),
        randomness.uniform([9], randomness.fold_in(second, 7)),
      ]
    )

  compiled = tf.function(draw, jit_compile=jit_compile)
  np.testing.assert_array_equal(compiled(), draw())


def test_split_and_folded_seeds_are_different_streams():
  seeds = randomness.split(_SEED, 3)
  seeds += [randomness.fold_in(_SEED, i) for i in range(3)] + [_SEED]
  draws = np.stack([randomness.uniform([2000], seed) for seed in seeds])
  correlation = np.corrcoef(draws) - np.eye(len(seeds))
  assert np.abs(correlation).max() < 0.1
