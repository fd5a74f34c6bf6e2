# SPDX-License-Identifier: Apache-2.0
"""Values that gin takes and a parameter does not."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import gin
import pytest

from tf_audioset.models import tagger  # noqa: F401  Registered with gin.
from tf_audioset.runtime import gin_config


@gin.register
class Kiln:
  def __init__(self, degrees: float = 900.0):
    self.degrees = degrees


@gin.register
def glaze(thickness, colour: str = "green"):
  return thickness, colour


@gin.register
def ready_glaze():
  return glaze


@gin.register
def open_fire(features):
  return features


@gin.configurable
def fire(
  kiln: Kiln = gin.REQUIRED,
  coat: Callable[..., str] = glaze,
  hours: int = 3,
  limit: float | None = None,
  is_slow: bool = False,
  rack: Kiln | None = None,
  steps: Sequence[int] | None = (),
  anything=None,
  loose: Any = None,
  table: dict[str, int] | None = None,
  both: str | list[str] = "",
  path: pathlib.Path | None = None,
):
  return kiln, coat, hours, limit, is_slow, rack, steps, anything, loose


@pytest.mark.parametrize(
  ("binding", "message"),
  [
    ("fire.kiln = Kiln", "gin: fire.kiln = Kiln: write fire.kiln = @Kiln()."),
    ("fire.kiln = 'Kiln'", "fire.kiln is 'Kiln'; write fire.kiln = @Kiln()."),
    ("fire.kiln = @Kiln", "fire.kiln is @Kiln; write fire.kiln = @Kiln()."),
    (
      "a/fire.kiln = @hot/Kiln",
      "a/fire.kiln is @hot/Kiln; write a/fire.kiln = @hot/Kiln().",
    ),
    (
      "Tagger.loss = None",
      "Tagger.loss is None; write Tagger.loss = @NameOfThePart().",
    ),
    (
      "Tagger.mixup = False",
      "Tagger.mixup is False; write Tagger.mixup = @NameOfThePart() or None.",
    ),
    (
      "fire.coat = @glaze()",
      "fire.coat is @glaze(); write fire.coat = @glaze, without (): it is "
      "called later.",
    ),
    (
      "fire.coat = glaze",
      "gin: fire.coat = glaze: write fire.coat = @glaze, without (): it is "
      "called later.",
    ),
    ("fire.hours = 2.5", "fire.hours is 2.5; it must be a whole number."),
    ("fire.hours = True", "fire.hours is True; it must be a whole number."),
    ("fire.limit = '3'", "fire.limit is '3'; it must be a number or None."),
    ("fire.is_slow = 'no'", "fire.is_slow is 'no'; it must be True or False."),
    ("fire.steps = 5", "fire.steps is 5; it must be a list, such as [1, 2]."),
    (
      "glaze.colour = red",
      "gin: glaze.colour = red: it must be a text in quotes: 'red'.",
    ),
    ("fire.hours = two", "gin: fire.hours = two: it must be a whole number."),
    (
      "fire.anything = red",
      "gin: fire.anything = red: a text needs quotes, 'red'; a part of the "
      "program an @ and, if it is one that is to be made, (): @red().",
    ),
  ],
)
def test_the_right_line_is_shown(binding, message):
  with pytest.raises(ValueError) as error:
    gin_config.load([], ["fire.hours = 4", binding])
  assert str(error.value) == message


def test_what_fits_passes():
  gin_config.load(
    [],
    [
      "oven = @Kiln()",
      "fire.kiln = %oven",
      "Kiln.degrees = 1000",
      "fire.coat = @glaze",
      "fire.hours = 4",
      "fire.limit = None",
      "fire.rack = None",
      "fire.steps = (1, 2)",
      "fire.anything = 'red'",
      "fire.loose = 'blue'",
      "fire.table = {'a': 1}",
      "fire.both = ['a']",
      "fire.path = 'some/where'",
      "slow/fire.limit = 2",
    ],
  )
  kiln, coat, hours, limit, _, rack, steps, anything, loose = fire()
  assert kiln.degrees == 1000 and coat(2) == (2, "green")
  assert (hours, limit, rack, steps) == (4, None, None, (1, 2))
  assert (anything, loose) == ("red", "blue")


def test_functions_are_parts_as_well():
  """What makes a function may be called, and a function may be a part."""
  gin_config.load([], ["fire.kiln = @open_fire", "fire.coat = @ready_glaze()"])
  kiln, coat, *_ = fire()
  assert kiln(5) == 5 and coat(2) == (2, "green")
