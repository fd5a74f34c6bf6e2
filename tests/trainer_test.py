# SPDX-License-Identifier: Apache-2.0
"""The training step: it learns, XLA compiles it, the seed decides it."""

import numpy as np
import pytest
import tensorflow as tf

from tests import toy
from tf_audioset import augment, features, losses, optimization, tagger, trainer


def _batch(num_clips=16):
  clips = [toy.clip(i, 16000) for i in range(num_clips)]
  waveform = np.stack([samples for samples, _ in clips])
  targets = np.zeros([num_clips, 3], np.float32)
  for row, (_, present) in zip(targets, clips):
    row[present] = 1
  return tf.constant(waveform), tf.constant(targets)


def _trainer(strategy=None, *, jit_compile=False, augmented=False, seed=0):
  strategy = strategy or tf.distribute.OneDeviceStrategy("/cpu:0")
  with strategy.scope():
    tf.keras.utils.set_random_seed(1)
    model = tagger.Tagger(
      3,
      frontend=features.LogMel(engine="matmul" if jit_compile else "auto"),
      backbone=toy.MeanBackbone(),
      spec_augment=augment.SpecAugment() if augmented else None,
      mixup=augment.Mixup(0.8) if augmented else None,
      dropout_rate=0.4 if augmented else 0.0,
    )
    model(tf.zeros([1, 16000]))
    schedule = optimization.WarmupCosine(3e-2, 10, 20, warmup_epochs=1)
    optimizer = optimization.adamw(schedule, weight_decay=1e-4)
    optimization.create_slots(optimizer, model.trainable_variables)
  steps = trainer.Trainer(
    strategy,
    model,
    optimizer,
    global_batch_size=16,
    seed=seed,
    jit_compile=jit_compile,
  )
  return steps, model


def _iterator(strategy=None):
  strategy = strategy or tf.distribute.OneDeviceStrategy("/cpu:0")
  dataset = tf.data.Dataset.from_tensors(_batch()).repeat()
  return iter(
    strategy.experimental_distribute_dataset(dataset.unbatch().batch(16))
  )


def _weights(model):
  return np.concatenate([v.numpy().ravel() for v in model.trainable_variables])


def test_the_toys_loss_halves_and_its_classes_are_told_apart():
  steps, model = _trainer()
  iterator = _iterator()
  first = float(steps.train(iterator, tf.constant(1))["loss"])
  last = float(steps.train(iterator, tf.constant(150))["loss"])
  for _ in range(2):
    last = float(steps.train(iterator, tf.constant(20))["loss"])
  assert last < first / 2
  waveform, targets = _batch()
  accuracy = np.mean((model(waveform).numpy() > 0) == (targets.numpy() > 0))
  assert accuracy > 0.9


def test_the_reported_loss_is_the_mean_over_the_steps():
  steps, model = _trainer()
  waveform, targets = _batch()
  z, y = model(waveform).numpy().astype(np.float64), targets.numpy()
  expected = np.mean(np.log1p(np.exp(-np.abs(z))) + np.maximum(z, 0) - z * y)
  values = steps.train(_iterator(), tf.constant(1))
  assert float(values["loss"]) == pytest.approx(expected, rel=1e-5)
  assert float(values["learning_rate"]) == 0.0  # The warm-up begins at 0.


def test_many_steps_in_one_call_equal_many_calls():
  one, one_model = _trainer(augmented=True)
  one.train(_iterator(), tf.constant(5))
  many, many_model = _trainer(augmented=True)
  iterator = _iterator()
  for _ in range(5):
    many.train(iterator, tf.constant(1))
  np.testing.assert_array_equal(_weights(one_model), _weights(many_model))


def test_the_seed_decides_the_augmentation():
  weights = []
  for seed in (0, 0, 1):
    steps, model = _trainer(augmented=True, seed=seed)
    steps.train(_iterator(), tf.constant(3))
    weights.append(_weights(model))
  np.testing.assert_array_equal(weights[0], weights[1])
  assert np.any(weights[0] != weights[2])


def test_xla_compiles_the_whole_step_and_agrees():
  plain, plain_model = _trainer(augmented=True)
  compiled, compiled_model = _trainer(augmented=True, jit_compile=True)
  expected = plain.train(_iterator(), tf.constant(3))
  actual = compiled.train(_iterator(), tf.constant(3))
  assert float(actual["loss"]) == pytest.approx(
    float(expected["loss"]), rel=1e-4
  )
  np.testing.assert_allclose(
    _weights(compiled_model), _weights(plain_model), atol=1e-4
  )


def test_two_replicas_equal_one():
  strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
  assert strategy.num_replicas_in_sync == 2
  one, one_model = _trainer()
  two, two_model = _trainer(strategy)
  for _ in range(3):
    expected = one.train(_iterator(), tf.constant(2))
    actual = two.train(_iterator(strategy), tf.constant(2))
    for name, value in expected.items():
      assert float(actual[name]) == pytest.approx(float(value), rel=1e-4)
  np.testing.assert_allclose(
    _weights(two_model), _weights(one_model), atol=1e-5
  )


def test_the_loss_equals_numpy():
  rng = np.random.default_rng(0)
  logits, targets = rng.normal(size=(2, 5, 7))
  targets = 1 / (1 + np.exp(-targets))
  p = 1 / (1 + np.exp(-logits))
  expected = -np.mean(targets * np.log(p) + (1 - targets) * np.log(1 - p), 1)
  actual = losses.sigmoid_cross_entropy(
    tf.constant(targets, tf.float32), tf.constant(logits, tf.float32)
  )
  np.testing.assert_allclose(actual, expected, rtol=1e-5)
