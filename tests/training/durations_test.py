# SPDX-License-Identifier: Apache-2.0
"""Epochs, draws and steps against arithmetic by hand."""

import pytest

from tf_audioset.training import durations


@pytest.mark.parametrize(
  ("num_clips", "batch_size", "epoch_clips", "expected"),
  [
    (1_786_000, 2048, None, 872),
    (1_786_000, 2048, 204_800, 100),
    (1_786_000, 2048, 204_799, 99),
    (24, 8, None, 3),
    (24, 32, None, 1),  # Fewer clips than a batch.
  ],
)
def test_steps_of_an_epoch(num_clips, batch_size, epoch_clips, expected):
  steps = durations.steps_per_epoch(num_clips, batch_size, epoch_clips)
  assert steps == expected


@pytest.mark.parametrize(
  ("given", "expected"),
  [
    ({"num_epochs": 50}, 43_600),
    ({"num_steps": 20_000}, 20_000),
    ({"num_draws": 40_960_000}, 20_000),
    ({"num_draws": 4095}, 1),
  ],
)
def test_steps_of_a_run(given, expected):
  steps = durations.total_steps(steps_per_epoch=872, batch_size=2048, **given)
  assert steps == expected


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ({}, "none of train.num_epochs, train.num_steps, train.num_draws is given"),
    (
      {"num_epochs": 5, "num_steps": 7},
      "train.num_epochs = 5 and train.num_steps = 7 are given: bind one",
    ),
  ],
)
def test_a_length_is_given_once(given, message):
  with pytest.raises(ValueError, match=message):
    durations.total_steps(steps_per_epoch=10, batch_size=8, **given)


def _warmup(**given):
  return durations.warmup_epochs(
    "WarmupCosine", steps_per_epoch=100, num_epochs=20.5, **given
  )


def test_a_warmup_in_epochs_and_in_steps():
  assert _warmup(warmup_epochs=10) == 10
  assert _warmup(warmup_steps=1050) == 10.5
  assert _warmup(warmup_steps=0) == 0


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ({}, "none of WarmupCosine.warmup_epochs, WarmupCosine.warmup_steps is"),
    ({"warmup_epochs": 1, "warmup_steps": 1}, "warmup_steps = 1 are given"),
    (
      {"warmup_steps": 2050},
      "warmup_steps is 2050; .* below the steps .* 2050",
    ),
    ({"warmup_steps": -1}, "warmup_steps is -1"),
    ({"warmup_epochs": 21}, "warmup_epochs is 21; .*below its epochs .*, 20.5"),
  ],
)
def test_a_warmup_that_does_not_fit_is_refused(given, message):
  with pytest.raises(ValueError, match=message):
    _warmup(**given)
