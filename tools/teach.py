# SPDX-License-Identifier: Apache-2.0
"""Runs tf_audioset/commands/teach.py, which says what it does."""

from tf_audioset.commands import teach

if __name__ == "__main__":
  teach.run()
