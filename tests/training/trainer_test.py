# SPDX-License-Identifier: Apache-2.0
"""The training step: it learns, XLA compiles it, the seed decides it."""

import tempfile
from unittest import mock

import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from tests import toy
from tf_audioset import features
from tf_audioset.models import convnext, resnet, tagger
from tf_audioset.training import augment, losses, optimizers, trainer


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
  accumulate_steps=1,
  backbone=toy.MeanBackbone,
  loss=losses.MultiLabel(),  # noqa: B008  It has no state.
  freeze_backbone=False,
  optimizer=lambda schedule: optimizers.adamw(schedule, weight_decay=1e-4),
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
      freeze_backbone=freeze_backbone,
    )
    model(tf.zeros([1, 16000]))
    schedule = optimizers.WarmupCosine(3e-2, 10, 20, warmup_epochs=1)
    optimizer = optimizer(schedule)
    optimizers.create_slots(optimizer, model.trained_variables)
  steps = trainer.Trainer(
    strategy,
    model,
    optimizer,
    global_batch_size=global_batch_size,
    seed=seed,
    clip_norm=clip_norm,
    accumulate_steps=accumulate_steps,
    jit_compile=jit_compile,
  )
  return steps, model


def _iterator(strategy=None):
  strategy = strategy or tf.distribute.OneDeviceStrategy("/cpu:0")
  dataset = tf.data.Dataset.from_tensors(_batch()).repeat()
  return iter(
    strategy.experimental_distribute_dataset(dataset.unbatch().batch(16))
  )


def test_nothing_goes_through_autograph(tmp_path, monkeypatch):
  """It would write what it generates where temporary files are."""
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
  steps = _trainer()[0]
  steps.train(_iterator(), tf.constant(1))
  tf.function(steps.train_on)(*(x[tf.newaxis] for x in _batch()))
  assert not list(tmp_path.iterdir())


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
  strategy = toy.two_replicas()
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


def _frozen_resnet():
  """Batch norm with fixed statistics, so that clips do not meet in it."""
  backbone = resnet.ResNet(18, width=4)
  backbone(tf.zeros([1, 32, 64, 1]))
  for layer in backbone.submodules:
    if isinstance(layer, tf.keras.layers.BatchNormalization):
      layer.trainable = False
  return backbone


def _convnext(stochastic_depth_rate=0.0):
  tiny = {"test": ((1, 1, 1, 1), (8, 8, 16, 16))}
  with mock.patch.dict(convnext._VARIANTS, tiny):
    return convnext.ConvNeXt("test", stochastic_depth_rate)


_BACKBONES = {
  "mean": toy.MeanBackbone,
  "resnet": _frozen_resnet,
  "convnext": _convnext,
}


def _compare_with_one(backbone, optimizer, strategy=None, **others):
  """The same batches, all in one and divided: the same numbers to 1e-5."""
  arguments = dict(backbone=_BACKBONES[backbone], optimizer=optimizer)
  one, one_model = _trainer(**arguments)
  divided, divided_model = _trainer(strategy, **arguments, **others)
  one_iterator, divided_iterator = _iterator(), _iterator(strategy)
  before = _weights(one_model)
  np.testing.assert_array_equal(before, _weights(divided_model))
  for _ in range(2):  # The first step is at the learning rate 0.
    expected = one.train(one_iterator, tf.constant(1))
    actual = divided.train(divided_iterator, tf.constant(1))
  assert float(actual["learning_rate"]) == float(expected["learning_rate"]) > 0
  for name in ("loss", "gradient_norm"):
    assert float(actual[name]) == pytest.approx(float(expected[name]), rel=1e-5)
  update = _weights(one_model) - before
  assert np.abs(update).max() > 1e-4
  np.testing.assert_allclose(
    _weights(divided_model) - before,
    update,
    atol=1e-5 * max(1, np.abs(update).max()),
  )


def _plain_sgd(schedule):
  """An update is then the gradient times the learning rate."""
  return optimizers.sgd(schedule, momentum=0.0)


def _adamw(schedule):
  # With the usual epsilon a gradient of 1e-7 is as much as one of 1.
  return optimizers.adamw(schedule, weight_decay=1e-4, epsilon=1e-3)


@pytest.mark.parametrize(
  ("backbone", "optimizer"),
  [
    ("mean", _adamw),
    ("mean", _plain_sgd),
    ("resnet", _plain_sgd),
    ("convnext", _plain_sgd),
  ],
)
def test_two_replicas_equal_one(backbone, optimizer):
  strategy = toy.two_replicas()
  assert strategy.num_replicas_in_sync == 2
  _compare_with_one(backbone, optimizer, strategy)


@pytest.mark.parametrize("backbone", _BACKBONES)
def test_accumulated_gradients_equal_those_of_the_big_batch(backbone):
  _compare_with_one(backbone, _plain_sgd, accumulate_steps=4)


def test_accumulated_parts_on_two_replicas_equal_the_big_batch():
  strategy = toy.two_replicas()
  _compare_with_one("mean", _adamw, strategy, accumulate_steps=2)


def test_after_a_loop_the_statistics_are_the_mean_of_the_replicas():
  def backbone():
    return resnet.ResNet(width=4)

  strategy = toy.two_replicas()
  steps, model = _trainer(strategy, backbone=backbone)
  steps.train(_iterator(strategy), tf.constant(1))
  own = []
  for half in (slice(0, 8), slice(8, 16)):
    alone, model_alone = _trainer(backbone=backbone)
    batch = [x[half] for x in _batch()]
    alone.train(
      iter(tf.data.Dataset.from_tensors(tuple(batch))), tf.constant(1)
    )
    own.append([v.numpy() for v in model_alone.variables if "moving" in v.name])
  moving = [v for v in model.variables if "moving" in v.name]
  assert len(moving) == len(own[0]) > 0
  for variable, *halves in zip(moving, *own):
    for replica in variable.values:
      np.testing.assert_allclose(
        replica, np.mean(halves, 0), rtol=1e-4, atol=1e-6
      )


def test_parts_draw_what_replicas_would():
  strategy = toy.two_replicas()
  two, two_model = _trainer(strategy, augmented=True)
  parts, parts_model = _trainer(augmented=True, accumulate_steps=2)
  expected = two.train(_iterator(strategy), tf.constant(2))
  actual = parts.train(_iterator(), tf.constant(2))
  assert float(actual["loss"]) == pytest.approx(
    float(expected["loss"]), rel=1e-5
  )
  np.testing.assert_allclose(
    _weights(parts_model), _weights(two_model), atol=1e-5
  )


@pytest.mark.parametrize("replicas", [1, 2])
def test_nothing_is_traced_again(replicas):
  strategy = None
  if replicas == 2:
    strategy = toy.two_replicas()
  steps, _ = _trainer(strategy, augmented=True)
  iterator = _iterator(strategy)
  for num_steps in (2, 3, 1):
    steps.train(iterator, tf.constant(num_steps))
    assert steps.train.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("bad", [2, 3])
def test_the_first_step_that_is_not_finite_is_told(bad):
  waveform, targets = _batch()
  broken = targets.numpy()
  broken[0, 0] = np.nan
  batches = [(waveform, targets)] * 5
  batches[bad] = (waveform, tf.constant(broken))
  strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
  dataset = tf.data.Dataset.from_tensor_slices(
    tuple(tf.stack(x) for x in zip(*batches))
  )
  iterator = iter(strategy.experimental_distribute_dataset(dataset))
  steps, _ = _trainer()
  found = [
    int(steps.train(iterator, tf.constant(n))["first_bad_step"]) for n in (2, 3)
  ]
  assert found == [-1, bad]


def test_the_loop_on_batches_that_are_there_is_the_same():
  waveform, targets = _batch()
  plain, plain_model = _trainer(augmented=True)
  expected = plain.train(_iterator(), tf.constant(3))
  stacked, stacked_model = _trainer(augmented=True)
  actual = stacked.train_on(
    tf.tile(waveform[tf.newaxis], [3, 1, 1]),
    tf.tile(targets[tf.newaxis], [3, 1, 1]),
  )
  assert actual.keys() | {"input_wait_seconds"} == expected.keys()
  assert float(actual["loss"]) == pytest.approx(float(expected["loss"]))
  np.testing.assert_allclose(
    _weights(stacked_model), _weights(plain_model), atol=1e-6
  )


def test_the_gradient_is_clipped_once_it_is_that_of_the_whole_batch():
  updates = {}
  for strategy in (
    None,
    toy.two_replicas(),
  ):
    for clip_norm in (None, 1e-3):
      # With plain SGD an update is the gradient itself.
      steps, model = _trainer(
        strategy,
        optimizer=lambda schedule: optimizers.sgd(schedule, momentum=0.0),
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


@pytest.mark.parametrize(
  ("backbone", "jit_compile"),
  [
    (lambda: resnet.ResNet(18, width=4), True),  # With batch norm.
    (lambda: _convnext(stochastic_depth_rate=0.9), False),
  ],
)
def test_a_frozen_backbone_is_a_linear_probe(backbone, jit_compile):
  """One label a clip; the update is a softmax regression's, in NumPy."""
  steps, model = _trainer(
    backbone=backbone,
    freeze_backbone=True,
    loss=losses.MultiClass(),
    optimizer=_plain_sgd,
    jit_compile=jit_compile,
  )
  waveform, _ = _batch()
  targets = np.eye(3, dtype=np.float32)[np.arange(16) % 3]
  before = [v.numpy() for v in model.variables]
  embedding = model.embed(waveform).numpy()
  batches = tf.data.Dataset.from_tensors((waveform, targets)).repeat()
  batches = iter(
    tf.distribute.OneDeviceStrategy("/cpu:0").experimental_distribute_dataset(
      batches
    )
  )
  steps.train(batches, tf.constant(1))  # At the learning rate 0.
  values = steps.train(batches, tf.constant(1))
  *backbone, kernel, bias = [v.numpy() for v in model.variables]
  np.testing.assert_equal(backbone, before[:-2])
  logits = embedding @ before[-2] + before[-1]
  error = (scipy.special.softmax(logits, axis=1) - targets) / 16
  rate = float(values["learning_rate"])
  for new, old, gradient in (
    (kernel, before[-2], embedding.T @ error),
    (bias, before[-1], error.sum(axis=0)),
  ):
    np.testing.assert_allclose((old - new) / rate, gradient, atol=1e-4)
  expected = -np.log(scipy.special.softmax(logits, axis=1)[targets > 0]).mean()
  assert float(values["loss"]) == pytest.approx(expected, rel=1e-4)


def test_mixed_precision_reaches_the_same_loss():
  last = {}
  for policy in ("float32", "mixed_bfloat16"):
    with toy.precision(policy):
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
        model(tf.cast(waveform, tf.float32) / 32768), model(waveform)
      )
  assert last["float32"] < 0.4
  assert last["mixed_bfloat16"] == pytest.approx(last["float32"], rel=0.05)
