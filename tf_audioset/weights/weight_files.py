# SPDX-License-Identifier: Apache-2.0
"""Reads files of weights in other systems' formats, without those systems.

The format is told from a file's first bytes, not from its name:

  safetensors      Hugging Face's; mapped into memory, of which a large file
                   takes no more than the arrays that are used
  .pth, .pt, .bin  PyTorch's, of `torch.save`: a zip archive or, before PyTorch
                   1.6, a chain of pickles. They are read by an unpickler that
                   knows the parts of a tensor and refuses everything else, so
                   that no code in such a file can run.
  .msgpack         flax's
  .h5              Keras's, and others in HDF5

Any of them may be compressed by gzip.
"""

from __future__ import annotations

import collections
import gzip
import io
import json
import math
import mmap
import os
import pickle
import zipfile
import zlib
from collections.abc import Callable, Iterator

import h5py
import msgpack
import numpy as np
import tensorflow as tf

from tf_audioset.runtime.errors import UserError

_BFLOAT16 = np.dtype(tf.bfloat16.as_numpy_dtype)

_SAFETENSORS_TYPES = {
  "BOOL": np.dtype(bool),
  "U8": np.dtype("u1"),
  "I8": np.dtype("i1"),
  "I16": np.dtype("<i2"),
  "I32": np.dtype("<i4"),
  "I64": np.dtype("<i8"),
  "F16": np.dtype("<f2"),
  "BF16": _BFLOAT16,
  "F32": np.dtype("<f4"),
  "F64": np.dtype("<f8"),
}
# What people have instead of the weights, by its first bytes.
_NO_WEIGHTS = {
  b"version https://git-lfs": "it is a pointer of Git LFS: get the weights "
  "themselves with git lfs pull",
  b"<": "it is a web page: use the page's link to the file",
  b"{": "it is JSON: give the file of weights beside it",
  b"\x80": "it is a pickle, but not one of torch.save",
}
# The format's own limit.
_MAX_HEADER_BYTES = 100_000_000

_TORCH_TYPES = {
  "BoolStorage": np.dtype(bool),
  "ByteStorage": np.dtype("u1"),
  "CharStorage": np.dtype("i1"),
  "ShortStorage": np.dtype("<i2"),
  "IntStorage": np.dtype("<i4"),
  "LongStorage": np.dtype("<i8"),
  "HalfStorage": np.dtype("<f2"),
  "BFloat16Storage": _BFLOAT16,
  "FloatStorage": np.dtype("<f4"),
  "DoubleStorage": np.dtype("<f8"),
}
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
# Where training scripts keep the weights, beside the optimizer's state.
_STATE_DICTS = ("state_dict", "model", "model_state_dict", "module")

# flax's msgpack extension types of an array and of a NumPy scalar.
_FLAX_ARRAYS = (1, 3)


def read(path: str) -> dict[str, np.ndarray]:
  """Reads all arrays of a file.

  Args:
    path: Local or remote.

  Returns:
    Arrays by name, perhaps read-only. Of nested formats the names are paths:
    "params/fc/bias".

  Raises:
    UserError: If the file cannot be read, is in no known format, holds code,
      or is not whole.
  """
  content = _content(path)
  reader, name = _reader(path, content)
  try:
    return reader(content)
  except _Refused as e:
    raise UserError(f"{path}: {e}") from e
  # The libraries raise exceptions of many families for what is broken.
  except Exception as e:
    reason = " ".join(str(e).split())[:200]
    raise UserError(
      f"{path}: not a whole file in {name} form, perhaps cut off "
      f"({type(e).__name__}: {reason})."
    ) from e


class _Refused(ValueError):
  """Tells what is wrong with a file; `read` adds its name."""


def _content(path: str) -> memoryview:
  """Returns a file's bytes; those of a local file are mapped, not read."""
  if tf.io.gfile.isdir(path):
    raise UserError(
      f"{path}: a folder; give the file of weights in it, such as "
      "model.safetensors."
    )
  try:
    if "://" not in path and os.path.getsize(path):
      with open(path, "rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    else:
      with tf.io.gfile.GFile(path, "rb") as file:
        content = file.read()
  except (OSError, tf.errors.OpError) as e:
    reason = getattr(e, "strerror", None) or getattr(e, "message", e)
    raise UserError(f"{path}: cannot be read: {reason}") from e
  if content[:2] == b"\x1f\x8b":
    try:
      content = gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as e:
      raise UserError(f"{path}: not a whole gzip file ({e}).") from e
  return memoryview(content)


def _reader(path: str, content: memoryview) -> tuple[Callable, str]:
  """Returns the function that reads a file, and the format's name."""
  head = bytes(content[:64])
  if head[:4] == b"PK\x03\x04":
    return _read_torch_zip, "PyTorch's"
  if head[:8] == b"\x89HDF\r\n\x1a\n":
    return _read_hdf5, "HDF5's"
  if head[:1] == b"\x80" and head[2:3] == b"\x8a":  # A pickle of a long.
    return _read_torch_pickles, "PyTorch's"
  if head[8:9] == b"{":
    return _read_safetensors, "safetensors'"
  if head and (0x80 < head[0] <= 0x8F or head[0] in (0xDE, 0xDF)):  # A map.
    return _read_flax, "flax's msgpack"
  hint = next(
    (hint for start, hint in _NO_WEIGHTS.items() if head.startswith(start)),
    "known are safetensors, PyTorch's, flax's msgpack and HDF5",
  )
  if not head:
    hint = "it is empty"
  raise UserError(f"{path}: in no known format of weights: {hint}.")


def _read_safetensors(content: memoryview) -> dict[str, np.ndarray]:
  """Reads safetensors: the header's length, a header in JSON, the data.

  Reference: https://huggingface.co/docs/safetensors, "Format".
  """
  header_bytes = int.from_bytes(content[:8], "little")
  if header_bytes > _MAX_HEADER_BYTES:
    raise _Refused(
      f"a safetensors header of {header_bytes} bytes: at most "
      f"{_MAX_HEADER_BYTES} are allowed."
    )
  if 8 + header_bytes > len(content):
    raise _Refused(
      f"cut off in its header: it has {len(content)} bytes of at least "
      f"{8 + header_bytes}."
    )
  header = json.loads(bytes(content[8 : 8 + header_bytes]))
  header.pop("__metadata__", None)
  data = content[8 + header_bytes :]
  wanted = max((info["data_offsets"][1] for info in header.values()), default=0)
  if wanted != len(data):
    what = "cut off" if len(data) < wanted else "longer than its header says"
    raise _Refused(
      f"{what}: it has {len(content)} bytes, not {8 + header_bytes + wanted}."
    )
  arrays = {}
  for name, info in header.items():
    if info["dtype"] not in _SAFETENSORS_TYPES:
      raise _Refused(
        f"{name} is of type {info['dtype']}; allowed are "
        f"{', '.join(_SAFETENSORS_TYPES)}."
      )
    begin, end = info["data_offsets"]
    arrays[name] = _array(
      data[begin:end], _SAFETENSORS_TYPES[info["dtype"]], info["shape"], name
    )
  return arrays


def _array(content, dtype: np.dtype, shape, name: str) -> np.ndarray:
  """Returns bytes as an array, without a copy."""
  if len(content) != math.prod(shape) * dtype.itemsize:
    raise _Refused(
      f"{name} has {len(content)} bytes, which do not fit its shape {shape}."
    )
  return np.frombuffer(content, dtype).reshape(shape)


def _read_hdf5(content: memoryview) -> dict[str, np.ndarray]:
  """Reads all data sets of an HDF5 file."""
  arrays = {}

  def visit(name, item):
    if isinstance(item, h5py.Dataset):
      arrays[name] = item[()]

  with h5py.File(io.BytesIO(content), "r") as file:
    file.visititems(visit)
  return arrays


def _read_flax(content: memoryview) -> dict[str, np.ndarray]:
  """Reads the arrays and numbers of a flax checkpoint."""
  tree = msgpack.unpackb(content, ext_hook=_flax_array, strict_map_key=False)
  return dict(_leaves(tree, ""))


def _flax_array(kind: int, content: bytes):
  if kind not in _FLAX_ARRAYS:
    return msgpack.ExtType(kind, content)
  shape, name, values = msgpack.unpackb(content)
  dtype = _BFLOAT16 if name == "bfloat16" else np.dtype(name)
  return np.frombuffer(values, dtype).reshape(shape)


def _leaves(tree, path: str) -> Iterator[tuple[str, np.ndarray]]:
  for name, branch in tree.items():
    if isinstance(branch, dict):
      yield from _leaves(branch, f"{path}{name}/")
    elif branch is not None:
      yield f"{path}{name}", np.asarray(branch)


def _read_torch_zip(content: memoryview) -> dict[str, np.ndarray]:
  """Reads what `torch.save` writes since PyTorch 1.6."""
  with zipfile.ZipFile(io.BytesIO(content)) as archive:
    names = archive.namelist()
    pickles = [name for name in names if name.endswith("/data.pkl")]
    if len(pickles) != 1:
      raise _Refused("a zip archive, but not one of torch.save.")
    folder = pickles[0][: -len("data.pkl")]
    order = f"{folder}byteorder"
    if order in names and archive.read(order) != b"little":
      raise _Refused("of a big-endian machine, which is not supported.")
    tree = _Unpickler(io.BytesIO(archive.read(pickles[0]))).load()
    return _tensors(tree, lambda key: archive.read(f"{folder}data/{key}"))


def _read_torch_pickles(content: memoryview) -> dict[str, np.ndarray]:
  """Reads what `torch.save` wrote before PyTorch 1.6.

  That is five pickles (magic number, version, about the machine, the object,
  the keys of its storages) and the storages: a length and the values of each.
  """
  file = io.BytesIO(content)
  magic, _, machine = (_Unpickler(file).load() for _ in range(3))
  if magic != _TORCH_MAGIC:
    raise _Refused("a pickle, but not one of torch.save.")
  if not machine.get("little_endian", True):
    raise _Refused("of a big-endian machine, which is not supported.")
  unpickler = _Unpickler(file)
  tree = unpickler.load()
  storages = {}
  for key in _Unpickler(file).load():
    length = file.read(8)
    num_bytes = int.from_bytes(length, "little")
    num_bytes *= unpickler.storages[key].dtype.itemsize
    storages[key] = file.read(num_bytes)
    if len(length) < 8 or len(storages[key]) < num_bytes:
      raise _Refused(f"cut off: it has {len(content)} bytes.")
  return _tensors(tree, storages.__getitem__)


_StorageType = collections.namedtuple("_StorageType", ["name"])
_Storage = collections.namedtuple("_Storage", ["key", "dtype", "num_values"])
# In values of the storage.
_Tensor = collections.namedtuple(
  "_Tensor", ["storage", "offset", "shape", "strides"]
)


def _rebuild_tensor(storage, offset, shape, strides, *_) -> _Tensor:
  return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor, *_) -> _Tensor:
  return tensor


class _Unpickler(pickle.Unpickler):
  """Reads the pickles of `torch.save`; refuses what is not part of a tensor."""

  _ALLOWED = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
  }

  def __init__(self, file):
    super().__init__(file)
    self.storages = {}

  def find_class(self, module, name):
    if (module, name) in self._ALLOWED:
      return self._ALLOWED[module, name]
    if module == "torch" and name in _TORCH_TYPES:
      return _StorageType(name)
    raise _Refused(
      f"it asks for {module}.{name}. Only tensors are read, as anything else "
      "could run code: save the model's state_dict alone."
    )

  def persistent_load(self, pid):
    kind, storage, key, _, num_values, *_ = pid
    if kind != "storage" or not isinstance(storage, _StorageType):
      raise _Refused("it holds a reference that is not to a tensor's storage.")
    dtype = _TORCH_TYPES[storage.name]
    return self.storages.setdefault(key, _Storage(key, dtype, num_values))


def _tensors(tree, read_storage) -> dict[str, np.ndarray]:
  """Returns the tensors of a state dict, or of the one that is in `tree`."""
  if not isinstance(tree, dict):
    raise _Refused(f"it holds a {type(tree).__name__}, not a state_dict.")
  if not any(isinstance(value, _Tensor) for value in tree.values()):
    found = [name for name in _STATE_DICTS if isinstance(tree.get(name), dict)]
    if len(found) != 1:
      raise _Refused(
        f"it holds {', '.join(map(str, tree)) or 'nothing'}, of which not one "
        f"alone is a state_dict ({', '.join(_STATE_DICTS)}): save that alone."
      )
    tree = tree[found[0]]
  storages = {}
  arrays = {}
  for name, tensor in tree.items():
    if not isinstance(tensor, _Tensor):
      raise _Refused(f"{name} is a {type(tensor).__name__}, not a tensor.")
    key = tensor.storage.key
    if key not in storages:
      content = read_storage(key)
      dtype = tensor.storage.dtype
      storages[key] = _array(content, dtype, [tensor.storage.num_values], name)
    arrays[name] = _view(storages[key], tensor, name)
  return arrays


def _view(values: np.ndarray, tensor: _Tensor, name: str) -> np.ndarray:
  """Returns the part of a storage that is a tensor."""
  shape, strides = tensor.shape, tensor.strides
  numbers = (tensor.offset, *shape, *strides)
  if any(not isinstance(n, int) or n < 0 for n in numbers) or len(shape) != len(
    strides
  ):
    raise _Refused(f"{name} has the shape {shape} and the strides {strides}.")
  last = tensor.offset + sum((n - 1) * s for n, s in zip(shape, strides))
  if 0 in shape:
    return np.zeros(shape, values.dtype)
  if last >= len(values):
    raise _Refused(f"{name} reaches beyond its storage.")
  return np.lib.stride_tricks.as_strided(
    values[tensor.offset :],
    shape,
    [s * values.itemsize for s in strides],
    writeable=False,
  )
