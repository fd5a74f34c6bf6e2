# SPDX-License-Identifier: Apache-2.0
"""SIGTERM, which a cluster sends some seconds before it takes a machine."""

from __future__ import annotations

import signal
import threading

from tf_audioset.runtime import cli


class Watch:
  """Ends a run on SIGTERM with nothing lost; a context manager.

  What is on the disk is whole at any time, so the run ends at once; but steps
  that have begun are ended and saved, and one of several workers asks the
  others first. On leaving, the handler that was there before is back.

  Attributes:
    is_wanted: Whether SIGTERM has come.
  """

  def __init__(self, has_peers: bool):
    """Waits for `with`; `has_peers` tells whether there are other workers."""
    self.is_wanted = False
    self._is_postponed = self._has_peers = has_peers
    self._step = None
    self._before = None

  def __enter__(self) -> Watch:
    # Only the main thread may set handlers.
    if threading.current_thread() is threading.main_thread():
      self._before = signal.signal(signal.SIGTERM, self._handle)
    return self

  def __exit__(self, *_) -> None:
    if self._before is not None:
      signal.signal(signal.SIGTERM, self._before)

  def postpone(self) -> None:
    """Notes that steps begin; they are on the disk when `saved` is called."""
    self._is_postponed = True

  def saved(self, step: int) -> None:
    """Notes the step up to which the run is on the disk.

    Raises:
      cli.Stopped: If SIGTERM has come and there are no other workers.
    """
    self._step = step
    self._is_postponed = self._has_peers
    if self.is_wanted and not self._is_postponed:
      raise self.stopped()

  def stopped(self) -> cli.Stopped:
    """Returns what ends the run; its message tells how to continue."""
    where = "before the first step"
    if self._step:
      where = f"after step {self._step}, which is saved"
    return cli.Stopped(
      f"stopped by SIGTERM {where}; the same command continues"
    )

  def _handle(self, *_) -> None:
    self.is_wanted = True
    if not self._is_postponed:
      raise self.stopped()
