# SPDX-License-Identifier: Apache-2.0
"""EfficientNet against the one of keras.applications, weights copied."""

import numpy as np
import pytest
import tensorflow as tf

from tests.models import sizes
from tf_audioset.models import efficientnet


@pytest.mark.parametrize(("num_frames", "num_bands"), sizes.USED)
def test_b0_gives_the_features_of_keras_applications(num_frames, num_bands):
  # Keras's pads by the size that it is built for.
  shape = (num_frames, num_bands, 3)
  keras_model = tf.keras.applications.EfficientNetB0(
    include_top=False, weights=None, input_shape=shape, pooling="avg"
  )
  # After its preprocessing (a rescaling, a normalisation, a rescaling), which
  # is not part of the architecture.
  body = tf.keras.Model(
    keras_model.get_layer("stem_conv_pad").input, keras_model.output
  )
  model = efficientnet.EfficientNet("b0", batch_norm_epsilon=1e-3)
  rng = np.random.default_rng(0)
  features = rng.normal(size=[1, *shape]).astype(np.float32)
  model(features)
  for ours, theirs in (
    (model.trainable_variables, body.trainable_variables),
    (model.non_trainable_variables, body.non_trainable_variables),
  ):
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs):
      assert our.shape == their.shape, (our.name, their.name)
      if their.shape.rank == 1:
        low = 0.5 if "gamma" in their.name or "var" in their.name else -0.5
        their.assign(rng.uniform(low, low + 1.0, their.shape))
      our.assign(their)
  expected = body(features, training=False).numpy()
  actual = model(features).numpy()
  assert expected.std() > 1e-3
  np.testing.assert_allclose(actual, expected, atol=1e-4 * expected.std())


def test_squeeze_and_excitation_without_bias_lacks_only_the_biases():
  names = []
  for se_bias in (True, False):
    model = efficientnet.EfficientNet("b0", 0.0, se_bias)
    model(tf.zeros([1, 32, 32, 1]))
    names.append([v.name.split("/")[-1] for v in model.trainable_variables])
  # Two convolutions in each of 16 blocks.
  assert len(names[0]) - len(names[1]) == 32
  assert "bias:0" in names[0] and "bias:0" not in names[1]
