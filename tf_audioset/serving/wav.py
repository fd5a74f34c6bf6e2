# SPDX-License-Identifier: Apache-2.0
"""Reads 16-bit wav files within a graph, where no other library is.

TensorFlow's own `decode_wav` takes no chunk of odd length, reads a data chunk
without a length as silence and refuses one with the greatest length, which is
what programs write into a pipe.
"""

from __future__ import annotations

import tensorflow as tf

_PCM, _EXTENSIBLE = 1, 0xFFFE
# A file has a few chunks; the limit ends the search in a long one of zeros.
_MAX_CHUNKS = 1000
# As `audio_headers` and `audio_decoding` have it on the host: so many bytes
# that no chunk counts are not just some tag, and so much may be missing.
_MANY_BYTES = 4096
_SLACK_SECONDS = 0.1


def decode(content: tf.Tensor, sample_rate_hz: int) -> tf.Tensor:
  """Decodes a wav file and mixes it to mono.

  Args:
    content: Its bytes, a string scalar.
    sample_rate_hz: The rate that it must have.

  Returns:
    float32 [num_samples], the mean of the channels, full scale +-1.

  Raises:
    tf.errors.InvalidArgumentError: When the graph runs, if it is no 16-bit PCM
      wav file of that rate, holds no samples, or ends before its data chunk.
  """
  wanted = f"wanted is a 16-bit PCM wav file at {sample_rate_hz} Hz"
  is_wav = _is_head(tf.strings.substr(content, 0, 12))
  content = _refuse_unless(is_wav, content, f"not a wav file; {wanted}")
  format_at, data_at = _find_chunks(content)
  length = _length(content)
  content = _refuse_unless(
    (format_at > 0) & (data_at + 8 <= length),
    content,
    f"the wav file has no fmt chunk before a data chunk; {wanted}",
  )
  tag, channels, rate_hz, bits = _format(content, format_at)
  content = _refuse_unless(
    (tag == _PCM) & (bits == 16) & (channels > 0),
    content,
    f"the wav file has another encoding; {wanted}; given, its format tag, "
    "channels and bits:",
    [tag, channels, bits],
  )
  content = _refuse_unless(
    rate_hz == sample_rate_hz,
    content,
    f"the wav file has another rate; {wanted}; given, in Hz:",
    rate_hz,
  )
  begin = data_at + 8
  size, is_known = _data_bytes(content, begin, length)
  there = tf.minimum(size, length - begin)
  slack = tf.cast(_SLACK_SECONDS * sample_rate_hz, tf.int64) * 2 * channels
  content = _refuse_unless(
    size - there <= slack,
    content,
    "the wav file is cut off: bytes of its data chunk that are there, and all:",
    [there, size],
  )
  content = _refuse_unless(
    ~_is_joined(content, begin, size, is_known),
    content,
    "the wav file is several, joined, or has several data chunks: send each "
    "by itself",
  )
  num_frames = there // (2 * channels)
  content = _refuse_unless(
    num_frames > 0, content, "the wav file holds no samples"
  )
  data = tf.strings.substr(content, begin, num_frames * 2 * channels)
  samples = tf.io.decode_raw(data, tf.int16, little_endian=True)
  frames = tf.reshape(samples, [num_frames, channels])
  return tf.reduce_mean(tf.cast(frames, tf.float32) / 32768, axis=1)


def _refuse_unless(condition, content, message, given=None):
  """Returns the content once the condition is known to hold."""
  shown = [message] if given is None else [message, given]
  with tf.control_dependencies([tf.debugging.Assert(condition, shown)]):
    return tf.identity(content)


def _find_chunks(content, begin: int | tf.Tensor = 12):
  """Finds where the chunks fmt and data begin, int64; else 0 and the end.

  Those are searched that begin at `begin` or behind it.
  """
  length = _length(content)

  def name(position):
    # Of what lies beyond the end, the name is empty.
    return tf.strings.substr(
      content, tf.minimum(position, length), tf.constant(4, tf.int64)
    )

  def is_before_data(position, format_at):
    del format_at
    return (position + 8 <= length) & (name(position) != "data")

  def next_chunk(position, format_at):
    size = _number(content, position + 4, 4)
    format_at = tf.where(name(position) == "fmt ", position, format_at)
    end = position + 8 + size
    # A byte follows a chunk of odd length, unless a program forgot it.
    is_padded = _is_chunk(content, end + 1) | ~_is_chunk(content, end)
    return end + tf.where(is_padded, size % 2, 0), format_at

  data_at, format_at = tf.while_loop(
    is_before_data,
    next_chunk,
    [tf.cast(begin, tf.int64), tf.constant(0, tf.int64)],
    maximum_iterations=_MAX_CHUNKS,
  )
  return format_at, tf.where(name(data_at) == "data", data_at, length)


def _format(content, position):
  """Reads format tag, channels, rate in Hz and bits a sample of a chunk fmt."""
  tag = _number(content, position + 8, 2)
  # The extended form has the tag among what it adds.
  tag = tf.where(tag == _EXTENSIBLE, _number(content, position + 32, 2), tag)
  return (
    tag,
    _number(content, position + 10, 2),
    _number(content, position + 12, 4),
    _number(content, position + 22, 2),
  )


def _data_bytes(content, begin, length):
  """Returns the samples' length in bytes, and whether the header tells it.

  If the file is cut off, it is more than there is.
  """
  size = _number(content, begin - 4, 4)
  there = length - begin
  form_end = _number(content, tf.constant(4, tf.int64), 4) + 8
  is_unknown = (
    # What comes after a chunk that is really empty is another.
    ((size == 0) & ~_is_chunk(content, begin))
    | ((size > there) & _is_no_length(size))
    # The file is as long as it says: the chunk's own length is wrong.
    | ((size > there) & (tf.abs(form_end - length) <= 8))
  )
  end = begin + size
  padded = end + size % 2
  # The chunk's length is wrong again, but not that of the file.
  is_more = (
    ~_is_chunk(content, padded)
    & ~_is_chunk(content, end)
    & (padded + _MANY_BYTES < form_end)
    & (form_end <= length + 8)
  )
  size = tf.where(is_more, tf.minimum(form_end, length) - begin, size)
  return tf.where(is_unknown, there, size), ~is_unknown


def _is_no_length(size):
  """Returns whether a length stands for one that was not known."""
  return ((0x7F000000 <= size) & (size <= 0x80000000)) | (0xFF000000 <= size)


def _is_joined(content, begin, size, is_known):
  """Returns whether more samples follow: another chunk, or another file."""
  length = _length(content)
  form_end = _number(content, tf.constant(4, tf.int64), 4) + 8
  places = [begin + size, begin + size + size % 2, form_end]
  follows = []
  for place in places:
    place = tf.clip_by_value(place, begin, length)
    head = tf.strings.substr(content, place, tf.constant(12, tf.int64))
    follows.append(_is_head(head))
  _, data_at = _find_chunks(content, begin + size + size % 2)
  follows.append(is_known & (data_at + 8 < length))
  # Something may lie between; and where no length tells the end, all is looked
  # through.
  end = begin + size
  is_whole = (end <= form_end) & (form_end <= length)
  begin = tf.where(is_known, tf.where(is_whole, form_end, end), begin)
  begin = tf.minimum(begin, length)
  unknown = tf.strings.substr(content, begin, length - begin)
  follows.append(tf.strings.regex_full_match(unknown, r"\C*RIFF\C{4}WAVE\C*"))
  return tf.reduce_any(follows)


def _is_head(text):
  """Returns whether it is the first 12 bytes of a wav file."""
  # \C is any byte; a dot would be one of UTF-8's letters.
  return tf.strings.regex_full_match(text, r"RIFF\C{4}WAVE")


def _is_chunk(content, position):
  """Returns whether a chunk begins there: a name, and a length that fits."""
  length = _length(content)
  name = tf.strings.substr(
    content, tf.minimum(position, length), tf.constant(4, tf.int64)
  )
  return (
    (position + 8 <= length)
    & tf.strings.regex_full_match(name, "[ -~]{4}")
    & (position + _number(content, position + 4, 4) <= length)
  )


def _length(content):
  return tf.cast(tf.strings.length(content), tf.int64)


def _number(content, position, num_bytes: int):
  """Reads an unsigned integer as int64; bytes beyond the end count as 0."""
  length = _length(content)
  found = tf.strings.substr(
    content,
    tf.minimum(position, length),
    tf.constant(num_bytes, tf.int64),
  )
  padded = tf.strings.join([found, tf.constant(b"\0" * num_bytes)])
  values = tf.io.decode_raw(padded, tf.uint8)[:num_bytes]
  weights = tf.constant([256**i for i in range(num_bytes)], tf.int64)
  return tf.reduce_sum(tf.cast(values, tf.int64) * weights)
