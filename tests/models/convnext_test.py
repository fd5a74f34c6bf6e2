# SPDX-License-Identifier: Apache-2.0
"""ConvNeXt against the one of keras.applications, weights copied."""

import numpy as np
import pytest
import tensorflow as tf

from tests import toy
from tests.models import sizes
from tf_audioset.models import convnext, weights


@pytest.fixture(name="pair", scope="module")
def _pair():
  """Our network and Keras's, with the same weights."""
  keras_model = tf.keras.applications.ConvNeXtTiny(
    include_top=False,
    include_preprocessing=False,
    weights=None,
    input_shape=(None, None, 3),
    pooling="avg",
  )
  model = convnext.ConvNeXt("tiny", final_norm=True)
  rng = np.random.default_rng(0)
  model(tf.zeros([1, 64, 64, 3]))
  ours, theirs = _by_kind(model), _by_kind(keras_model)
  assert ours.keys() == theirs.keys()
  for kind in ours:
    assert len(ours[kind]) == len(theirs[kind]), kind
    for our, their in zip(ours[kind], theirs[kind]):
      if "depthwise" in our.name and kind[1] == 4:
        # Keras's is a grouped convolution, [7, 7, 1, channels].
        our.assign(tf.transpose(their, [0, 1, 3, 2]))
        continue
      assert our.shape == their.shape, (our.name, their.name)
      if their.shape.rank == 1:
        # Layer scales of 1e-6 would hide whatever the blocks compute.
        low = 0.2 if kind[0] in ("gamma", "layer_scale") else -0.5
        their.assign(rng.uniform(low, low + 1.0, their.shape))
      our.assign(their)
  return model, keras_model


def _features(num_frames, num_bands, channels=3):
  rng = np.random.default_rng(0)
  shape = [1, num_frames, num_bands, channels]
  return rng.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("num_frames", "num_bands"), sizes.USED)
def test_tiny_gives_the_features_of_keras_applications(
  pair, num_frames, num_bands
):
  model, keras_model = pair
  features = _features(num_frames, num_bands)
  expected = keras_model(features, training=False).numpy()
  actual = model(features).numpy()
  np.testing.assert_allclose(actual, expected, atol=1e-4 * expected.std())


def test_an_export_of_tiny_gives_the_same_features(pair):
  model, keras_model = pair
  features = _features(101, 80)
  expected = keras_model(features, training=False).numpy()
  with weights.kept(lambda: model(features)):
    exported = tf.function(model.call, autograph=False)
    actual = exported(features).numpy()
  np.testing.assert_allclose(actual, expected, atol=1e-4 * expected.std())


def test_what_an_odd_size_leaves_over_is_not_seen(pair):
  model, _ = pair
  features = _features(101, 80)
  changed = features.copy()
  changed[:, 96:] += 1.0  # 101 = 3 * 32 + 5; the stem drops but one frame.
  assert np.array_equal(model(features[:, :100]), model(features))
  assert not np.array_equal(model(changed[:, :100]), model(features))


@pytest.mark.parametrize("shape", [[1, 31, 64, 1], [1, 64, 31, 1]])
def test_features_too_small_for_the_reductions_are_refused(shape):
  with pytest.raises(ValueError, match="31 .*too few"):
    convnext.ConvNeXt("tiny")(tf.zeros(shape))


def test_the_blocks_are_not_hidden_by_the_shortcuts(pair):
  """Last: it changes the weights."""
  model, _ = pair
  features = _features(101, 80)
  expected = model(features).numpy()
  actual = _without(model, features)
  assert np.abs(actual - expected).max() > expected.std()


def _by_kind(model):
  """Weights by name and rank: the two order the parts of a block alike, but
  not the layer scale among them.
  """
  result = {}
  for v in model.trainable_variables:
    name = v.name.split("/")[-1].split(":")[0]
    if name == "gamma" and "layer_scale" in v.name:
      name = "layer_scale"
    name = "kernel" if name == "depthwise_kernel" else name
    result.setdefault((name, v.shape.rank), []).append(v)
  return result


def _without(model, features):
  """The embedding when every block's branch is nothing."""
  for v in model.trainable_variables:
    if "layer_scale" in v.name:
      v.assign(tf.zeros_like(v))
  return model(features).numpy()


def test_without_the_final_norm_the_embedding_is_the_plain_mean():
  features = tf.random.stateless_normal([2, 64, 32, 1], [1, 2])
  normed, plain = (convnext.ConvNeXt(final_norm=norm) for norm in (True, False))
  normed(features), plain(features)
  for our, their in zip(plain.variables, normed.variables):
    our.assign(their)
  assert len(normed.variables) - len(plain.variables) == 2
  x = plain(features).numpy()
  x = x - x.mean(-1, keepdims=True)
  expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
  np.testing.assert_allclose(normed(features), expected, atol=1e-4)


def test_gradients_in_bfloat16_are_those_in_float32(monkeypatch):
  monkeypatch.setitem(
    convnext._VARIANTS, "narrow", ((1, 1, 1, 1), (16, 16, 32, 32))
  )
  # Sums over 12,800 positions, in the first stage.
  features = tf.random.stateless_normal([8, 400, 64, 1], [1, 2])
  exact = convnext.ConvNeXt("narrow", stochastic_depth_rate=0.0)
  exact(features)
  with toy.precision("mixed_bfloat16"):
    model = convnext.ConvNeXt("narrow", stochastic_depth_rate=0.0)
    model(features)
  for our, their in zip(model.variables, exact.variables):
    if "layer_scale" in their.name:
      their.assign(tf.ones_like(their))
    our.assign(their)

  def gradients(model):
    @tf.function
    def of_a_sum():
      with tf.GradientTape() as tape:
        embedding = tf.cast(model(features, training=True), tf.float32)
        factors = tf.random.stateless_normal(embedding.shape, [3, 4])
        loss = tf.reduce_sum(embedding * factors)
      return tape.gradient(loss, model.trainable_variables)

    return of_a_sum()

  for variable, actual, expected in zip(
    exact.trainable_variables, gradients(model), gradients(exact)
  ):
    error = np.linalg.norm(actual - expected) / np.linalg.norm(expected)
    assert error < 0.05, variable.name
