# SPDX-License-Identifier: Apache-2.0
"""Runs tf_audioset/commands/serve_client.py, which says what it does."""

from tf_audioset.commands import serve_client

if __name__ == "__main__":
  serve_client.run()
