# SPDX-License-Identifier: Apache-2.0
"""Epochs, draws and steps: the only place that turns one into another.

A step is one update, a draw one clip of its batch. An epoch is what lies
between two validations: as many draws as there are training clips, unless
another number is given.
"""

from __future__ import annotations

from tf_audioset.runtime.errors import UserError


def steps_per_epoch(
  num_clips: int, batch_size: int, epoch_clips: int | None = None
) -> int:
  """Returns the whole batches in an epoch, at least 1.

  Args:
    num_clips: Clips of the training split.
    batch_size: Global.
    epoch_clips: Draws in an epoch; None: `num_clips`.
  """
  draws = num_clips if epoch_clips is None else epoch_clips
  return max(1, draws // batch_size)


def total_steps(
  *,
  steps_per_epoch: int,
  batch_size: int,
  num_epochs: int | None = None,
  num_steps: int | None = None,
  num_draws: int | None = None,
) -> int:
  """Returns the steps of a run, whose length is given in one of three ways.

  Args:
    steps_per_epoch: Steps in an epoch.
    batch_size: Global.
    num_epochs: Length of the run in epochs; or
    num_steps: in steps; or
    num_draws: in clips, of which whole batches are drawn, at least 1.

  Raises:
    UserError: If not one of the three is given.
  """
  check_one(
    "train", num_epochs=num_epochs, num_steps=num_steps, num_draws=num_draws
  )
  if num_epochs is not None:
    return num_epochs * steps_per_epoch
  if num_steps is not None:
    return num_steps
  return max(1, num_draws // batch_size)


def warmup_epochs(
  schedule: str,
  *,
  steps_per_epoch: int,
  num_epochs: float,
  warmup_epochs: float | None = None,
  warmup_steps: int | None = None,
) -> float:
  """Returns the length of a warm-up in epochs.

  Args:
    schedule: Name of the schedule, for messages.
    steps_per_epoch: Steps in an epoch.
    num_epochs: Length of the run.
    warmup_epochs: Length of the warm-up in epochs; or
    warmup_steps: in steps.

  Raises:
    UserError: If not one of the two is given, or the warm-up is not shorter
      than the run.
  """
  given = {"warmup_epochs": warmup_epochs, "warmup_steps": warmup_steps}
  name = check_one(schedule, **given)
  if warmup_epochs is None:
    limit, of_run = num_epochs * steps_per_epoch, "the steps of the run"
    epochs = warmup_steps / steps_per_epoch
  else:
    limit, of_run = num_epochs, "its epochs (train.num_epochs, if given)"
    epochs = warmup_epochs
  if not 0 <= given[name] < limit:
    raise UserError(
      f"{schedule}.{name} is {given[name]}; it must be at least 0 and below "
      f"{of_run}, {limit:g}."
    )
  return epochs


def check_one(owner: str, **given: float | None) -> str:
  """Returns the name of the only value that is not None.

  Args:
    owner: What the values are bound to, such as "train".
    **given: Values by name.

  Raises:
    UserError: If none or several are given.
  """
  names = [name for name, value in given.items() if value is not None]
  if len(names) == 1:
    return names[0]
  listed = ", ".join(f"{owner}.{name}" for name in given)
  if not names:
    raise UserError(f"none of {listed} is given: bind one.")
  values = " and ".join(f"{owner}.{name} = {given[name]}" for name in names)
  raise UserError(
    f"{values} are given: bind one, and the others of {listed} to None."
  )
