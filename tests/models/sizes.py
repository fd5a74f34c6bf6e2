# SPDX-License-Identifier: Apache-2.0
"""The sizes that are used: padding tells where a stride does not divide."""

USED = tuple(
  (num_frames, num_bands)
  for num_frames in (501, 504, 1001, 101)
  for num_bands in (64, 80, 128)
)
