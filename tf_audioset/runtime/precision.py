# SPDX-License-Identifier: Apache-2.0
"""Sets Keras's policy for a while, and leaves nothing behind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tensorflow as tf


@contextlib.contextmanager
def policy(policy: str | tf.keras.mixed_precision.Policy) -> Iterator[None]:
  """Sets the policy that layers take when they are made.

  Args:
    policy: Such as "mixed_bfloat16".
  """
  before = tf.keras.mixed_precision.global_policy()
  tf.keras.mixed_precision.set_global_policy(policy)
  try:
    yield
  finally:
    tf.keras.mixed_precision.set_global_policy(before)
