# SPDX-License-Identifier: Apache-2.0
"""TensorFlow's messages in one line."""

import pytest

from tf_audioset.runtime import messages

_503 = (
  "All 2 retry attempts failed. The last failure: Error executing an HTTP "
  """request: HTTP response code 503 with body '{
 "error": {"code": 503, "message": "Service Unavailable"}}'
 when reading gs://bucket/a/b"""
)
_CURL = (
  "All 7 retry attempts failed. The last failure: Error executing an HTTP "
  "request: libcurl code 52 meaning 'Server returned nothing (no headers, no "
  "data)', error details: Empty reply from server"
)
_GRAPH = """Graph execution error:

Detected at node Assert
{{function_node __inference_f}} assertion failed: [clip a: broken] [Op:Next]
\t [[{{node Assert}}]]"""

_TRACED = """in user code:

    File "/a/b.py", line 1, in f  *
        x = g(y)

    ValueError: 3 is too many
"""


@pytest.mark.parametrize(
  ("message", "line"),
  [
    (
      _503,
      "gs://bucket/a/b: the bucket answers 503 (Service Unavailable), also "
      "after 2 more tries",
    ),
    (
      _CURL,
      "the bucket does not answer (Server returned nothing (no headers, no "
      "data)), also after 7 more tries",
    ),
    (_GRAPH, "clip a: broken"),
    ("{{function_node f}} cut off [Op:IteratorGetNext] name: ", "cut off"),
    (_TRACED, "3 is too many"),
    (f"{_TRACED}\n  In call to configurable 'f'", "3 is too many"),
    ("  ", "unknown"),
    ("as it is", "as it is"),
  ],
)
def test_the_line_that_tells(message, line):
  assert messages.first_line(message) == line
