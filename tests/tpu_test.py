# SPDX-License-Identifier: Apache-2.0
"""What `TPUStrategy` makes of training and evaluation, without a TPU.

A stand-in says that there are TPU cores. TensorFlow then builds the graphs that
it would send them: these are looked at and not run.
"""

import pytest
import tensorflow as tf
from tensorflow.python.client import session
from tensorflow.python.tpu import tpu_system_metadata

from tests import toy
from tf_audioset import features
from tf_audioset.models import resnet, tagger
from tf_audioset.runtime import distribution
from tf_audioset.serving import exported_tagger
from tf_audioset.training import augment, losses, optimizers, trainer

_NUM_CORES = 4


class _Resolver(tf.distribute.cluster_resolver.TPUClusterResolver):
  def __init__(self):
    super().__init__("local")

  def get_tpu_system_metadata(self):
    name = "/job:localhost/replica:0/task:0/device:TPU:"
    return tpu_system_metadata.TPUSystemMetadata(
      num_cores=_NUM_CORES,
      num_hosts=1,
      num_of_cores_per_host=_NUM_CORES,
      topology=None,
      devices=[
        session._DeviceAttributes(f"{name}{i}", "TPU", 0, 0)
        for i in range(_NUM_CORES)
      ],
    )


@pytest.fixture(scope="module")
def strategy():
  return tf.distribute.TPUStrategy(_Resolver())


def _operations(function):
  """Types of the operations of a concrete function, and of those it calls."""
  nodes = toy.nodes(function.graph.as_graph_def())
  assert not any(
    node.attr["_xla_outside_compilation"].s
    for node in nodes
    if "_xla_outside_compilation" in node.attr
  )
  return [node.op for node in nodes]


def test_the_training_loop_is_built_for_every_core(strategy):
  with strategy.scope():
    model = tagger.Tagger(
      3,
      frontend=features.LogMel(),
      backbone=resnet.ResNet(width=4),
      loss=losses.MultiLabel(),
      spec_augment=augment.SpecAugment(),
      mixup=augment.Mixup(0.8),
      dropout_rate=0.4,
    )
    model(tf.zeros([1, 8000]))
    schedule = optimizers.WarmupCosine(3e-2, 10, 20, warmup_epochs=1)
    optimizer = optimizers.adamw(schedule, weight_decay=1e-4)
    optimizers.create_slots(optimizer, model.trained_variables)
  steps = trainer.Trainer(
    strategy, model, optimizer, global_batch_size=8, seed=0, clip_norm=1.0
  )

  def dataset(context):
    del context
    batch = tf.zeros([2, 8000], tf.int16), tf.zeros([2, 3])
    return tf.data.Dataset.from_tensors(batch).repeat()

  iterator = iter(distribution.batches(strategy, dataset))
  loop = steps.train.get_concrete_function(iterator, tf.constant(3))
  operations = _operations(loop)
  # The step, and what makes the statistics equal after the loop.
  assert operations.count("TPUReplicateMetadata") == 2
  # XLA has none of these for a TPU.
  assert not {"RFFT", "FFT", "MapDefun", "PyFunc", "EagerPyFunc"} & {
    *operations
  }
  # Each gradient once, the loss, and each statistic once.
  num_statistics = sum("moving" in v.name for v in model.variables)
  expected = len(model.trained_variables) + 1 + num_statistics
  assert operations.count("CrossReplicaSum") == expected
  _operations(steps.is_finite.get_concrete_function())


def test_exports_are_scored_by_every_core(strategy, tmp_path):
  toy.export_tagger(tmp_path)
  replicated = exported_tagger.ReplicatedTagger(str(tmp_path), strategy)
  num_clips = replicated.batch_size // _NUM_CORES
  batch = strategy.experimental_distribute_values_from_function(
    lambda _: tf.zeros([num_clips, replicated.num_samples])
  )
  score = replicated._score.get_concrete_function(batch)
  assert "TPUReplicateMetadata" in _operations(score)
  assert score.structured_outputs.shape == [replicated.batch_size, 3]


def test_what_a_tpus_host_exports_is_for_any_machine(strategy, monkeypatch):
  waveform = tf.zeros([1, 8000])
  monkeypatch.setattr(tf.config, "list_logical_devices", lambda *_: ["a TPU"])
  frontend = tf.function(features.LogMel()).get_concrete_function(waveform)
  assert "RFFT" in _operations(frontend)
