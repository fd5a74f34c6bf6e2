# SPDX-License-Identifier: Apache-2.0
"""Audio files of many containers and codecs, made by PyAV or libsndfile."""

from __future__ import annotations

import io

import av
import numpy as np
import scipy.fft
import soundfile


def chirp(seconds: float, rate_hz: int, num_channels: int = 2) -> np.ndarray:
  """Returns float32 [n, num_channels], unlike itself at every other time."""
  time = np.arange(round(seconds * rate_hz)) / rate_hz
  channels = [
    0.3 * np.sin(2 * np.pi * (begin_hz + 400 * time) * time)
    for begin_hz in (300, 350)
  ]
  return np.stack(channels[:num_channels], 1).astype(np.float32)


class _Pipe:
  """Takes bytes and cannot go back to a header."""

  def __init__(self):
    self.parts = []

  def write(self, part) -> int:
    self.parts.append(bytes(part))
    return len(part)


def encode(
  container: str,
  codec: str,
  channels: np.ndarray,
  rate_hz: int,
  *,
  options: dict[str, str] | None = None,
  codec_options: dict[str, str] | None = None,
  to_pipe: bool = False,
) -> bytes:
  """Returns the file that FFmpeg makes of float32 [n, num_channels].

  Args:
    container: FFmpeg's name of the muxer.
    codec: FFmpeg's name of the encoder.
    channels: One or two.
    rate_hz: Samples per second.
    options: For the muxer.
    codec_options: For the encoder.
    to_pipe: Whether it cannot go back to complete its header.
  """
  target = _Pipe() if to_pipe else io.BytesIO()
  layout = "stereo" if channels.shape[1] == 2 else "mono"
  frame = av.AudioFrame.from_ndarray(
    np.ascontiguousarray(channels.T), "fltp", layout
  )
  frame.sample_rate = rate_hz
  with av.open(
    target, "w", format=container, container_options=options or {}
  ) as file:
    stream = file.add_stream(
      codec, rate=rate_hz, layout=layout, options=codec_options or {}
    )
    context = stream.codec_context
    context.open()
    converter = av.AudioResampler(
      context.format, layout, rate_hz, context.frame_size or 1024
    )
    for part in (*converter.resample(frame), *converter.resample(None)):
      file.mux(stream.encode(part))
    file.mux(stream.encode(None))
  return b"".join(target.parts) if to_pipe else target.getvalue()


def write(
  kind: str, subtype: str, channels: np.ndarray, rate_hz: int, **kwargs
) -> bytes:
  """Returns the file that libsndfile makes of float32 [n, num_channels]."""
  file = io.BytesIO()
  soundfile.write(file, channels, rate_hz, subtype, format=kind, **kwargs)
  return file.getvalue()


def likeness(waveform: np.ndarray, other: np.ndarray) -> float:
  """Returns the greatest normalised correlation, at any delay of one."""
  size = scipy.fft.next_fast_len(len(waveform) + len(other))
  product = scipy.fft.rfft(waveform, size) * scipy.fft.rfft(other, size).conj()
  norm = np.linalg.norm(waveform) * np.linalg.norm(other)
  return float(scipy.fft.irfft(product, size).max() / max(norm, 1e-9))
