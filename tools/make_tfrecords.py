# SPDX-License-Identifier: Apache-2.0
"""Runs tf_audioset/commands/make_tfrecords.py, which says what it does."""

from tf_audioset.commands import make_tfrecords

if __name__ == "__main__":
  make_tfrecords.run()
