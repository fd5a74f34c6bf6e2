# SPDX-License-Identifier: Apache-2.0
"""Schedules and optimizers against optax, as values and as formulas."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tests import reference, toy
from tf_audioset import features
from tf_audioset.models import (
  convnext,
  efficientnet,
  heads,
  resnet,
  tagger,
  vit,
)
from tf_audioset.training import losses, optimizers


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


def test_the_learning_rate_scales_with_the_batch():
  assert optimizers.scaled_learning_rate(5e-4, 2048) == pytest.approx(4e-3)


@pytest.mark.parametrize(
  ("scaling", "expected"),
  [("linear", 4e-3), ("sqrt", 2**0.5 * 1e-3), ("none", 5e-4)],
)
def test_the_learning_rate_scales_as_is_chosen(scaling, expected):
  rate = optimizers.scaled_learning_rate(5e-4, 2048, scaling)
  assert rate == pytest.approx(expected)
  # Whatever the scaling, the base is for a batch of 256.
  assert optimizers.scaled_learning_rate(5e-4, 256, scaling) == 5e-4


@pytest.mark.parametrize("floor", [0.0, 0.01, 0.5])
def test_a_cosine_with_a_warmup_in_steps_ends_at_its_floor(floor):
  schedule = optimizers.WarmupCosine(
    4e-3, 100, num_epochs=200.5, warmup_steps=1050, floor=floor
  )
  steps = np.array([0, 1, 500, 1049, 1050, 1051, 8000, 20049, 20050, 30000])
  progress = np.clip((steps - 1050) / (20050 - 1050), 0, 1)
  cosine = floor + (1 - floor) * (1 + np.cos(np.pi * progress)) / 2
  expected = 4e-3 * np.where(steps < 1050, steps / 1050, cosine)
  actual = [schedule(tf.constant(step, tf.int64)).numpy() for step in steps]
  np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-9)


def test_without_a_floor_the_cosine_is_to_the_bit_what_it_was():
  schedule = optimizers.WarmupCosine(4e-3, 872, 50, warmup_epochs=10)
  for step in (1, 8719, 8720, 30001, 43599):
    epoch = tf.constant(step, tf.float32) / 872
    progress = tf.minimum((epoch - 10) / 40, 1.0)
    cosine = 0.5 * (1 + tf.cos(np.float32(np.pi) * progress))
    expected = 4e-3 * (cosine if step >= 8720 else epoch / 10.0)
    assert schedule(tf.constant(step, tf.int64)).numpy() == expected.numpy()


def test_a_floor_above_the_peak_is_refused():
  with pytest.raises(ValueError, match="WarmupCosine.floor is 1.0; allowed is"):
    optimizers.WarmupCosine(1.0, 10, 5, warmup_epochs=1, floor=1.0)


def test_a_warmup_as_long_as_the_run_is_refused():
  with pytest.raises(ValueError, match="warmup_epochs is 10"):
    optimizers.WarmupCosine(1.0, 100, num_epochs=10, warmup_epochs=10)


def test_an_unknown_implementation_is_refused():
  with pytest.raises(ValueError, match="'lion'.*addons"):
    optimizers.adamw(_Table([0.0]), 0.0, implementation="lion")


_STEPS = np.array([0, 1, 437, 871, 872, 5000, 8720, 8721, 17440, 30000, 43599])


def _rates(schedule):
  return [schedule(tf.constant(step, tf.int64)).numpy() for step in _STEPS]


def test_every_schedule_takes_a_warmup_in_steps():
  more = {
    optimizers.WarmupExponential: dict(decay_rate=0.9, decay_epochs=1),
    optimizers.WarmupStep: dict(boundary_epochs=[20], decay_rate=0.1),
  }
  for kind in (optimizers.WarmupCosine, optimizers.WarmupConstant, *more):
    values = dict(
      peak=4e-3, steps_per_epoch=872, num_epochs=50, **more.get(kind, {})
    )
    by_epochs = kind(warmup_epochs=10, **values)
    by_steps = kind(warmup_steps=8720, **values)
    np.testing.assert_array_equal(_rates(by_epochs), _rates(by_steps))


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


@pytest.mark.parametrize(
  ("backbone", "head"),
  [
    (lambda: resnet.ResNet(18, width=4), heads.MeanMaxHead),
    (lambda: resnet.ResNet(50, width=4), heads.LinearHead),
    (efficientnet.EfficientNet, lambda: heads.AttentionHead(2)),
    (convnext.ConvNeXt, heads.AttentionHead),
    (lambda: vit.ViT(depth=2), heads.NormHead),
  ],
)
def test_of_every_network_matrices_decay_and_vectors_do_not(backbone, head):
  model = tagger.Tagger(
    3,
    frontend=features.LogMel(),
    input_norm=features.BandNorm(),
    backbone=backbone(),
    head=head(),
    loss=losses.MultiLabel(),
  )
  model(tf.zeros([1, 16000]))
  optimizer = optimizers.adamw(0.1, 0.3, decay_norms_and_biases=False)
  for variable in model.trainable_variables:
    # Kernels, and ViT's tables of positions.
    decays = optimizer._do_use_weight_decay(variable)
    assert decays == (variable.shape.rank > 1), variable.name


# The loss is a mean over 527 classes, so that most gradients of a model are
# below 1e-7, where epsilon decides how large an update is.
_GRADIENT_SIZES = 10.0 ** -np.arange(3, 12)
_PEAK = 4e-3
_RATES = _PEAK * np.r_[np.arange(5) / 5, 1.0, 0.7, 0.3, 0.05]
_DECAY = 0.05
# A column for each size; weights that start as scales, layer scales and biases
# do, and one without any gradient.
_START = {
  "dense/kernel": lambda rng: 0.02 * rng.normal(size=[16, 9]),
  "norm/gamma": lambda rng: np.ones(9),
  "block/layer_scale": lambda rng: np.full(9, 1e-6),
  "dense/bias": lambda rng: np.zeros(9),
  "unused/bias": lambda rng: np.zeros(9),
}


def _gradients_of_all_sizes():
  """Float32 start values, and gradients of each step, some of which are 0."""
  rng = np.random.default_rng(0)
  start = {n: np.float32(make(rng)) for n, make in _START.items()}
  gradients = []
  for _ in _RATES:
    gradient = {
      n: rng.normal(size=p.shape) * _GRADIENT_SIZES for n, p in start.items()
    }
    gradient["dense/kernel"][:2] *= rng.integers(0, 2, [2, 9])
    gradient["unused/bias"] *= 0
    gradients.append({n: np.float32(g) for n, g in gradient.items()})
  return start, gradients


class _OptaxAdam:
  """optax.scale_by_adam in float64."""

  def __init__(self, epsilon):
    self._epsilon = epsilon
    self._count = self._m = self._v = 0

  def __call__(self, gradient):
    gradient = np.float64(gradient)
    self._count += 1
    self._m = 0.9 * self._m + 0.1 * gradient
    self._v = 0.999 * self._v + 0.001 * gradient**2
    m_hat = self._m / (1 - 0.9**self._count)
    v_hat = self._v / (1 - 0.999**self._count)
    return m_hat / (np.sqrt(v_hat) + self._epsilon)


def _optax_trust_ratio(p, update):
  norms = np.linalg.norm(p), np.linalg.norm(update)
  return norms[0] / norms[1] if all(norms) else 1.0


_OF_ALL_SIZES = {
  "adamw, addons": (optimizers.adamw, 1e-8, lambda p, update: 1.0),
  "adamw, keras": (
    functools.partial(optimizers.adamw, implementation="keras"),
    1e-8,
    lambda p, update: 1.0,
  ),
  "lamb": (optimizers.lamb, 1e-6, _optax_trust_ratio),
}


@pytest.mark.parametrize("name", _OF_ALL_SIZES)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_updates_are_optaxs_at_gradients_from_1e_3_to_1e_11(name, jit_compile):
  make, epsilon, trust_ratio = _OF_ALL_SIZES[name]
  start, gradients = _gradients_of_all_sizes()
  variables = {n: tf.Variable(p, name=n) for n, p in start.items()}
  optimizer = make(_Table(_RATES), _DECAY)
  optimizers.create_slots(optimizer, list(variables.values()))

  @tf.function(jit_compile=jit_compile)
  def apply(gradients):
    optimizers.apply_summed_gradients(
      optimizer, gradients, list(variables.values())
    )

  adams = {n: _OptaxAdam(epsilon) for n in start}
  for rate, gradient in zip(_RATES, gradients):
    before = {n: np.float64(v) for n, v in variables.items()}
    apply([tf.constant(g) for g in gradient.values()])
    for n, p in before.items():
      update = adams[n](gradient[n]) + _DECAY * p
      update *= rate * trust_ratio(p, update)
      change = np.float64(variables[n]) - p
      # To 1e-5 of the greatest update, and the rounding of weights that decay
      # and update in two steps.
      limit = 1e-5 * np.abs(update).max() + 2**-23 * np.abs(p).max()
      np.testing.assert_allclose(change, -update, rtol=0, atol=limit)


@pytest.mark.parametrize("make", [optimizers.adamw, optimizers.lamb])
@pytest.mark.parametrize(
  ("argument", "value"), [("epsilon", 0.0), ("beta_1", 1.0), ("beta_2", -0.1)]
)
def test_moments_out_of_range_are_refused(make, argument, value):
  with pytest.raises(ValueError, match=f"{argument} is {value}"):
    make(_Table([0.1]), 0.0, **{argument: value})


def test_lamb_leaves_norms_and_biases_unscaled():
  start, gradients, actual = _trajectory(
    lambda: optimizers.lamb(_rate(), 0.3, decay_norms_and_biases=False)
  )
  for name, p in start.items():
    adam = _OptaxAdam(1e-6)
    for gradient, rate in zip(gradients, (0.1, 0.02, 0.05)):
      update = adam(gradient[name])
      if "kernel" in name:
        update += 0.3 * p
        update *= _optax_trust_ratio(p, update)
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
