# SPDX-License-Identifier: Apache-2.0
"""Runs tf_audioset/commands/import_weights.py, which says what it does."""

from tf_audioset.commands import import_weights

if __name__ == "__main__":
  import_weights.run()
