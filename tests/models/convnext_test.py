# SPDX-License-Identifier: Apache-2.0
"""ConvNeXt against the one of keras.applications, weights copied."""

import numpy as np
import pytest
import tensorflow as tf

from tests import toy
from tests.models import sizes
from tf_audioset.models import convnext
from tf_audioset.runtime import messages
from tf_audioset.runtime.errors import UserError

_SEED = [1, 2]


@pytest.fixture(name="pair", scope="module")
def _pair():
  """keras.applications' ConvNeXt-Tiny and ours, with the same weights."""
  keras_model = tf.keras.applications.ConvNeXtTiny(
    include_top=False,
    include_preprocessing=False,
    weights=None,
    input_shape=(None, None, 1),
    pooling="avg",
  )
  model = convnext.ConvNeXt("tiny", stochastic_depth_rate=0.0)
  model(tf.zeros([1, 32, 32, 1]))
  _randomise(model)
  ours, theirs = _by_kind(model), _by_kind(keras_model)
  assert ours.keys() == theirs.keys()
  for kind in ours:
    assert len(ours[kind]) == len(theirs[kind]), kind
    for our, their in zip(ours[kind], theirs[kind]):
      if "depthwise" in our.name and kind[1] == 4:
        # Keras's is a grouped convolution, [7, 7, 1, channels].
        our = tf.transpose(our, [0, 1, 3, 2])
      their.assign(our)
  return keras_model, model


def _randomise(model):
  """Sets values that hide nothing of what the layers compute."""
  rng = np.random.default_rng(0)
  for v in model.trainable_variables:
    if v.shape.rank == 1:
      # Layer scales of 1e-6 would hide whatever the blocks compute.
      low = 0.2 if "gamma" in v.name or "layer_scale" in v.name else -0.5
      v.assign(rng.uniform(low, low + 1.0, v.shape))
  # Their norms meet variances from 0.1 down to 1e-9, epsilon being 1e-6.
  before_norms = [model.stages[0][0][0]]
  for _, blocks in model.stages:
    before_norms += [block.depthwise for block in blocks]
  for layer in before_norms:
    scale = 10 ** rng.uniform(-4, 0)
    for v in layer.trainable_variables:
      v.assign(scale * v)


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


def _assert_close(actual, expected):
  np.testing.assert_allclose(actual, expected, atol=1e-4 * expected.std())


def test_tiny_gives_the_features_of_keras_applications(pair):
  keras_model, model = pair
  rng = np.random.default_rng(1)
  for size in sizes.USED:
    features = rng.normal(size=[1, *size, 1]).astype(np.float32)
    expected = keras_model(features, training=False).numpy()
    _assert_close(model(features).numpy(), expected)


def test_the_other_forms_give_the_same_features(pair):
  """Each has layer norms of its own."""
  model = pair[1]
  features = tf.random.stateless_normal([2, 101, 80, 1], _SEED)
  expected = model(features).numpy()
  as_a_cpu_trains = tf.function(model.call, autograph=False)
  _assert_close(as_a_cpu_trains(features, training=True).numpy(), expected)
  as_exported = tf.function(model.call, autograph=False)
  _assert_close(as_exported(features).numpy(), expected)


def test_the_blocks_are_most_of_the_features(pair):
  model = pair[1]
  features = tf.random.stateless_normal([1, 101, 64, 1], _SEED)
  expected = model(features).numpy()
  scales = [v for v in model.trainable_variables if "layer_scale" in v.name]
  values = [v.numpy() for v in scales]
  for v in scales:
    v.assign(tf.zeros_like(v))
  assert np.abs(model(features).numpy() - expected).max() > expected.std()
  for v, value in zip(scales, values):
    v.assign(value)


@pytest.mark.parametrize("size", [(31, 64), (64, 31), (1, 1)])
def test_too_few_frames_or_bands_are_refused(pair, size):
  """Reductions without padding would leave nothing to average."""
  inner = tf.keras.Sequential([pair[1]])
  with pytest.raises(UserError) as error:
    inner(tf.zeros([1, *size, 1]))
  line = messages.first_line(str(error.value))
  assert line.startswith("ConvNeXt takes at least 32 frames and 32 bands;")
  assert f"these are {size[0]} frames and {size[1]} bands" in line
  assert "Pipeline.crop_seconds" in line


def test_the_fewest_frames_and_bands_are_one_place(pair):
  keras_model, model = pair
  features = tf.random.stateless_normal([2, 32, 32, 1], _SEED)
  _assert_close(model(features).numpy(), keras_model(features).numpy())
  # Three more are less than the stem takes for one.
  longer = tf.pad(features, [[0, 0], [0, 3], [0, 3], [0, 0]])
  np.testing.assert_array_equal(model(longer), model(features))


def test_without_the_final_norm_the_embedding_is_the_plain_mean():
  features = tf.random.stateless_normal([2, 64, 32, 1], _SEED)
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
  features = tf.random.stateless_normal([8, 400, 64, 1], _SEED)
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
