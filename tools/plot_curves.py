# SPDX-License-Identifier: Apache-2.0
"""Runs tf_audioset/commands/plot_curves.py, which says what it does."""

from tf_audioset.commands import plot_curves

if __name__ == "__main__":
  plot_curves.run()
