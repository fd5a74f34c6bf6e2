# SPDX-License-Identifier: Apache-2.0
"""Runs tf_audioset/commands/evaluate.py, which says what it does."""

from tf_audioset.commands import evaluate

if __name__ == "__main__":
  evaluate.run()
