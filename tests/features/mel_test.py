# SPDX-License-Identifier: Apache-2.0
"""The mel filters against golden values, NumPy and published numbers."""

import numpy as np
import pytest

from tests import reference
from tf_audioset import features
from tf_audioset.runtime.errors import UserError


def _filterbank(**options):
  defaults = dict(
    num_mels=64,
    fft_samples=1024,
    sample_rate_hz=16000,
    lower_hz=60.0,
    upper_hz=7800.0,
  )
  return features.mel_filterbank(**{**defaults, **options})


def test_filterbank_equals_the_golden_values():
  with np.load(reference.golden("frontend.npz")) as golden:
    expected = golden["mel_filterbank"]
  np.testing.assert_allclose(_filterbank(), expected, atol=1e-6)


@pytest.mark.parametrize("fft_samples", [400, 401, 1023])
def test_the_bins_of_any_fft_are_where_numpy_has_them(fft_samples):
  filters = _filterbank(num_mels=20, fft_samples=fft_samples)
  edges_hz = features.mel_to_hz(
    np.linspace(*features.hz_to_mel([60.0, 7800.0]), 22)
  )
  bins_hz = np.fft.rfftfreq(fft_samples, 1 / 16000)
  for i, of_band in enumerate(filters.T):
    expected = np.interp(bins_hz, edges_hz[i : i + 3], [0, 1, 0])
    np.testing.assert_allclose(of_band, expected, atol=1e-9)


def test_slaneys_scale_has_the_centres_of_his_auditory_toolbox():
  # 13 linear filters 66.67 Hz apart from 200 Hz, 27 logarithmic ones each
  # 1.0711703 times the last: mfcc.m, 1998.
  centres_hz = 200 + 200 / 3 * np.arange(13)
  ratios = 1.0711703 ** np.arange(1, 28)
  centres_hz = np.append(centres_hz, centres_hz[-1] * ratios)
  mels = features.hz_to_mel(centres_hz, "slaney")
  np.testing.assert_allclose(np.diff(mels), 1.0, atol=1e-5)
  np.testing.assert_allclose(
    features.mel_to_hz(mels, "slaney"), centres_hz, rtol=1e-12
  )


@pytest.mark.parametrize("scale", features.MEL_SCALES)
def test_area_normalised_filters_have_area_1(scale):
  filters = _filterbank(
    num_mels=20, fft_samples=65536, mel_scale=scale, area_normalised=True
  )
  area = filters.sum(axis=0) * 16000 / 65536
  np.testing.assert_allclose(area, 1.0, rtol=1e-3)


def test_an_unknown_scale_is_refused():
  with pytest.raises(UserError, match="'bark'.*slaney"):
    features.LogMel(mel_scale="bark")


def test_band_edge_above_nyquist_is_refused():
  with pytest.raises(UserError, match="Nyquist|half the sample rate"):
    features.LogMel(sample_rate_hz=8000)
