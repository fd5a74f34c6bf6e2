# SPDX-License-Identifier: Apache-2.0
"""What TensorFlow says of an error in many lines, in one."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator


@contextlib.contextmanager
def naming_broken(path: str) -> Iterator[None]:
  """Names the checkpoint of which TensorFlow finds that a file ends early."""
  try:
    yield
  except IndexError as e:
    raise ValueError(f"{path} is broken: {e}") from e


def first_line(message: str) -> str:
  """The line that tells, without a graph's nodes or gin's call stack."""
  # TensorFlow's client for buckets gives the answer's body, which has many.
  failure = re.search(
    r"an HTTP request: (?:HTTP response code (\d+)|libcurl code \d+ meaning "
    r"'(.*?)')",
    message,
  )
  if failure:
    place = re.search(r"gs://[^\s:]+", message)
    reason = re.search(r'"message": "(.*?)"', message)
    reason = reason[1] if reason else failure[2]
    tries = re.search(r"All (\d+) retry attempts", message)
    answer = f"answers {failure[1]}" if failure[1] else "does not answer"
    return (
      (f"{place[0]}: " if place else "")
      + f"the bucket {answer}"
      + (f" ({reason})" if reason else "")
      + (f", also after {tries[1]} more tries" if tries else "")
    )
  # Where a graph is made, the reason is the last of the indented lines.
  if message.startswith("in user code:"):
    message = re.findall(r"^ {4,}(\S.*)$", message, re.MULTILINE)[-1]
  # TensorFlow puts the place before the reason, indented or under a heading.
  headings = ("Graph execution error", "Detected at node", "<stack traces")
  for line in message.splitlines():
    if line.strip() and line[0] not in " \t" and not line.startswith(headings):
      names = r"^(\{\{.*?\}\} *)*(ValueError: )?| *\[Op:\w+\]( name:)?$"
      line = re.sub(names, "", line.strip())
      return re.sub(r"^assertion failed: \[(.*)\]( \[.*)?$", r"\1", line)
  return message.strip() or "unknown"
