# SPDX-License-Identifier: Apache-2.0
"""Tells which errors are the user's, and puts long messages in one line."""

from __future__ import annotations

import contextlib
import re
import sys
import traceback
from collections.abc import Iterator

from tf_audioset.runtime.errors import UserError

# What TensorFlow raises when a disk, a bucket or another machine fails.
_SYSTEM_ERRORS = (
  "AbortedError",
  "DataLossError",
  "DeadlineExceededError",
  "FailedPreconditionError",
  "NotFoundError",
  "PermissionDeniedError",
  "ResourceExhaustedError",
  "UnavailableError",
)
# TensorFlow passes on what Python raised in a graph, or an assertion of ours,
# as text; errors of a disk come under several names, with the system's words.
_OURS = re.compile(
  r"\bUserError: |\bassertion failed: \[|Input/output error|No space left|"
  r"File too large|Disk quota exceeded|Read-only file system"
)


def as_user_error(error: Exception) -> UserError | None:
  """Returns the error that the user is to see in one line.

  Args:
    error: Whatever ended the program.

  Returns:
    The error itself if it is a `UserError`; one that says the same of a file,
    disk, bucket or machine that failed, or of a value in a .gin file that a
    constructor refused; None for everything else, which is a bug.
  """
  if isinstance(error, UserError):
    return error
  text = str(error)
  if "Required bindings" in text:
    return UserError(first_line(text))
  value_of = _refused_value_of(error)
  if value_of:
    line = first_line(text)
    return UserError(f"{line} (a value of {value_of} in gin?)")
  if isinstance(error, OSError) or _is_of_tensorflow(error, _SYSTEM_ERRORS):
    return UserError(first_line(text))
  if _is_of_tensorflow(error, ("OpError",)) and _OURS.search(text):
    line = first_line(text)
    return UserError(line.rpartition("UserError: ")[2])
  return None


def _is_of_tensorflow(error: Exception, names: tuple[str, ...]) -> bool:
  """Returns whether it is one of `tf.errors`, without importing those."""
  tf = sys.modules.get("tensorflow")
  kinds = tuple(getattr(tf.errors, name) for name in names) if tf else ()
  return isinstance(error, kinds)


def _refused_value_of(error: Exception) -> str:
  """Returns the configurable whose constructor took offence at a value.

  gin names the configurable in the message. A TypeError from deeper within is a
  bug in the part, not a value of a wrong type.
  """
  configurable = re.search(r"call to configurable '(\w+)'", str(error))
  if not configurable or not isinstance(error, TypeError):
    return ""
  frames = [
    frame
    for frame in traceback.extract_tb(error.__traceback__)
    if "/gin/" not in frame.filename
  ]
  is_shallow = frames[-1].name in ("__init__", "__post_init__", configurable[1])
  return configurable[1] if is_shallow else ""


@contextlib.contextmanager
def naming_broken(path: str) -> Iterator[None]:
  """Names the checkpoint of which TensorFlow finds that a file ends early."""
  try:
    yield
  except IndexError as e:
    raise UserError(f"{path} is broken: {e}") from e


def first_line(message: str) -> str:
  """Returns the line that tells, without graph nodes or gin's call stack."""
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
  # Keras puts what it was doing around the reason.
  inside = re.search(
    r"Exception encountered when calling .*?\n\n(.*?)\n\nCall arguments",
    message,
    re.DOTALL,
  )
  if inside:
    message = inside[1]
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
