# SPDX-License-Identifier: Apache-2.0
"""Runs tf_audioset/commands/predict.py, which says what it does."""

from tf_audioset.commands import predict

if __name__ == "__main__":
  predict.run()
