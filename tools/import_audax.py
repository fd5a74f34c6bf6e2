# SPDX-License-Identifier: Apache-2.0
"""Runs tf_audioset/commands/import_audax.py, which says what it does."""

from tf_audioset.commands import import_audax

if __name__ == "__main__":
  import_audax.run()
