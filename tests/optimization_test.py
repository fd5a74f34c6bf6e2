# SPDX-License-Identifier: Apache-2.0
"""Schedule and AdamW against optax's values."""

import numpy as np
import pytest
import tensorflow as tf

from tests import reference
from tf_audioset import optimization


@pytest.fixture(name="golden")
def _golden():
  with np.load(reference.golden("optimizer.npz")) as file:
    return dict(file)


def test_schedule_equals_the_golden_values(golden):
  schedule = optimization.WarmupCosine(
    peak=4e-3, steps_per_epoch=872, num_epochs=50, warmup_epochs=10
  )
  actual = [
    schedule(tf.constant(step, tf.int64)).numpy()
    for step in golden["schedule_steps"]
  ]
  np.testing.assert_allclose(actual, golden["schedule_lr"], atol=1e-6 * 4e-3)


class _Table(tf.keras.optimizers.schedules.LearningRateSchedule):
  """The golden learning rates, looked up."""

  def __init__(self, values):
    self._values = tf.constant(values, tf.float32)

  def __call__(self, step):
    return self._values[tf.cast(step, tf.int32)]

  def get_config(self):
    return {}


@pytest.mark.parametrize("implementation", ["addons", "keras"])
def test_adamw_follows_the_golden_trajectory(golden, implementation):
  optimizer = optimization.adamw(
    _Table(golden["adamw_lr"]), weight_decay=0.05, implementation=implementation
  )
  kernel = tf.Variable(golden["adamw_kernel0"])
  bias = tf.Variable(golden["adamw_bias0"])
  optimization.create_slots(optimizer, [kernel, bias])
  for gradient, expected in zip(
    golden["adamw_grads"], golden["adamw_trajectory"]
  ):
    parts = [gradient[:12].reshape(4, 3), gradient[12:]]
    optimization.apply_summed_gradients(
      optimizer, [tf.constant(g) for g in parts], [kernel, bias]
    )
    actual = np.concatenate([kernel.numpy().ravel(), bias.numpy()])
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_the_learning_rate_scales_with_the_batch():
  assert optimization.scaled_learning_rate(5e-4, 2048) == pytest.approx(4e-3)


def test_a_warmup_as_long_as_the_run_is_refused():
  with pytest.raises(ValueError, match="warmup_epochs is 10"):
    optimization.WarmupCosine(1.0, 100, num_epochs=10, warmup_epochs=10)


def test_an_unknown_implementation_is_refused():
  with pytest.raises(ValueError, match="'lion'.*addons"):
    optimization.adamw(_Table([0.0]), 0.0, implementation="lion")
