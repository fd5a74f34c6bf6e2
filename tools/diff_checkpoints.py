# SPDX-License-Identifier: Apache-2.0
"""Runs tf_audioset/commands/diff_checkpoints.py, which says what it does."""

from tf_audioset.commands import diff_checkpoints

if __name__ == "__main__":
  diff_checkpoints.run()
