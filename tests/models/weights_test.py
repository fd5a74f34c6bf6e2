# SPDX-License-Identifier: Apache-2.0
"""Weights that are made once for a trace, and in each call otherwise."""

import numpy as np
import pytest
import tensorflow as tf

from tf_audioset.models import weights


def test_within_kept_they_are_made_once_and_stay():
  variable = tf.Variable([1.0, 1 / 3])
  calls = []

  def double():
    calls.append(None)
    return weights.ready(variable, lambda: 2 * variable)

  traced = tf.function(double)
  plain = tf.function(double).get_concrete_function()
  with weights.kept(double) as kept:
    constant = traced.get_concrete_function()
  assert [v.numpy().tolist() for v in kept] == [(2 * variable).numpy().tolist()]
  assert len(calls) == 3
  variable.assign([5, 6])
  np.testing.assert_array_equal(plain(), [10, 12])
  np.testing.assert_array_equal(double(), [10, 12])
  np.testing.assert_allclose(constant(), [2, 2 / 3])
  assert "Mul" not in {op.type for op in constant.graph.get_operations()}


def test_only_another_type_is_cast():
  variable = tf.Variable([1 / 3])
  with weights.kept(lambda: weights.cast(variable, tf.float32)) as kept:
    assert not kept
  with weights.kept(lambda: weights.cast(variable, tf.bfloat16)) as kept:
    assert [v.dtype for v in kept] == [tf.bfloat16]
    np.testing.assert_array_equal(
      weights.cast(variable, tf.bfloat16), tf.cast([1 / 3], tf.bfloat16)
    )


def test_after_an_error_nothing_is_kept():
  variable = tf.Variable(1.0)
  with pytest.raises(ZeroDivisionError):
    with weights.kept(lambda: 1 / 0):
      pass
  assert float(weights.ready(variable, lambda: variable + 1)) == 2
  variable.assign(2)
  assert float(weights.ready(variable, lambda: variable + 1)) == 3
