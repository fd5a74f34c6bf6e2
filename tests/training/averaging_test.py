# SPDX-License-Identifier: Apache-2.0
"""The average is that of NumPy, and is what a run validates and exports."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests import command, small, toy
from tf_audioset import features
from tf_audioset.data import labels
from tf_audioset.models import tagger
from tf_audioset.training import averaging, losses, optimizers, trainer
from tf_audioset.weights import pretrained


def _parts(strategy=None, *, horizon_steps, peak=0.03, jit_compile=False):
  """A trainer, a model with batch norms, and its average."""
  strategy = strategy or tf.distribute.OneDeviceStrategy("/cpu:0")
  with strategy.scope():
    models = []
    for _ in range(2):
      tf.keras.utils.set_random_seed(1)
      model = tagger.Tagger(
        3,
        frontend=features.LogMel(engine="matmul" if jit_compile else "auto"),
        backbone=small.SmallBackbone(),
        loss=losses.MultiLabel(),
      )
      model(tf.zeros([1, 8000]))
      models.append(model)
    schedule = optimizers.WarmupConstant(peak, 1, 20, warmup_epochs=0)
    optimizer = optimizers.adamw(schedule, weight_decay=1e-4)
    optimizers.create_slots(optimizer, models[0].trained_variables)
    average = averaging.Average(*models, horizon_steps)
  average.begin()
  steps = trainer.Trainer(
    strategy,
    models[0],
    optimizer,
    global_batch_size=8,
    seed=0,
    jit_compile=jit_compile,
    average=average,
  )
  return steps, models[0], average


def _batch():
  clips = [toy.clip(i, 8000) for i in range(8)]
  targets = np.zeros([8, 3], np.float32)
  for row, (_, present) in zip(targets, clips):
    row[present] = 1
  return np.stack([samples for samples, _ in clips]), targets


def _iterator(strategy=None, rows=slice(None)):
  strategy = strategy or tf.distribute.OneDeviceStrategy("/cpu:0")
  batch = tuple(x[rows] for x in _batch())
  data = tf.data.Dataset.from_tensor_slices(batch).repeat().batch(len(batch[0]))
  return iter(strategy.experimental_distribute_dataset(data))


def _values(model):
  return [v.numpy().astype(np.float64) for v in model.variables]


def _follow(trajectory, horizon_steps):
  """The average of recorded values, written out, in float64."""
  average, *rest = trajectory
  for n, values in enumerate(rest):
    d = min(1 - 1 / horizon_steps, (1 + n) / (10 + n))
    average = [d * a + (1 - d) * v for a, v in zip(average, values)]
  return average


@pytest.mark.parametrize(
  ("replicas", "horizon_steps", "jit_compile"),
  [(1, 1.5, False), (1, 1000, False), (2, 1000, False), (1, 1.5, True)],
)
def test_the_average_is_numpys_on_a_recorded_trajectory(
  replicas, horizon_steps, jit_compile
):
  """The horizon of 1.5 steps ends the warm-up at the fifth step."""
  strategy = toy.two_replicas() if replicas == 2 else None
  steps, model, average = _parts(
    strategy, horizon_steps=horizon_steps, jit_compile=jit_compile
  )
  iterator = _iterator(strategy)
  trajectory = [_values(model)]
  for _ in range(7):
    steps.train(iterator, tf.constant(1))
    trajectory.append(_values(model))
  expected = _follow(trajectory, horizon_steps)
  assert any("moving_variance" in v.name for v in average.tagger.variables)
  for variable, value, first, last in zip(
    average.tagger.variables, expected, trajectory[0], trajectory[-1]
  ):
    np.testing.assert_allclose(variable, value, rtol=1e-5, atol=1e-6)
    if replicas == 2:
      for copy in variable.values:
        np.testing.assert_array_equal(copy, variable.values[0])
    # It is neither where it began nor where the values are.
    assert np.abs(value - first).max() > 1e-4
    assert np.abs(value - last).max() > 1e-4


def test_in_a_loop_replicas_average_their_statistics_and_then_agree():
  """At the learning rate 0, each half of the batch can be followed alone."""
  alone = []
  for half in (slice(0, 4), slice(4, 8)):
    steps, model, _ = _parts(horizon_steps=1.5, peak=0.0)
    iterator = _iterator(rows=half)
    trajectory = [_values(model)]
    for _ in range(4):
      steps.train(iterator, tf.constant(1))
      trajectory.append(_values(model))
    alone.append(_follow(trajectory, 1.5))
  strategy = toy.two_replicas()
  steps, _, average = _parts(strategy, horizon_steps=1.5, peak=0.0)
  steps.train(_iterator(strategy), tf.constant(4))
  for variable, *halves in zip(average.tagger.variables, *alone):
    for copy in variable.values:
      np.testing.assert_array_equal(copy, variable.values[0])
      np.testing.assert_allclose(copy, np.mean(halves, 0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(share):
  with pytest.raises(ValueError, match="above 0 and below 1"):
    averaging.check_share(share)


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("averaging")
  (folder / "records").mkdir()
  toy.write_dataset(folder / "records")
  return folder


def _arguments(folder, *bindings):
  return small.arguments(
    folder / "records", folder / "run", "train.num_epochs = 3", *bindings
  )


def test_a_run_refuses_such_a_share_in_one_line(folder):
  line = command.fail(*_arguments(folder, "train.average_share = 1.5"))
  assert "train.average_share is 1.5; it must be above 0 and below 1" in line


def test_the_average_is_validated_beside_the_weights_and_exported(folder):
  arguments = _arguments(folder, "train.average_share = 0.5")
  out = command.succeed(*arguments)
  rows = [
    json.loads(line) for line in (folder / "run" / "metrics.jsonl").open()
  ]
  validations = [row for row in rows if "epoch" in row]
  assert len(validations) == 3
  for row in validations:
    averaged = row["averaged"]
    assert f"  averaged weights: mAP {averaged['mAP']:.4f}  " in out
    assert averaged["validation_loss"] != row["validation_loss"]
    assert averaged.keys() == row.keys() - {"step", "epoch", "averaged"}
  events = folder / "run" / "summaries" / "validation_averaged"
  assert len(list(events.iterdir())) == 1

  saved = tf.train.load_checkpoint(
    tf.train.latest_checkpoint(str(folder / "run" / "checkpoints"))
  )
  names = saved.get_variable_to_shape_map()
  averages = {name for name in names if name.startswith("average/")}
  assert {name.replace("average/", "model/", 1) for name in averages} == {
    name
    for name in names
    if name.startswith("model/") and "OPTIMIZER_SLOT" not in name
  }
  module = tf.saved_model.load(str(folder / "run" / "saved_model" / "1"))
  exported = [v.numpy() for v in module.model_variables]
  averages = [saved.get_tensor(name) for name in averages]
  assert len(exported) == len(averages) > 4
  for value in exported:
    assert any(np.array_equal(value, average) for average in averages)
  about = (
    folder / "run" / "saved_model" / "1" / "assets" / "tagger.json"
  ).read_text()
  validation = json.loads(about)["validation"]
  assert validation["mAP"] == averaged["mAP"]
  assert validation["validation_loss"] == averaged["validation_loss"]

  # A run that starts from it starts from the average.
  model = tagger.Tagger(
    3,
    frontend=features.LogMel(),
    backbone=small.SmallBackbone(),
    loss=losses.MultiLabel(),
  )
  model(tf.zeros([1, 8000]))
  pretrained.load(
    str(folder / "run"), model, labels.ClassList.from_names(toy.NAMES)
  )
  kernel = model.head.kernel.numpy()
  name = "/head/kernel/.ATTRIBUTES/VARIABLE_VALUE"
  best = tf.train.load_checkpoint(
    tf.train.latest_checkpoint(str(folder / "run" / "best"))
  )
  np.testing.assert_array_equal(kernel, best.get_tensor(f"average{name}"))
  assert np.any(kernel != best.get_tensor(f"model{name}"))

  line = command.fail(*_arguments(folder))
  assert "begun with weight averaging on, not off" in line
