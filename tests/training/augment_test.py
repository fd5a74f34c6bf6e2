# SPDX-License-Identifier: Apache-2.0
"""SpecAugment and Mixup: statistics, against NumPy and SciPy."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from tf_audioset.runtime.errors import UserError
from tf_audioset.training import augment

_SEED = tf.constant([3, 4])


@pytest.mark.parametrize("kind", ["freq", "time"])
def test_one_mask_has_uniform_width_and_start(kind):
  one = dict(num_freq_masks=0, num_time_masks=0, mask_value=0.0)
  one[f"num_{kind}_masks"] = 1
  mask = augment.SpecAugment(**one, max_freq_bands=4, max_time_frames=4)
  shape = {"time": [20000, 10, 2], "freq": [20000, 2, 10]}[kind]
  out = mask(tf.ones(shape), _SEED).numpy()
  if kind == "freq":
    out = out.transpose(0, 2, 1)
  assert (out[:, :, 0] == out[:, :, 1]).all()  # It covers the other axis.
  masked = out[:, :, 0] == 0
  widths = masked.sum(axis=1)
  counts = np.bincount(widths, minlength=5)
  assert scipy.stats.chisquare(counts).pvalue > 1e-3
  for width in range(1, 5):
    # In 10 places it starts at 0 ... 10 - width; a stretch has no holes.
    starts = masked[widths == width].argmax(axis=1)
    counts = np.bincount(starts, minlength=11 - width)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    ends = masked[widths == width][:, ::-1].argmax(axis=1)
    assert (starts + width + ends == 10).all()
  # Each example's own: neighbours tell nothing of each other.
  table = scipy.stats.contingency.crosstab(widths[::2], widths[1::2]).count
  assert scipy.stats.chi2_contingency(table).pvalue > 1e-3


@pytest.mark.parametrize("num_masks", [0, 1, 2, 3])
def test_the_number_of_masks(num_masks):
  mask = augment.SpecAugment(
    num_freq_masks=0, num_time_masks=num_masks, max_time_frames=1
  )
  out = mask(tf.ones([20000, 1000, 1]), _SEED).numpy()
  # Widths 0 or 1, and 1000 places: hardly two on one. So binomial.
  counts = np.bincount((out[:, :, 0] == 0).sum(axis=1), minlength=num_masks + 1)
  expected = 20000 * scipy.stats.binom.pmf(
    np.arange(num_masks + 1), num_masks, 0.5
  )
  np.testing.assert_allclose(counts, expected, atol=4 * np.sqrt(20000) / 2)
  assert len(counts) == num_masks + 1


def test_masks_of_both_kinds_and_their_number():
  mask = augment.SpecAugment(
    num_freq_masks=2,
    max_freq_bands=8,
    num_time_masks=2,
    max_time_frames=50,
    mask_value=-1.0,
  )
  out = mask(tf.ones([500, 501, 64]), _SEED).numpy()
  bands = (out == -1).all(axis=1).sum(axis=1)
  frames = (out == -1).all(axis=2).sum(axis=1)
  # Two widths, each uniform on 0 ... w, hardly overlapping: mean below w.
  assert 16 >= bands.max() > 8
  assert 100 >= frames.max() > 50
  assert 6.5 < bands.mean() < 8.1
  assert 44 < frames.mean() < 51
  outer = (out == -1).all(1)[:, None, :] | (out == -1).all(2)[:, :, None]
  np.testing.assert_array_equal(out == -1, outer)  # And nothing else.


def test_a_clip_shorter_than_the_mask_works():
  out = augment.SpecAugment()(tf.ones([4, 5, 3]), _SEED)
  assert out.shape == (4, 5, 3)


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0])
def test_lambda_is_beta_distributed(alpha):
  # Not more draws: Beta(0.2, 0.2) has 1.6 % of its mass so near 1 that float32
  # rounds it to 1, which a larger sample would show.
  draws = augment.Mixup(alpha).draw_lambda(tf.constant(4000), _SEED).numpy()
  test = scipy.stats.kstest(draws, scipy.stats.beta(alpha, alpha).cdf)
  assert test.pvalue > 1e-3


def test_mixup_pairs_by_a_permutation_and_mixes_targets_alike():
  batch = 64
  identity = tf.eye(batch)
  features, targets = augment.Mixup(0.8)(
    identity[:, tf.newaxis, :], identity, _SEED
  )
  np.testing.assert_array_equal(features.numpy()[:, 0], targets.numpy())
  weights = targets.numpy()
  np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-6)
  # Taking each one's own share away leaves each partner exactly once.
  partner = weights - np.diag(np.diag(weights))
  mixed = partner.sum(axis=1) > 1e-6
  assert mixed.sum() > batch // 2
  assert (np.count_nonzero(partner > 1e-6, axis=0) <= 1).all()


def test_a_masks_value_may_be_a_whole_number():
  masked = tf.function(augment.SpecAugment(mask_value=-18))(
    tf.zeros([4, 100, 64]), _SEED
  )
  assert set(np.unique(masked)) == {-18.0, 0.0}


def test_alpha_zero_changes_nothing():
  features = tf.random.stateless_normal([4, 5, 6], _SEED)
  mixed, targets = augment.Mixup(0.0)(features, tf.eye(4), _SEED)
  np.testing.assert_array_equal(mixed, features)
  np.testing.assert_array_equal(targets, tf.eye(4))


def test_negative_alpha_is_refused():
  with pytest.raises(ValueError, match="alpha is -1"):
    augment.Mixup(-1.0)


def test_the_seed_decides_and_xla_agrees():
  features = tf.random.stateless_normal([8, 60, 16], _SEED)
  targets = tf.eye(8)

  def both(seed):
    masked = augment.SpecAugment()(features, seed)
    return augment.Mixup(0.8)(masked, targets, seed)[0]

  eager = both(_SEED)
  np.testing.assert_array_equal(both(_SEED), eager)
  assert np.any(both(_SEED + 1) != eager)
  compiled = tf.function(both, jit_compile=True)
  np.testing.assert_allclose(compiled(_SEED), eager, atol=1e-5)


def _shifts(waveform, max_share=0.5):
  """How many pieces of 160 samples each clip is moved to the right."""
  roll = augment.TimeRoll(max_share)
  out = roll(tf.constant(waveform), _SEED).numpy()
  num = waveform.shape[1] // 160
  # Clips whose samples all differ: the first one tells the shift.
  shifts = (out == waveform[:, :1]).argmax(axis=1) // 160
  for row, moved, shift in zip(waveform, out, shifts):
    np.testing.assert_array_equal(moved, np.roll(row, 160 * shift))
  return (shifts + num // 2) % num - num // 2


@pytest.mark.parametrize("num_samples", [20 * 160, 21 * 160])
def test_a_roll_is_uniform_over_the_clip(num_samples):
  clip = np.arange(num_samples, dtype=np.int16)
  shifts = _shifts(np.tile(clip, [4000, 1]))
  num = num_samples // 160
  counts = np.bincount(shifts + num // 2, minlength=num)
  assert len(counts) == num
  assert scipy.stats.chisquare(counts).pvalue > 1e-3
  table = scipy.stats.contingency.crosstab(
    shifts[::2] // 4, shifts[1::2] // 4
  ).count
  assert scipy.stats.chi2_contingency(table).pvalue > 1e-3


def test_a_roll_by_a_share_of_the_clip():
  clip = np.arange(40 * 160, dtype=np.float32)
  shifts = _shifts(np.tile(clip, [4000, 1]), max_share=0.1)
  counts = np.bincount(shifts + 4, minlength=9)
  assert len(counts) == 9  # From -4 to 4.
  assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_a_roll_of_an_odd_length_is_a_roll():
  clip = np.arange(1601, dtype=np.int16)
  (out,) = augment.TimeRoll()(tf.constant(clip[np.newaxis]), _SEED).numpy()
  assert out[0] != 0
  np.testing.assert_array_equal(out, np.roll(clip, -int(out[0])))


def test_a_gain_is_uniform_in_decibels():
  rng = np.random.default_rng(1)
  waveform = np.float32(rng.normal(size=[4000, 10]))
  out = augment.Gain(-7, 6)(tf.constant(waveform), _SEED).numpy()
  factors = out / waveform
  np.testing.assert_allclose(factors, factors[:, :1].repeat(10, 1), rtol=1e-5)
  gain_db = 20 * np.log10(factors[:, 0])
  uniform = scipy.stats.uniform(-7, 13)
  assert scipy.stats.kstest(gain_db, uniform.cdf).pvalue > 1e-3
  assert abs(scipy.stats.pearsonr(gain_db[::2], gain_db[1::2])[0]) < 0.1


def test_the_same_seed_moves_and_amplifies_alike():
  waveform = tf.random.stateless_normal([5, 1600], [1, 1])
  for part in (augment.TimeRoll(), augment.Gain()):
    first = part(waveform, _SEED)
    np.testing.assert_array_equal(first, part(waveform, _SEED))
    assert np.any(first != part(waveform, tf.constant([3, 5])))
    compiled = tf.function(part, jit_compile=True)(waveform, _SEED)
    np.testing.assert_allclose(compiled, first, rtol=1e-6)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: augment.TimeRoll(0), "TimeRoll.max_share is 0; allowed is"),
    (lambda: augment.TimeRoll(0.6), "TimeRoll.max_share is 0.6; allowed is"),
    (lambda: augment.Gain(3, -3), "Gain.low_db is 3 and Gain.high_db is -3"),
    (lambda: augment.Gain(0, np.inf), "both finite"),
  ],
)
def test_rolls_and_gains_that_are_none_are_refused(make, message):
  with pytest.raises(UserError, match=message):
    make()


def test_the_masks_of_the_field():
  mask = augment.SpecAugment(
    num_freq_masks=1,
    max_freq_bands=24,
    num_time_masks=1,
    max_time_frames=192,
    mask_value=-1.0,
  )
  out = mask(tf.ones([4000, 1001, 64]), _SEED).numpy()
  bands = (out == -1).all(axis=1).sum(axis=1)
  frames = (out == -1).all(axis=2).sum(axis=1)
  for widths, most in ((bands, 24), (frames, 192)):
    uniform = np.bincount(widths, minlength=most + 1)
    assert len(uniform) == most + 1
    assert scipy.stats.chisquare(uniform).pvalue > 1e-3
