# SPDX-License-Identifier: Apache-2.0
"""Says where the import of audax's checkpoints went."""

import sys

if __name__ == "__main__":
  print(
    "import_audax: error: this is now part of tools/import_weights.py: give "
    "that --format=audax and the same flags.",
    file=sys.stderr,
  )
  sys.exit(2)
