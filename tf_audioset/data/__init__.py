# SPDX-License-Identifier: Apache-2.0
"""Turns audio files and records into batches of waveforms.

Imports `runtime` only. `audio`, `flac` and `labels` do without TensorFlow, as
preparation runs them in many processes.
"""
