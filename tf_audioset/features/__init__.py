# SPDX-License-Identifier: Apache-2.0
"""Turns waveforms into log-mels or log spectrograms, on the device.

`layers` has the two front ends, `normalisation` what may follow them, `mel` the
filters, `stft` where the frames are, and `engines` the ways to compute the
transform. Imports `runtime` only.
"""

from tf_audioset.features.engines import ENGINES
from tf_audioset.features.layers import LogMel, LogSpectrogram
from tf_audioset.features.mel import (
  MEL_SCALES,
  hz_to_mel,
  mel_filterbank,
  mel_to_hz,
)
from tf_audioset.features.normalisation import BandNorm, ScalarNorm
from tf_audioset.features.stft import ALIGNMENTS, Stft

__all__ = [
  "ALIGNMENTS",
  "ENGINES",
  "BandNorm",
  "MEL_SCALES",
  "LogMel",
  "LogSpectrogram",
  "ScalarNorm",
  "Stft",
  "hz_to_mel",
  "mel_filterbank",
  "mel_to_hz",
]
