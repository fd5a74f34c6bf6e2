# SPDX-License-Identifier: Apache-2.0
"""What gin refuses, and in which words."""

import gin
import pytest

from tf_audioset import config


@gin.configurable
def paint(colour="red", coats=1):
  return colour, coats


def test_a_binding_that_is_used_passes():
  config.load([], ["paint.coats = 2"])
  assert paint() == ("red", 2)
  config.check_all_used()
  assert "paint.coats = 2" in config.operative()


@pytest.mark.parametrize(
  "binding", ["pant.coats = 2", "paint.coat = 2", "paint.coats = ", "paint"]
)
def test_a_misspelt_binding_is_refused_in_one_line(binding):
  with pytest.raises(ValueError) as error:
    config.load([], [binding])
  assert "\n" not in str(error.value)
  assert "gin" in str(error.value)


def test_a_misspelt_scope_is_refused():
  config.load([], ["gren/paint.coats = 2"])
  with gin.config_scope("green"):
    paint()
  with pytest.raises(ValueError, match="gren/paint.coats"):
    config.check_all_used()


def test_a_missing_file_names_the_shipped_ones():
  with pytest.raises(ValueError, match="no.gin.*gin/resnet18.gin"):
    config.load(["no.gin"])


def test_shipped_files_are_found_from_anywhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert "gin/base.gin" not in config.shipped_gin_files()
  assert len(config.shipped_gin_files()) >= 4
