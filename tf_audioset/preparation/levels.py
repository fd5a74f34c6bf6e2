# SPDX-License-Identifier: Apache-2.0
"""Mean and standard deviation of the log-mel of prepared clips."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf_audioset import features
from tf_audioset.data import prepared, records

# Of so many clips, spread evenly over the split, whose order is that of a hash.
# The mean of a clip has a standard deviation of about half that of all values,
# so that the mean of these is known to 2 % of it.
_NUM_CLIPS = 1000


def measure(files: Sequence[str], index: prepared.Index) -> dict[str, float]:
  """Measures the log-mel of the experiments, `features.LogMel` by default.

  Args:
    files: Shards of a split.
    index: Of their records.

  Returns:
    "log_mel_mean" and "log_mel_sd" over all frames and bands of up to 1,000
    clips, for `prepared.SplitInfo`; empty if no clip is long enough.
  """
  frontend = features.LogMel()

  @tf.function(
    autograph=False, input_signature=[tf.TensorSpec([None], tf.int16)]
  )
  def log_mel_of(samples):
    return frontend(samples[tf.newaxis], engine="fft")

  number, total, squares = 0, 0.0, 0.0
  chosen = np.linspace(0, len(index) - 1, min(len(index), _NUM_CLIPS))
  for row in np.unique(chosen.round().astype(int)):
    record = prepared.read_record(
      tf.constant(files[index.shard[row]]), tf.constant(index.offset[row])
    )
    samples = records.decode_waveform(
      records.parse_example(record), crop_samples=None, position=None
    )
    if len(samples) < 400:  # A window.
      continue
    log_mel = np.float64(log_mel_of(samples))
    number += log_mel.size
    total += log_mel.sum()
    squares += (log_mel**2).sum()
  if not number:
    return {}
  mean = total / number
  sd = max(squares / number - mean**2, 0.0) ** 0.5
  return {"log_mel_mean": round(mean, 4), "log_mel_sd": round(sd, 4)}
