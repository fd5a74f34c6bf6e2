# SPDX-License-Identifier: Apache-2.0
"""What gin refuses, and in which words."""

import gin
import pytest

from tf_audioset.runtime import gin_config


@gin.configurable
def paint(colour="red", coats=1):
  return colour, coats


def test_a_binding_that_is_used_passes():
  gin_config.load([], ["paint.coats = 2"])
  assert paint() == ("red", 2)
  gin_config.check_all_used()
  assert "paint.coats = 2" in gin_config.operative()


@pytest.mark.parametrize(
  "binding", ["pant.coats = 2", "paint.coat = 2", "paint.coats = ", "paint"]
)
def test_a_misspelt_binding_is_refused_in_one_line(binding):
  with pytest.raises(ValueError) as error:
    gin_config.load([], [binding])
  assert "\n" not in str(error.value)
  assert "gin" in str(error.value)


def test_a_misspelt_scope_is_refused():
  gin_config.load([], ["gren/paint.coats = 2"])
  with gin.config_scope("green"):
    paint()
  with pytest.raises(ValueError, match="gren/paint.coats"):
    gin_config.check_all_used()


@gin.configurable
def draw(tool):
  return tool()


@gin.register
def pencil(hardness=2):
  return hardness


@gin.register
def brush(width=1):
  return width


_FILE = "draw.tool = @pencil\npencil.hardness = 3  # @brush comes later\n"


def test_a_replaced_part_may_keep_its_bindings_in_the_file(tmp_path):
  (tmp_path / "base.gin").write_text(_FILE)
  file = tmp_path / "top.gin"
  file.write_text(f"include '{tmp_path / 'base.gin'}'\n")
  gin_config.load([str(file)], ["draw.tool = @brush", "brush.width = 4"])
  assert draw() == 4
  gin_config.check_all_used()


@pytest.mark.parametrize(
  ("bindings", "message"),
  [
    (["draw.tool = @brush", "pencil.hardness = 4"], "pencil.hardness"),
    (["brush.width = 4"], "brush.width"),
    (["soft/pencil.hardness = 4"], "soft/pencil.hardness"),
  ],
)
def test_other_unused_bindings_are_refused(tmp_path, bindings, message):
  (tmp_path / "base.gin").write_text(_FILE)
  gin_config.load([str(tmp_path / "base.gin")], bindings)
  draw()
  with pytest.raises(ValueError, match=message):
    gin_config.check_all_used()


def test_files_with_a_mark_of_their_encoding_are_read(tmp_path):
  """Such as Windows' Notepad writes, with its ends of lines."""
  mark = b"\xef\xbb\xbf"
  (tmp_path / "base.gin").write_bytes(mark + b"paint.colour = 'blue'\r\n")
  include = f"include '{tmp_path / 'base.gin'}'  # First.\r\n".encode()
  top = tmp_path / "top.gin"
  top.write_bytes(mark + include + b"paint.coats = 3\r\n")
  gin_config.load([str(top)])
  assert paint() == ("blue", 3)
  top.write_bytes("paint.coats = 3".encode("utf-16"))
  with pytest.raises(ValueError, match="top.gin is not UTF-8: save it so"):
    gin_config.load([str(top)])


def test_an_error_in_a_file_tells_its_line(tmp_path):
  (tmp_path / "base.gin").write_text("paint.coats = 3\n")
  top = tmp_path / "top.gin"
  top.write_text(f"\ninclude '{tmp_path / 'base.gin'}'\n\npaint.coat = 2\n")
  with pytest.raises(ValueError, match=r"top.gin: .*'coat'.* line 4"):
    gin_config.load([str(top)])
  top.write_text("include 'none.gin'\n")
  with pytest.raises(ValueError, match="top.gin: the included 'none.gin' is n"):
    gin_config.load([str(top)])


def test_the_values_of_an_operative_config_are_read():
  long = list(range(40))
  gin_config.load(
    [],
    [
      "many = 3",
      "paint.coats = %many",
      "draw.tool = @brush",
      f"brush.width = {long}",
    ],
  )
  paint()
  draw()
  values = gin_config.values(gin_config.operative())
  assert values["paint.coats"] == 3
  assert values["paint.colour"] == "red"
  assert values["draw.tool"] == "@brush"
  assert values["brush.width"] == long


def test_a_missing_file_names_the_shipped_ones():
  with pytest.raises(ValueError, match="no.gin.*gin/resnet18.gin"):
    gin_config.load(["no.gin"])


def test_shipped_files_are_found_from_anywhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert "gin/base.gin" not in gin_config.shipped_gin_files()
  assert len(gin_config.shipped_gin_files()) >= 4
