# SPDX-License-Identifier: Apache-2.0
"""A folded tagger computes the same as the given one, with less."""

import numpy as np
import pytest
import tensorflow as tf

from tf_audioset.features import layers as features_lib
from tf_audioset.models import (
  convnext,
  efficientnet,
  folding,
  layers,
  resnet,
  tagger,
  vit,
)
from tf_audioset.runtime import precision
from tf_audioset.training import losses

_SMALL = {
  "resnet": lambda: resnet.ResNet(width=8),
  "efficientnet": efficientnet.EfficientNet,
  "convnext": convnext.ConvNeXt,
  "vit": lambda: vit.ViT(depth=2),
}


def _tagger(backbone):
  """Returns a tagger and clips; its statistics and scales hide nothing."""
  result = tagger.Tagger(
    3,
    frontend=features_lib.LogMel(),
    backbone=backbone,
    loss=losses.MultiLabel(),
  )
  clips = 0.1 * tf.random.stateless_normal([2, 16000], [1, 2])
  result(clips)
  rng = np.random.default_rng(0)
  for v in result.backbone.variables:
    if "moving_variance" in v.name:
      v.assign(rng.uniform(0.5, 2, v.shape))
    elif "moving_mean" in v.name or "layer_scale" in v.name:
      v.assign(rng.uniform(-0.5, 0.5, v.shape))
  return result, clips


@pytest.mark.parametrize("make", _SMALL.values(), ids=_SMALL)
def test_the_scores_are_the_same_and_the_given_tagger_stays(make):
  given, clips = _tagger(make())
  expected = given(clips).numpy()
  values = [v.numpy() for v in given.variables]
  folded = folding.fold_batch_norms(given, clips)
  tolerance = 1e-5 * np.abs(expected).max()
  np.testing.assert_allclose(folded(clips), expected, rtol=0, atol=tolerance)
  embedding = folded.embed(clips).numpy()
  for v, value in zip(given.variables, values):
    np.testing.assert_array_equal(v, value)
  for v in given.backbone.variables:
    v.assign_add(tf.ones(v.shape))
  np.testing.assert_array_equal(folded.embed(clips), embedding)


@pytest.mark.parametrize("make", _SMALL.values(), ids=_SMALL)
def test_a_folded_function_makes_no_weights(make):
  with precision.policy("mixed_bfloat16"):
    given, clips = _tagger(make())
  folded = folding.fold_batch_norms(given, clips).backbone
  assert {v.dtype for v in folded.variables} >= {tf.bfloat16}
  features = tf.random.stateless_normal([2, 101, 64, 1], [3, 4])
  function = tf.function(folded.call, autograph=False)
  concrete = function.get_concrete_function(features)
  of_weights, constants = set(), set()
  for op in concrete.graph.get_operations():
    before = {x.op for x in op.inputs}
    if op.type == "Const":
      constants.add(op)
    elif op.type == "ReadVariableOp":
      of_weights.add(op)
    elif before & of_weights and before <= of_weights | constants:
      of_weights.add(op)
      # These take no time; that of a bias does not matter.
      is_free = op.type in ("Identity", "Reshape", "StridedSlice")
      assert is_free or op.outputs[0].shape.rank < 2, op.name
  plain = tf.function(given.backbone.call, autograph=False)
  actual, expected = (
    tf.cast(f(features), tf.float32).numpy() for f in (concrete, plain)
  )
  # The weights are rounded after the factors, not before.
  assert np.abs(actual - expected).max() < 0.02 * np.abs(expected).max()


class _Foreign(tf.keras.Model):
  """A backbone of someone else's, of our layers, that tells no arguments."""

  def __init__(self):
    super().__init__()
    conv = layers.Conv2D(4, 3, padding="same", use_bias=False)
    self.part = layers.ConvNorm(conv, momentum=0.9, epsilon=1e-3)

  def call(self, features, training=False):
    return tf.reduce_mean(self.part(features, training=training), [1, 2])


def test_a_backbone_that_cannot_be_built_again_is_the_given_one():
  given, clips = _tagger(_Foreign())
  folded = folding.fold_batch_norms(given, clips)
  assert folded.backbone is given.backbone
  np.testing.assert_array_equal(folded(clips), given(clips))


def test_a_backbone_with_nothing_to_fold_is_the_given_one():
  inputs = tf.keras.Input([None, 64, 1])
  outputs = tf.keras.layers.GlobalAveragePooling2D()(inputs)
  given, clips = _tagger(tf.keras.Model(inputs, outputs))
  assert folding.fold_batch_norms(given, clips).backbone is given.backbone
