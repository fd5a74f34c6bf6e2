# SPDX-License-Identifier: Apache-2.0
"""Runs tf_audioset/commands/synthesize.py, which says what it does."""

from tf_audioset.commands import synthesize

if __name__ == "__main__":
  synthesize.run()
