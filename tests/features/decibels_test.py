# SPDX-License-Identifier: Apache-2.0
"""CED's front end against NumPy, torchaudio's values, and in training."""

import numpy as np
import pytest
import tensorflow as tf

from tests import numpy_ced, reference
from tf_audioset.features import decibels
from tf_audioset.models import tagger
from tf_audioset.training import losses


def _sounds(num_samples=8000):
  """A tone that rises, noise, and silence with a click."""
  rng = np.random.default_rng(0)
  time = np.arange(num_samples) / 16000
  click = np.zeros(num_samples)
  click[num_samples // 2] = 1.0
  return np.float32(
    [0.5 * np.sin(9000 * time**2), 0.1 * rng.normal(size=num_samples), click]
  )


@pytest.mark.parametrize(
  # What products and transforms in float32 lose of the faintest cells.
  ("engine", "limit_db"),
  [("fft", 1e-3), ("matmul", 0.02), ("fft32", 0.5)],
)
def test_the_log_mel_is_numpys(engine, limit_db):
  sounds = _sounds()
  actual = decibels.DecibelMel(engine=engine).decibels(sounds)
  expected = np.array([numpy_ced.log_mel(sound).T for sound in sounds])
  assert actual.shape == expected.shape == (3, 51, 64)
  # Each clip has its own floor, also in a batch.
  assert expected.min(axis=(1, 2))[2] == -100 and np.ptp(expected[0]) == 120
  np.testing.assert_allclose(actual, expected, atol=limit_db)


def test_the_log_mel_is_torchaudios():
  with np.load(reference.golden("frontend.npz")) as file:
    waveform = file["waveform_5s"].astype(np.float32) / 32768
  frontend = decibels.DecibelMel()
  with np.load(reference.golden("ced_tiny_expected.npz")) as file:
    for name, clips in (("5s", waveform), ("1s", waveform[:, 20000:36000])):
      golden = np.transpose(file[f"logmel_db_{name}"], [0, 2, 1])
      actual = frontend.decibels(clips).numpy()
      # PyTorch's transform is in float32: more than 60 dB below the maximum,
      # its noise can be seen. (With another instruction set PyTorch differs
      # from these values by up to 0.12 dB.)
      limit = np.where(golden > golden.max((1, 2), keepdims=True) - 60, 2e-3, 1)
      assert (np.abs(actual - golden) < limit).all()
      np.testing.assert_allclose(actual, golden, atol=0.2)


def test_the_batch_norm_learns_only_when_it_is_trained():
  frontend = decibels.DecibelMel(norm_momentum=0.0)
  sounds = _sounds()
  levels = frontend.decibels(sounds).numpy()
  untouched = frontend(sounds).numpy()
  np.testing.assert_allclose(untouched, levels / np.sqrt(1 + 1e-5), rtol=1e-6)
  normed = frontend(sounds, training=True).numpy()
  mean, variance = levels.mean(axis=(0, 1)), levels.var(axis=(0, 1))
  expected = (levels - mean) / np.sqrt(variance + 1e-5)
  np.testing.assert_allclose(normed, expected, atol=1e-3)
  np.testing.assert_allclose(frontend.norm.moving_mean, mean, rtol=1e-4)
  np.testing.assert_allclose(frontend(sounds), expected, atol=1e-3)


@pytest.mark.parametrize("freeze", [True, False])
def test_a_frozen_model_keeps_its_statistics(freeze):
  flatten = tf.keras.Sequential([tf.keras.layers.GlobalAveragePooling2D()])
  model = tagger.Tagger(
    2,
    frontend=decibels.DecibelMel(),
    backbone=_WithoutSeed(flatten),
    loss=losses.MultiLabel(),
    freeze_backbone=freeze,
  )
  model(_sounds())
  before = model.frontend.norm.moving_mean.numpy()
  seed = tf.constant([1, 2])
  # A picture of what the model is trained on must change nothing.
  model.augmented(_sounds(), tf.zeros([3, 2]), seed)
  np.testing.assert_array_equal(model.frontend.norm.moving_mean, before)
  model.train_logits(_sounds(), tf.zeros([3, 2]), seed)
  is_same = (model.frontend.norm.moving_mean.numpy() == before).all()
  assert is_same == freeze


class _WithoutSeed(tf.keras.layers.Layer):
  def __init__(self, layer):
    super().__init__()
    self._layer = layer

  def call(self, features, training=False, seed=None):
    return self._layer(features)


def test_gradients_reach_the_batch_norm_under_xla():
  frontend = decibels.DecibelMel(engine="matmul")
  sounds = _sounds()
  frontend(sounds)

  @tf.function(jit_compile=True)
  def gradients(sounds):
    with tf.GradientTape() as tape:
      loss = tf.reduce_sum(frontend(sounds, training=True) ** 2)
    return tape.gradient(loss, frontend.trainable_variables)

  scale, offset = gradients(sounds)
  # The sum of squares of what is normalised, and twice the sum of it.
  np.testing.assert_allclose(scale, np.full(64, 2 * 3 * 51), rtol=1e-3)
  np.testing.assert_allclose(offset, np.zeros(64), atol=0.1)


@pytest.mark.parametrize(
  "options", [{"min_power": 0.0}, {"top_db": -1.0}, {"upper_hz": 9000.0}]
)
def test_impossible_values_are_refused(options):
  (name,) = options
  with pytest.raises(ValueError, match=f"{name}|band edges"):
    decibels.DecibelMel(**options)
