# SPDX-License-Identifier: Apache-2.0
"""No row of a table is lost in another, whatever wrote the table."""

import pytest

from tf_audioset.runtime import tables


def _read(tmp_path, content, **kwargs) -> tables.Table:
  path = tmp_path / "list.csv"
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  return tables.read(str(path), **kwargs)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize(
  ("separator", "name"),
  [(",", "comma"), ("\t", "tab"), (";", "semicolon")],
)
def test_separators_line_ends_and_marks_are_recognised(
  tmp_path, separator, name, mark, end
):
  lines = ["files , labels", ' a.wav ,"dog, cat" ', "", "b.wav, bird", " , "]
  if separator != ",":
    lines = [
      x.replace(" ,", separator).replace("v,", "v" + separator) for x in lines
    ]
  table = _read(tmp_path, mark + end.join(lines))
  assert table.separator_name == name
  assert table.rows == [
    ["files", "labels"],
    ["a.wav", "dog, cat"],
    ["b.wav", "bird"],
  ]
  assert table.lines == [1, 2, 4]


def test_excels_first_line_tells_the_separator(tmp_path):
  for first in ("sep=;", '"sep=;"'):
    table = _read(tmp_path, f"{first}\na,b;c\n")
    assert (table.lines, table.rows) == ([2], [["a,b", "c"]])


def test_the_form_of_the_first_row_decides_between_separators(tmp_path):
  line = "A;30;40;/m/a,/m/b,/m/c,/m/d,/m/e"
  assert _read(tmp_path, line).separator == ","
  table = _read(tmp_path, line, is_right=lambda row: len(row) == 4)
  assert table.rows == [["A", "30", "40", "/m/a,/m/b,/m/c,/m/d,/m/e"]]
  assert _read(tmp_path, line, separator="|").rows == [[line]]


@pytest.mark.parametrize(
  ("content", "line"),
  [
    ('a,x\nb,"dog\nc,y\n', 2),
    ('a,x\nb,"dog', 2),  # The last one.
    ('a,x\nb,"dog\n', 2),
    ('a,"x\nb,y"\n', 1),  # Closed by another stray one.
    ('a,x\n\n"b,y\n', 3),
    ('a\r"b\rc\r', 2),
  ],
)
def test_a_quote_that_is_not_closed_in_its_line_is_refused(
  tmp_path, content, line
):
  with pytest.raises(ValueError, match=f"list.csv, line {line}: a quote is op"):
    _read(tmp_path, content)


def test_quotes_that_are_closed_or_no_quotes_are_read(tmp_path):
  table = _read(tmp_path, 'a,"say ""hi"", dog"\n5" tape,b"c\n"",d\n')
  assert table.rows == [["a", 'say "hi", dog'], ['5" tape', 'b"c'], ["", "d"]]


def test_quotes_in_comments_do_not_count(tmp_path):
  table = _read(tmp_path, '# see, "x\n#\na,b\n', has_comments=True)
  assert (table.lines, table.rows) == ([3], [["a", "b"]])
  assert _read(tmp_path, "#1.wav,b").rows == [["#1.wav", "b"]]


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"a,b\nc\0,d\n", "list.csv, line 2: holds a NUL byte"),
    ("a,b".encode("utf-16-le"), "line 1: holds a NUL byte: is it UTF-16"),
    (b"a,b\nc,caf\xe9\n", "cannot be read: line 2 is not UTF-8: save .* UTF-8"),
    ("a,b".encode("utf-16"), "cannot be read: line 1 is UTF-16: save .* UTF-8"),
    ("x" * 200_000, "list.csv: cannot be read: field larger"),
  ],
)
def test_what_is_no_text_is_refused(tmp_path, content, message):
  with pytest.raises(ValueError, match=message):
    _read(tmp_path, content)


def test_a_device_without_an_end_is_not_read():
  with pytest.raises(ValueError, match="^/dev/zero: cannot be read: it is a "):
    tables.read("/dev/zero")


def test_what_cannot_be_opened_is_refused(tmp_path):
  for path in (tmp_path, tmp_path / "none.csv", tmp_path / ("x" * 300)):
    with pytest.raises(ValueError, match=f"{path}: cannot be read: [A-Z]"):
      tables.read(str(path))


@pytest.mark.parametrize(
  ("text", "separator"),
  [
    ("tab", "\t"),
    (r"\t", "\t"),
    ("\t", "\t"),
    (";", ";"),
    ("comma", ","),
    ("|", "|"),
  ],
)
def test_separators_have_names(text, separator):
  assert tables.separator_of(text) == separator


@pytest.mark.parametrize("text", ["", "tabs", '"', "\n"])
def test_what_is_no_separator_is_refused(text):
  with pytest.raises(
    ValueError, match="(?s)--separator=.*: give comma, tab, semicolon"
  ):
    tables.separator_of(text)


@pytest.mark.parametrize(
  "text", ["dog", " dog ", '"dog"', "'dog'", "\u201cdog\u201d", " \"' dog'\" "]
)
def test_quotes_in_a_cell_are_taken_off(text):
  assert tables.unquoted(text) == "dog"
