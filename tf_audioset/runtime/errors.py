# SPDX-License-Identifier: Apache-2.0
"""The error that the user can mend: one line on the command line.

Everything else is a bug of the program and shows its traceback.
"""


class UserError(ValueError):
  """A mistake in what the user gave; the message says what to do about it."""
