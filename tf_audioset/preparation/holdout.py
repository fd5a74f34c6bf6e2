# SPDX-License-Identifier: Apache-2.0
"""Divides clips into two parts that share no group and have like classes."""

from __future__ import annotations

import collections
import hashlib
import os
import re
from collections.abc import Sequence

import numpy as np

from tf_audioset.preparation import clip_lists
from tf_audioset.runtime.errors import UserError

RECORDING, FOLDER, CLIP = "recording", "folder", "clip"


def groups(clips: Sequence[clip_lists.Clip], group_by: str) -> list[str]:
  """Returns the group of each clip, whose clips stay together.

  Args:
    clips: The clips.
    group_by: "clip": each is its own group; "recording": what its id has before
      the last @; "folder": the folder that its id has; otherwise a regular
      expression that is searched for in the id, whose first group it is, or all
      that it matches.

  Raises:
    UserError: If the expression is none, or is not found in an id.
  """
  if group_by == CLIP:
    return [clip.id for clip in clips]
  if group_by == RECORDING:
    return [clip.id.rpartition("@")[0] or clip.id for clip in clips]
  if group_by == FOLDER:
    return [os.path.dirname(clip.id) for clip in clips]
  try:
    pattern = re.compile(group_by)
  except re.error as e:
    raise UserError(
      f"--group_by={group_by}: is none of {RECORDING}, {FOLDER} and {CLIP}, "
      f"and no regular expression: {e}."
    ) from e
  found = [pattern.search(clip.id) for clip in clips]
  unmatched = [clip.id for clip, match in zip(clips, found) if not match]
  if unmatched:
    raise UserError(
      f"--group_by={group_by}: is not found in {len(unmatched):,} of "
      f"{len(clips):,} ids, such as {unmatched[0]}."
    )
  return [
    (match[1] if pattern.groups and match[1] is not None else match[0])
    for match in found
  ]


def choose(
  keys: Sequence[str],
  labels: Sequence[Sequence[int]],
  percent: float,
) -> np.ndarray:
  """Chooses the clips to hold out, with each class's share as near as can be.

  Group by group, beginning with those of the class that has the fewest clips
  left, the part takes it that lacks more of this class. A class of two groups
  or more then gets one on either side, if that takes none from others.

  Args:
    keys: The group of each clip.
    labels: Indices of the classes of each clip.
    percent: The wanted share of the clips, 0 to 100.

  Returns:
    bool [num_clips]. It does not depend on the order of the clips.

  Reference: Sechidis et al., On the stratification of multi-label data, 2011.
  """
  names = sorted(set(keys), key=_digest)
  place = {name: i for i, name in enumerate(names)}
  # The last column is for all clips: it counts for those without a label.
  num_classes = 1 + max((i for row in labels for i in row), default=-1)
  counts = np.zeros([len(names), num_classes + 1])
  for key, row in zip(keys, labels):
    counts[place[key], [*row, num_classes]] += 1
  share = percent / 100
  lacking = counts.sum(axis=0) * np.array([[1 - share], [share]])
  side = np.full(len(names), -1)
  while (side < 0).any():
    left = np.where((side < 0)[:, np.newaxis], counts, 0).sum(axis=0)
    left[:-1][left[:-1] == 0] = np.inf
    rarest = left[:-1].argmin() if np.isfinite(left[:-1]).any() else num_classes
    members = np.flatnonzero((side < 0) & (counts[:, rarest] > 0))
    # The largest first: small ones even out what is left.
    for i in sorted(members, key=lambda i: -counts[i, -1]):
      wants = lacking[:, rarest], lacking[:, -1]
      side[i] = max((0, 1), key=lambda s: (wants[0][s], wants[1][s], -s))
      lacking[side[i]] -= counts[i]
  _give_each_class_both(side, counts[:, :-1] > 0, counts[:, -1])
  return np.array([side[place[key]] == 1 for key in keys], bool)


def _give_each_class_both(side, has, sizes) -> None:
  """Moves groups so that classes of several groups are on both sides."""
  for target in (1, 0):
    for index in range(has.shape[1]):
      members = np.flatnonzero(has[:, index])
      if len(members) < 2 or (side[members] == target).any():
        continue
      for i in sorted(members, key=lambda i: sizes[i]):
        rest = (side != target) & (np.arange(len(side)) != i)
        if (has[rest].any(axis=0) >= has[i]).all():
          side[i] = target
          break


def one_sided(
  clips: Sequence[clip_lists.Clip], is_out: np.ndarray, names: Sequence[str]
) -> list[str]:
  """Returns the names of the classes that have clips in one part only."""
  sides = collections.defaultdict(set)
  for clip, side in zip(clips, is_out):
    for label in clip.labels:
      sides[label].add(bool(side))
  return [names[i] for i in sorted(sides) if len(sides[i]) == 1]


def _digest(text: str) -> bytes:
  return hashlib.sha1(text.encode()).digest()
