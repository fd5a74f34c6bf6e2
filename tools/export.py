# SPDX-License-Identifier: Apache-2.0
"""Runs tf_audioset/commands/export.py, which says what it does."""

from tf_audioset.commands import export

if __name__ == "__main__":
  export.run()
