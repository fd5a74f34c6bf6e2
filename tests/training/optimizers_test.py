# SPDX-License-Identifier: Apache-2.0
"""Schedule and AdamW against optax's values."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tests import reference, toy
from tf_audioset.training import optimizers


@pytest.fixture(name="golden")
def _golden():
  with np.load(reference.golden("optimizer.npz")) as file:
    return dict(file)


def test_schedule_equals_the_golden_values(golden):
  schedule = optimizers.WarmupCosine(
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
  optimizer = optimizers.adamw(
    _Table(golden["adamw_lr"]), weight_decay=0.05, implementation=implementation
  )
  kernel = tf.Variable(golden["adamw_kernel0"])
  bias = tf.Variable(golden["adamw_bias0"])
  optimizers.create_slots(optimizer, [kernel, bias])
  for gradient, expected in zip(
    golden["adamw_grads"], golden["adamw_trajectory"]
  ):
    parts = [gradient[:12].reshape(4, 3), gradient[12:]]
    optimizers.apply_summed_gradients(
      optimizer, [tf.constant(g) for g in parts], [kernel, bias]
    )
    actual = np.concatenate([kernel.numpy().ravel(), bias.numpy()])
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def _optax_adam(gradients, epsilon):
  """Yields m_hat / (sqrt(v_hat) + epsilon) of each step, in float64."""
  m = v = np.zeros_like(gradients[0])
  for step, gradient in enumerate(gradients, start=1):
    m = 0.9 * m + 0.1 * gradient
    v = 0.999 * v + 0.001 * gradient**2
    m_hat, v_hat = m / (1 - 0.9**step), v / (1 - 0.999**step)
    yield m_hat / (np.sqrt(v_hat) + epsilon)


def _faint_gradients():
  """[steps, 9]: from 1e-3 to 1e-11, on both sides of epsilon."""
  rng = np.random.default_rng(0)
  return rng.normal(size=[30, 9]) * np.logspace(-3, -11, 9)


@pytest.mark.parametrize("implementation", ["addons", "keras"])
@pytest.mark.parametrize("epsilon", [1e-8, 1e-7])
def test_adamw_follows_optax_where_gradients_are_faint(implementation, epsilon):
  """Reference: optax.adamw: epsilon beside the corrected second moment."""
  rate, decay = 1e-3, 0.05
  optimizer = optimizers.adamw(
    _Table([rate] * 30), decay, epsilon=epsilon, implementation=implementation
  )
  gradients = _faint_gradients()
  expected = np.random.default_rng(1).normal(0, 0.01, 9)
  weights = tf.Variable(expected, dtype=tf.float32)
  optimizers.create_slots(optimizer, [weights])
  for gradient, direction in zip(gradients, _optax_adam(gradients, epsilon)):
    optimizers.apply_summed_gradients(
      optimizer, [tf.constant(gradient, tf.float32)], [weights]
    )
    expected = expected - rate * (direction + decay * expected)
    # In units of the learning rate.
    np.testing.assert_allclose(weights / rate, expected / rate, atol=2e-4)


def test_lamb_follows_optax_where_gradients_are_faint():
  """Reference: optax.lamb: the trust ratio is |weights| / |update|."""
  rate, decay, epsilon = 1e-3, 0.05, 1e-6
  optimizer = optimizers.lamb(_Table([rate] * 30), decay)
  gradients = _faint_gradients()
  expected = np.random.default_rng(1).normal(0, 0.01, 9)
  weights = tf.Variable(expected, dtype=tf.float32)
  optimizers.create_slots(optimizer, [weights])
  for gradient, direction in zip(gradients, _optax_adam(gradients, epsilon)):
    optimizers.apply_summed_gradients(
      optimizer, [tf.constant(gradient, tf.float32)], [weights]
    )
    update = direction + decay * expected
    ratio = np.linalg.norm(expected) / np.linalg.norm(update)
    expected = expected - rate * ratio * update
    np.testing.assert_allclose(weights, expected, rtol=1e-4, atol=1e-8)


def test_the_learning_rate_scales_with_the_batch():
  assert optimizers.scaled_learning_rate(5e-4, 2048) == pytest.approx(4e-3)


def test_a_warmup_as_long_as_the_run_is_refused():
  with pytest.raises(ValueError, match="warmup_epochs is 10"):
    optimizers.WarmupCosine(1.0, 100, num_epochs=10, warmup_epochs=10)


def test_an_unknown_implementation_is_refused():
  with pytest.raises(ValueError, match="'lion'.*addons"):
    optimizers.adamw(_Table([0.0]), 0.0, implementation="lion")


_STEPS = np.array([0, 1, 437, 871, 872, 5000, 8720, 8721, 17440, 30000, 43599])


def _rates(schedule):
  return [schedule(tf.constant(step, tf.int64)).numpy() for step in _STEPS]


@pytest.mark.parametrize(
  ("make", "of_keras"),
  [
    (
      lambda **kwargs: optimizers.WarmupConstant(**kwargs),
      lambda step: 4e-3,
    ),
    (
      lambda **kwargs: optimizers.WarmupExponential(
        **kwargs, decay_rate=0.9, decay_epochs=2.5
      ),
      tf.keras.optimizers.schedules.ExponentialDecay(4e-3, 872 * 2.5, 0.9),
    ),
    (
      lambda **kwargs: optimizers.WarmupStep(
        **kwargs, boundary_epochs=[20, 35], decay_rate=0.1
      ),
      # Keras counts a boundary itself to the piece before it.
      tf.keras.optimizers.schedules.PiecewiseConstantDecay(
        [10 * 872 - 1.0, 25 * 872 - 1.0], [4e-3, 4e-4, 4e-5]
      ),
    ),
    (
      lambda **kwargs: optimizers.WarmupCosine(**kwargs),
      tf.keras.optimizers.schedules.CosineDecay(4e-3, 40 * 872),
    ),
  ],
  ids=["constant", "exponential", "step", "cosine"],
)
def test_schedules_equal_keras_after_a_linear_warmup(make, of_keras):
  schedule = make(
    peak=4e-3, steps_per_epoch=872, num_epochs=50, warmup_epochs=10
  )
  expected = [
    4e-3 * step / 8720 if step < 8720 else float(of_keras(step - 8720.0))
    for step in _STEPS
  ]
  np.testing.assert_allclose(_rates(schedule), expected, rtol=1e-5)


def test_without_a_warmup_the_first_step_has_the_peak():
  schedule = optimizers.WarmupConstant(0.5, 10, 5, warmup_epochs=0)
  assert float(schedule(tf.constant(0, tf.int64))) == 0.5


_SHAPES = {"dense/kernel": [4, 3], "dense/bias": [3], "norm/gamma": [3]}


def _trajectory(make, strategy=None):
  """Three updates of a kernel, a bias and a scale: values by name."""
  rng = np.random.default_rng(0)
  start = {n: rng.normal(size=s) for n, s in _SHAPES.items()}
  gradients = [
    {n: rng.normal(size=s) for n, s in _SHAPES.items()} for _ in range(3)
  ]
  strategy = strategy or tf.distribute.get_strategy()
  with strategy.scope():
    optimizer = make()
    variables = {
      n: tf.Variable(value, name=n, dtype=tf.float32)
      for n, value in start.items()
    }
    optimizers.create_slots(optimizer, list(variables.values()))
  for gradient in gradients:
    constants = [tf.constant(g, tf.float32) for g in gradient.values()]
    strategy.run(
      lambda constants=constants: optimizers.apply_summed_gradients(
        optimizer, constants, list(variables.values())
      )
    )
  return start, gradients, {n: v.numpy() for n, v in variables.items()}


def _rate():
  return _Table([0.1, 0.02, 0.05])


_EXCLUDING = {
  "adamw, addons": lambda keep: optimizers.adamw(
    _rate(), 0.3, decay_norms_and_biases=keep
  ),
  "adamw, keras": lambda keep: optimizers.adamw(
    _rate(), 0.3, decay_norms_and_biases=keep, implementation="keras"
  ),
  "sgd": lambda keep: optimizers.sgd(
    _rate(), weight_decay=0.3, decay_norms_and_biases=keep
  ),
}


@pytest.mark.parametrize("name", _EXCLUDING)
@pytest.mark.parametrize("replicas", [1, 2])
def test_norms_and_biases_can_be_left_without_decay(name, replicas):
  strategy = None
  if replicas == 2:
    strategy = toy.two_replicas()
  make = _EXCLUDING[name]
  _, _, everything = _trajectory(lambda: make(True))
  _, _, kernels = _trajectory(lambda: make(False), strategy)
  without = {
    "sgd": lambda: optimizers.sgd(_rate()),
    "adamw, addons": lambda: optimizers.adamw(_rate(), 0.0),
    "adamw, keras": lambda: optimizers.adamw(_rate(), 0.0),
  }[name]
  _, _, nothing = _trajectory(without)
  for variable, value in kernels.items():
    like = everything if "kernel" in variable else nothing
    np.testing.assert_allclose(value, like[variable], atol=1e-5)
    other = nothing if "kernel" in variable else everything
    assert np.abs(value - other[variable]).max() > 1e-3


def test_lamb_equals_numpy():
  start, gradients, actual = _trajectory(
    lambda: optimizers.lamb(_rate(), 0.3, decay_norms_and_biases=False)
  )
  for name, p in start.items():
    m = v = 0.0
    for t, (gradient, rate) in enumerate(zip(gradients, (0.1, 0.02, 0.05)), 1):
      m = 0.9 * m + 0.1 * gradient[name]
      v = 0.999 * v + 0.001 * gradient[name] ** 2
      update = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-6)
      if "kernel" in name:
        update += 0.3 * p
        update *= np.linalg.norm(p) / np.linalg.norm(update)
      p = p - rate * update
    np.testing.assert_allclose(actual[name], p, atol=1e-5)


@pytest.mark.parametrize(
  "make",
  [
    optimizers.sgd,
    functools.partial(optimizers.lamb, weight_decay=0.1),
    functools.partial(optimizers.adamw, weight_decay=0.1),
    functools.partial(
      optimizers.adamw, weight_decay=0.1, implementation="keras"
    ),
  ],
)
def test_the_learning_rate_of_any_step_is_the_schedules(make):
  kept = []
  _trajectory(lambda: kept.append(make(_rate())) or kept[0])
  rates = [float(optimizers.learning_rate(kept[0], i)) for i in range(3)]
  assert rates == pytest.approx([0.1, 0.02, 0.05])


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_equals_numpy(nesterov):
  start, gradients, actual = _trajectory(
    lambda: optimizers.sgd(_rate(), nesterov=nesterov, weight_decay=0.3)
  )
  for name, p in start.items():
    velocity = 0.0
    for gradient, rate in zip(gradients, (0.1, 0.02, 0.05)):
      p = p - rate * 0.3 * p
      velocity = 0.9 * velocity - rate * gradient[name]
      p = p + (0.9 * velocity - rate * gradient[name] if nesterov else velocity)
    np.testing.assert_allclose(actual[name], p, atol=1e-5)
