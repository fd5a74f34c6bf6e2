# SPDX-License-Identifier: Apache-2.0
"""The losses against NumPy and SciPy."""

import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from tf_audioset.training import losses

_RNG = np.random.default_rng(0)
_LOGITS = _RNG.normal(size=(5, 7)) * 3
_SOFT = scipy.special.expit(_RNG.normal(size=(5, 7)))


def _loss(loss, targets):
  return loss(
    tf.constant(targets, tf.float32), tf.constant(_LOGITS, tf.float32)
  )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_multi_label_equals_numpy(smoothing):
  p = scipy.special.expit(_LOGITS)
  y = _SOFT * (1 - smoothing) + smoothing * 0.5
  expected = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p), axis=1)
  actual = _loss(losses.MultiLabel(smoothing), _SOFT)
  np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_multi_class_equals_keras(smoothing):
  targets = np.eye(7)[[0, 3, 3, 6, 2]]
  expected = tf.keras.losses.CategoricalCrossentropy(
    from_logits=True, label_smoothing=smoothing, reduction="none"
  )(targets, _LOGITS)
  actual = _loss(losses.MultiClass(smoothing), targets)
  np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_several_labels_share_a_clip_and_none_costs_nothing():
  targets = np.zeros([5, 7])
  targets[0, [1, 4]] = 1
  log_p = scipy.special.log_softmax(_LOGITS, axis=1)
  actual = _loss(losses.MultiClass(), targets).numpy()
  assert actual[0] == pytest.approx(-(log_p[0, 1] + log_p[0, 4]) / 2, rel=1e-5)
  assert (actual[1:] == 0).all()


# As of a trained model: probabilities that float32 rounds to 0 or 1.
_FAR = np.array([[-1e4, -200.0, -90.0, -17.0, 17.0, 90.0, 1e4]])


@pytest.mark.parametrize("label", [0.0, 0.3, 1.0])
def test_multi_label_is_exact_where_probabilities_are_0_or_1(label):
  logits = tf.constant(_FAR, tf.float32)
  with tf.GradientTape() as tape:
    tape.watch(logits)
    loss = losses.MultiLabel()(tf.fill(logits.shape, label), logits)
  gradient = tape.gradient(loss, logits)
  # softplus(x) - x * label, of which the slope is the sigmoid - label.
  expected = np.mean(np.logaddexp(0, _FAR) - _FAR * label, axis=1)
  slope = (scipy.special.expit(_FAR) - label) / _FAR.size
  np.testing.assert_allclose(loss, expected, rtol=1e-6)
  np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=1e-38)
  scores = losses.MultiLabel().log_scores(logits)
  np.testing.assert_allclose(
    scores, -np.logaddexp(0, -_FAR), rtol=1e-6, atol=1e-38
  )


def test_multi_class_is_exact_where_probabilities_are_0_or_1():
  logits = tf.constant(_FAR, tf.float32)
  expected = scipy.special.log_softmax(_FAR, axis=1)
  scores = losses.MultiClass().log_scores(logits)
  np.testing.assert_allclose(scores, expected, rtol=1e-6)
  for label in range(_FAR.size):
    loss = losses.MultiClass()(tf.one_hot([label], _FAR.size), logits)
    np.testing.assert_allclose(loss, -expected[:, label], rtol=1e-6)


def test_scores_are_probabilities():
  logits = tf.constant(_LOGITS, tf.float32)
  np.testing.assert_allclose(
    np.exp(losses.MultiLabel().log_scores(logits)),
    scipy.special.expit(_LOGITS),
    rtol=1e-5,
  )
  np.testing.assert_allclose(
    np.exp(losses.MultiClass().log_scores(logits)),
    scipy.special.softmax(_LOGITS, axis=1),
    rtol=1e-5,
  )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_clip_without_a_label_has_no_gradient(smoothing, jit_compile):
  targets = np.eye(7)[[0, 3, 3, 6, 2]]
  smooth = targets * (1 - smoothing) + smoothing / 7
  expected = scipy.special.softmax(_LOGITS, axis=1) - smooth
  targets[1] = expected[1] = 0

  @tf.function(jit_compile=jit_compile)
  def gradient(logits):
    loss = losses.MultiClass(smoothing)
    return tf.gradients(loss(tf.constant(targets, tf.float32), logits), logits)

  (actual,) = gradient(tf.constant(_LOGITS, tf.float32))
  np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize("loss", [losses.MultiLabel, losses.MultiClass])
def test_a_smoothing_of_everything_is_refused(loss):
  with pytest.raises(ValueError, match=f"{loss.__name__}.*is 1.0"):
    loss(1.0)


def test_what_becomes_of_several_labels_is_one_of_two_things():
  assert losses.MultiClass().needs_one_label
  assert not losses.MultiClass(several_labels="share").needs_one_label
  with pytest.raises(
    ValueError, match="several_labels is 'all': allowed are refuse, share"
  ):
    losses.MultiClass(several_labels="all")
