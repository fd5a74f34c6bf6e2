# SPDX-License-Identifier: Apache-2.0
"""Runs tf_audioset/commands/inspect_records.py, which says what it does."""

from tf_audioset.commands import inspect_records

if __name__ == "__main__":
  inspect_records.run()
