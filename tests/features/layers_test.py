# SPDX-License-Identifier: Apache-2.0
"""The front ends' arguments: they have an effect, or are refused."""

import numpy as np
import pytest
import tensorflow as tf

from tests import toy
from tf_audioset import features
from tf_audioset.models import resnet, tagger
from tf_audioset.runtime.errors import UserError
from tf_audioset.training import losses


def _waveform():
  return np.random.default_rng(0).normal(0, 3000, [2, 8000]).astype(np.int16)


def test_the_front_end_stays_float32_under_mixed_precision():
  expected = features.LogMel()(_waveform()).numpy()
  with toy.precision("mixed_bfloat16"):
    actual = features.LogMel()(_waveform())
  assert actual.dtype == tf.float32
  np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("frontend", [features.LogMel, features.LogSpectrogram])
def test_another_engine_can_be_asked_for(frontend):
  layer = frontend(engine="fft")
  other = frontend(engine="matmul")(_waveform())
  np.testing.assert_array_equal(layer(_waveform(), engine="matmul"), other)
  assert np.any(other.numpy() != layer(_waveform()).numpy())


@pytest.mark.parametrize("takes_int16", [True, False])
def test_a_tagger_gives_16_bits_to_front_ends_that_take_them(takes_int16):
  seen = []

  class FrontEnd(tf.keras.layers.Layer):
    def call(self, waveform):
      seen.append(waveform)
      return tf.zeros([2, 20, 8])

  frontend = FrontEnd()
  if takes_int16:
    frontend.takes_int16 = True
  model = tagger.Tagger(
    3,
    frontend=frontend,
    backbone=resnet.ResNet(width=4),
    loss=losses.MultiLabel(),
  )
  model(tf.constant(_waveform()))
  expected = _waveform() if takes_int16 else _waveform() / np.float32(32768)
  assert seen[0].dtype == expected.dtype
  np.testing.assert_array_equal(seen[0], expected)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (dict(window_samples=1200), "1200.*at most the 1024"),
    (dict(window_samples=1), "window of 1 samples every 160"),
    (dict(hop_samples=0), "window of 400 samples every 0"),
    (dict(engine="gpu"), "'gpu'.*fft"),
    (dict(alignment="left"), "'left'.*centred"),
  ],
)
def test_values_that_are_not_allowed_are_refused_at_once(options, message):
  with pytest.raises(UserError, match=message):
    features.LogMel(**options)
