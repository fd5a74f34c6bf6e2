# SPDX-License-Identifier: Apache-2.0
"""The TFLite models against the model they are made of."""

import os

import numpy as np
import pytest
import tensorflow as tf

from tf_audioset import features
from tf_audioset.data import pipeline as pipeline_lib
from tf_audioset.models import resnet, tagger
from tf_audioset.preparation import synthetic
from tf_audioset.serving import tflite
from tf_audioset.training import losses

_MIN_SAMPLES = 8000


@pytest.fixture(name="model", scope="module")
def _model():
  tf.keras.utils.set_random_seed(1)
  model = tagger.Tagger(
    4,
    frontend=features.LogMel(),
    backbone=resnet.ResNet(18, width=8),
    loss=losses.MultiClass(),
  )
  model(tf.zeros([1, _MIN_SAMPLES]))
  return model


def _scores(model, waveform):
  """float32 [num_classes], of the model itself."""
  padded = pipeline_lib.pad(tf.constant(waveform), _MIN_SAMPLES, "repeat")
  return tf.nn.softmax(model(padded[tf.newaxis]))[0].numpy()


@pytest.mark.parametrize(
  ("int8_weights", "limit"), [(False, 1e-3), (True, 0.05)]
)
def test_scores_equal_the_models_at_any_length(
  model, int8_weights, limit, capfd
):
  capfd.readouterr()
  content = tflite.convert(
    model,
    min_samples=_MIN_SAMPLES,
    padding="repeat",
    int8_weights=int8_weights,
  )
  assert capfd.readouterr().err == ""
  lite = tflite.TFLiteTagger(content)
  rng = np.random.default_rng(0)
  seen = []
  # Loud and faint bands, silence, clips shorter than the crop.
  for make, num_samples in (
    (synthetic.sine_wave, 20000),
    (synthetic.pink_noise, 3000),
    (synthetic.sine_wave, 80001),
    (lambda rng, num_samples, rate_hz: np.zeros(num_samples), 16000),
    (synthetic.pink_noise, 1),
  ):
    waveform = np.float32(0.1 * make(rng, num_samples, 16000))
    scores, seconds = lite.score(waveform)
    assert seconds > 0
    seen.append(scores)
    expected = _scores(model, waveform)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=limit)
  # Limits that mean something: the scores differ by more.
  assert np.ptp(seen, axis=0).max() > 3 * limit
  num_weights = sum(int(np.prod(v.shape)) for v in model.variables)
  bytes_a_weight = len(content) / num_weights
  assert bytes_a_weight < (1.6 if int8_weights else 4.6)
  # Only what every interpreter has: "Flex" would be TensorFlow's own.
  interpreter = tf.lite.Interpreter(model_content=content)
  names = {op["op_name"] for op in interpreter._get_ops_details()}
  assert "CONV_2D" in names and "RFFT2D" in names
  assert not [name for name in names if "Flex" in name or "CUSTOM" in name]


def test_the_converter_is_heard_only_if_it_fails(capfd):
  with tflite._quiet():
    os.write(2, b"90 lines\n")
  os.write(2, b"after\n")
  assert capfd.readouterr().err == "after\n"
  with pytest.raises(ValueError, match="wrong"), tflite._quiet():
    os.write(2, b"the reason\n")
    raise ValueError("wrong")
  assert capfd.readouterr().err == "the reason\n"
