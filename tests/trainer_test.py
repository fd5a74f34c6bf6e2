# SPDX-License-Identifier: Apache-2.0
"""The training step: it learns, XLA compiles it, the seed decides it."""

import numpy as np
import pytest
import tensorflow as tf

from tests import toy
from tf_audioset import augment, features, losses, optimization, tagger, trainer
from tf_audioset.models import resnet


def _batch(num_clips=16):
  clips = [toy.clip(i, 16000) for i in range(num_clips)]
  waveform = np.stack([samples for samples, _ in clips])
  targets = np.zeros([num_clips, 3], np.float32)
  for row, (_, present) in zip(targets, clips):
    row[present] = 1
  return tf.constant(waveform), tf.constant(targets)


def _trainer(
  strategy=None,
  *,
  jit_compile=False,
  augmented=False,
  seed=0,
  clip_norm=None,
  global_batch_size=16,
  backbone=toy.MeanBackbone,
  loss=losses.MultiLabel(),  # noqa: B008  It has no state.
  optimizer=lambda schedule: optimization.adamw(schedule, weight_decay=1e-4),
):
  strategy = strategy or tf.distribute.OneDeviceStrategy("/cpu:0")
  with strategy.scope():
    tf.keras.utils.set_random_seed(1)
    model = tagger.Tagger(
      3,
      frontend=features.LogMel(engine="matmul" if jit_compile else "auto"),
      backbone=backbone(),
      loss=loss,
      spec_augment=augment.SpecAugment() if augmented else None,
      mixup=augment.Mixup(0.8) if augmented else None,
      dropout_rate=0.4 if augmented else 0.0,
    )
    model(tf.zeros([1, 16000]))
    schedule = optimization.WarmupCosine(3e-2, 10, 20, warmup_epochs=1)
    optimizer = optimizer(schedule)
    optimization.create_slots(optimizer, model.trainable_variables)
  steps = trainer.Trainer(
    strategy,
    model,
    optimizer,
    global_batch_size=global_batch_size,
    seed=seed,
    clip_norm=clip_norm,
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


def test_replicas_draw_their_own_augmentation():
  """Two replicas with the same clips are one, but for what is random."""
  strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
  waveform, targets = _batch(8)
  twice = tf.data.Dataset.from_tensors(
    (tf.tile(waveform, [2, 1]), tf.tile(targets, [2, 1]))
  ).repeat()
  losses_of = {}
  for augmented in (False, True):
    one, _ = _trainer(augmented=augmented, global_batch_size=8)
    two, _ = _trainer(strategy, augmented=augmented)
    half = tf.data.Dataset.from_tensors((waveform, targets)).repeat()
    single = tf.distribute.OneDeviceStrategy("/cpu:0")
    losses_of[augmented] = [
      float(
        steps.train(
          iter(over.experimental_distribute_dataset(data)), tf.constant(1)
        )["loss"]
      )
      for steps, over, data in ((one, single, half), (two, strategy, twice))
    ]
  assert losses_of[False][0] == pytest.approx(losses_of[False][1], rel=1e-5)
  assert losses_of[True][0] != pytest.approx(losses_of[True][1], rel=1e-3)


def test_augmentation_is_off_in_evaluation():
  _, augmented = _trainer(augmented=True)
  _, plain = _trainer()
  waveform, _ = _batch()
  np.testing.assert_array_equal(_weights(augmented), _weights(plain))
  np.testing.assert_array_equal(augmented(waveform), plain(waveform))


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


def test_the_gradient_is_clipped_once_it_is_that_of_the_whole_batch():
  updates = {}
  for strategy in (
    None,
    tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"]),
  ):
    for clip_norm in (None, 1e-3):
      # With plain SGD an update is the gradient itself.
      steps, model = _trainer(
        strategy,
        optimizer=lambda schedule: optimization.sgd(schedule, momentum=0.0),
        clip_norm=clip_norm,
      )
      iterator = _iterator(strategy)
      steps.train(iterator, tf.constant(1))  # At the learning rate 0.
      before = _weights(model)
      values = steps.train(iterator, tf.constant(1))
      update = (_weights(model) - before) / float(values["learning_rate"])
      updates[strategy is None, clip_norm] = update
      # What is reported is the norm before.
      assert float(values["gradient_norm"]) > 1e-2
  for one_replica in (True, False):
    clipped, free = updates[one_replica, 1e-3], updates[one_replica, None]
    assert np.linalg.norm(clipped) == pytest.approx(1e-3, rel=1e-2)
    np.testing.assert_allclose(
      clipped, free * 1e-3 / np.linalg.norm(free), atol=1e-5
    )
  np.testing.assert_allclose(
    updates[True, 1e-3], updates[False, 1e-3], atol=1e-5
  )


def test_mixed_precision_reaches_the_same_loss():
  last = {}
  for policy in ("float32", "mixed_bfloat16"):
    tf.keras.mixed_precision.set_global_policy(policy)
    try:
      # The smoothing gives the loss a floor, 0.33, above 0.
      steps, model = _trainer(
        backbone=lambda: resnet.ResNet(18, width=4),
        loss=losses.MultiLabel(label_smoothing=0.2),
      )
      iterator = _iterator()
      steps.train(iterator, tf.constant(40))
      last[policy] = float(steps.train(iterator, tf.constant(20))["loss"])
      waveform, _ = _batch()
      assert model.embed(waveform).dtype == policy.split("_")[-1]
      assert model(waveform).dtype == tf.float32
      # Keras must not round the waveform on its way in.
      np.testing.assert_array_equal(
        model(tagger.to_float(waveform)), model(waveform)
      )
    finally:
      tf.keras.mixed_precision.set_global_policy("float32")
  assert last["float32"] < 0.4
  assert last["mixed_bfloat16"] == pytest.approx(last["float32"], rel=0.05)
