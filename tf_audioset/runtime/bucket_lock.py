# SPDX-License-Identifier: Apache-2.0
"""Keeps two runs from working in the same folder of a bucket.

TensorFlow's file systems cannot write an object on the condition that there is
none. So who wants the lock writes a token of its own, waits, and has the lock
if the token is still there: of two who write at the same time, the last has it.
What slips through (a client that stalls for longer than the wait) is found when
the holder next looks, which it does every 30 s and before each checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid

import tensorflow as tf

from tf_audioset.runtime.errors import UserError

_NAME = ".lock"
_SETTLE_SECONDS = 2.0
_RENEW_SECONDS = 30.0
# A holder that has not renewed its lock for so long is most likely dead.
_STALE_SECONDS = 300.0


class BucketLock:
  """A lock that is held from its making until `release`."""

  def __init__(self, folder: str, *, take_over: bool = False):
    """Takes the lock.

    Args:
      folder: In a bucket; it must exist.
      take_over: Take it from whoever has it, who will find out and stop.

    Raises:
      UserError: If another run has it.
    """
    self._folder = folder
    self._path = os.path.join(folder, _NAME)
    self._token = uuid.uuid4().hex
    self._released = threading.Event()
    holder = self._read()
    if holder and not take_over and not _is_dead(holder):
      raise UserError(_told(folder, holder))
    self._write()
    time.sleep(_SETTLE_SECONDS)
    self.check()
    threading.Thread(target=self._renew, daemon=True).start()

  def check(self) -> None:
    """Raises a UserError if another run has taken the lock over."""
    holder = self._read()
    if holder and holder.get("token") != self._token:
      raise UserError(
        f"{self._folder}: another run has taken this work directory over "
        f"({_name(holder)}); this one ends without writing any more."
      )

  def release(self) -> None:
    """Gives the lock back, if it is still held and the bucket answers."""
    self._released.set()
    with contextlib.suppress(tf.errors.OpError):
      holder = self._read()
      if holder and holder.get("token") == self._token:
        tf.io.gfile.remove(self._path)

  def _renew(self) -> None:
    """Tells from time to time that this process lives."""
    while not self._released.wait(_RENEW_SECONDS):
      # A bucket that does not answer now may do so the next time.
      with contextlib.suppress(tf.errors.OpError):
        holder = self._read()
        if holder and holder.get("token") != self._token:
          return  # `check` tells.
        if not self._released.is_set():
          self._write()

  def _read(self) -> dict | None:
    try:
      with tf.io.gfile.GFile(self._path) as file:
        return json.load(file)
    except tf.errors.NotFoundError:
      return None
    except ValueError:
      return {}  # No lock of ours: nobody's.

  def _write(self) -> None:
    content = {
      "token": self._token,
      "host": socket.gethostname(),
      "process": os.getpid(),
      "time": time.time(),
    }
    with tf.io.gfile.GFile(self._path, "w") as file:
      file.write(json.dumps(content))


def _is_dead(holder: dict) -> bool:
  """Returns whether the holder was a process of this machine that has ended."""
  if holder.get("host") != socket.gethostname():
    return False
  try:
    os.kill(holder["process"], 0)
  except ProcessLookupError:
    return True
  except (KeyError, OSError):
    return False
  return holder["process"] == os.getpid()


def _name(holder: dict) -> str:
  return f"process {holder.get('process')} on {holder.get('host')}"


def _told(folder: str, holder: dict) -> str:
  seconds = max(time.time() - holder.get("time", 0), 0)
  sign = f"{_name(holder)}, whose last sign of life was {seconds:.0f} s ago"
  if seconds > _STALE_SECONDS:
    return (
      f"{folder}: is locked by another run, {sign}: if it has ended, take its "
      "place with --take_over."
    )
  return (
    f"{folder}: another run is at work there, {sign}: wait for it, choose "
    "another folder, or end it and take its place with --take_over."
  )
