# SPDX-License-Identifier: Apache-2.0
"""AudioSet tagging in TensorFlow 2: data, models, training, export.

`tf_audioset.load` is all that a notebook needs; see docs/python.md. The parts
are in packages, each of which may import those above it, none below:

  runtime      gin, files, errors, devices, random numbers
  data         audio files, records, prepared folders, the input pipeline
  preparation  labelled files to records
  features     waveform to log-mel
  kernels      operations of the models, made fast where they run
  models       features to embedding to logits
  evaluation   metrics, scores, reports
  serving      SavedModels and TFLite: written, loaded, called
  weights      weights of others and of earlier runs
  training     steps, optimizers, checkpoints, reports of a run
  experiment   all values of a run, and the run
  commands     the command lines
"""

from __future__ import annotations

import os
import warnings

__version__ = "0.1.0"

# TensorFlow announces a great deal on start; its errors arrive as exceptions
# all the same. To be set before it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Bytes that its client for buckets reads at once, which fit any clip of 10 s.
# Its default is 64 MB, for each clip that training takes from a shard.
os.environ.setdefault("GCS_READAHEAD_BUFFER_SIZE_BYTES", str(320 << 10))
# That it will drop this version of Python.
warnings.filterwarnings("ignore", module="google.api_core")


def load(path):
  """Loads a trained tagger; see `tf_audioset.serving.loaded.load`."""
  # TensorFlow is imported when it is needed: command lines answer at once.
  from tf_audioset.serving import loaded

  return loaded.load(path)
