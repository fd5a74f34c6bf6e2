# SPDX-License-Identifier: Apache-2.0
"""AudioSet tagging in TensorFlow 2: data, models, training, export."""

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
