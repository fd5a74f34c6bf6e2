# SPDX-License-Identifier: Apache-2.0
"""Files of weights are read as they were written, or refused in a line."""

import collections
import contextlib
import gzip
import io
import json
import os
import pickle
import sys
import types
import zipfile

import h5py
import msgpack
import numpy as np
import pytest
import tensorflow as tf

from tf_audioset.weights import weight_files

_BFLOAT16 = tf.bfloat16.as_numpy_dtype
_ARRAYS = {
  "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
  "a.bias": np.array([1.5, -2], np.float16),
  "n": np.array(7, np.int64),
  "none": np.zeros([0, 3], np.float64),
}


def safetensors(arrays) -> bytes:
  """Returns arrays as safetensors' format has them."""
  kinds = {
    "float32": "F32",
    "float16": "F16",
    "float64": "F64",
    "int64": "I64",
    "bfloat16": "BF16",
  }
  header, data = {"__metadata__": {"format": "pt"}}, b""
  for name, array in arrays.items():
    end = len(data) + array.nbytes
    header[name] = {
      "dtype": kinds[array.dtype.name],
      "shape": array.shape,
      "data_offsets": [len(data), end],
    }
    data += array.tobytes()
  text = json.dumps(header).encode()
  return len(text).to_bytes(8, "little") + text + data


class _Storage:
  """Stands for a tensor's storage; pickled as a reference."""

  def __init__(self, array, key):
    self.array, self.key = array, key


class _Tensor:
  """Stands for a tensor; pickled as PyTorch does."""

  def __init__(self, array, key, offset=0):
    self._storage = _Storage(array, key)
    self._offset = offset

  def __reduce__(self):
    array = self._storage.array
    strides = [s // array.itemsize for s in array.strides]
    return sys.modules["torch._utils"]._rebuild_tensor_v2, (
      self._storage,
      self._offset,
      array.shape,
      tuple(strides),
      False,
      collections.OrderedDict(),
    )


@contextlib.contextmanager
def _like_torch():
  """Modules of PyTorch's names, to which pickles refer."""
  torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

  def _rebuild_tensor_v2(*_):
    raise AssertionError("not for reading")

  _rebuild_tensor_v2.__module__ = "torch._utils"
  _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
  utils._rebuild_tensor_v2 = _rebuild_tensor_v2
  for kind in ("Float", "Half", "Double", "Long", "BFloat16"):
    name = f"{kind}Storage"
    setattr(torch, name, type(name, (), {"__module__": "torch"}))
  before = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
  sys.modules.update({"torch": torch, "torch._utils": utils})
  try:
    yield torch
  finally:
    for name, module in before.items():
      if module is None:
        del sys.modules[name]
      else:
        sys.modules[name] = module


def torch_file(tree, *, old=False) -> bytes:
  """Returns what `torch.save` makes of a tree with arrays."""
  storages = {}

  def tensors(value):
    if isinstance(value, dict):
      return type(value)((k, tensors(v)) for k, v in value.items())
    if not isinstance(value, np.ndarray):
      return value
    storages[str(len(storages))] = value
    return _Tensor(value, str(len(storages) - 1))

  kinds = {
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "float64": "DoubleStorage",
    "int64": "LongStorage",
    "bfloat16": "BFloat16Storage",
  }

  with _like_torch() as torch:

    class Pickler(pickle.Pickler):
      def persistent_id(self, item):
        if not isinstance(item, _Storage):
          return None
        kind = getattr(torch, kinds[item.array.dtype.name])
        pid = ("storage", kind, item.key, "cpu", item.array.size)
        return (*pid, None) if old else pid

    def pickled(item):
      file = io.BytesIO()
      Pickler(file, 2).dump(item)
      return file.getvalue()

    content = pickled(tensors(tree))
    # All values in the memory's order, also of what is transposed.
    data = {k: a.ravel(order="K").tobytes() for k, a in storages.items()}
    if not old:
      file = io.BytesIO()
      with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", "little")
        for key, values in data.items():
          archive.writestr(f"archive/data/{key}", values)
      return file.getvalue()
    machine = {"protocol_version": 1001, "little_endian": True}
    parts = [0x1950A86A20F9469CFC6C, 1001, machine]
    parts = [pickled(part) for part in parts]
    sizes = {k: len(v) // storages[k].itemsize for k, v in data.items()}
    parts += [content, pickled(list(data))]
    parts += [sizes[k].to_bytes(8, "little") + v for k, v in data.items()]
    return b"".join(parts)


def _hdf5() -> bytes:
  file = io.BytesIO()
  with h5py.File(file, "w") as hdf5:
    for name, array in _ARRAYS.items():
      hdf5[name] = array
  return file.getvalue()


def _flax() -> bytes:
  def default(array):
    content = (array.shape, array.dtype.name, array.tobytes())
    return msgpack.ExtType(1, msgpack.packb(content))

  return msgpack.packb({**_ARRAYS, "nothing": None}, default=default)


_CONTENTS = {
  "safetensors": safetensors(_ARRAYS),
  "torch": torch_file(collections.OrderedDict(_ARRAYS)),
  "torch of old": torch_file(_ARRAYS, old=True),
  "hdf5": _hdf5(),
  "flax": _flax(),
}


def _read(tmp_path, content):
  path = tmp_path / "weights"
  path.write_bytes(content)
  return weight_files.read(str(path))


def _refuse(tmp_path, content) -> str:
  with pytest.raises(ValueError) as error:
    _read(tmp_path, content)
  message = str(error.value)
  assert message.startswith(f"{tmp_path / 'weights'}: ") and "\n" not in message
  return message


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", _CONTENTS)
def test_each_format_is_read_as_written(name, packed, tmp_path):
  content = _CONTENTS[name]
  actual = _read(tmp_path, gzip.compress(content) if packed else content)
  assert list(actual) == list(_ARRAYS) or name == "hdf5"
  assert actual.keys() == _ARRAYS.keys()
  for key, array in _ARRAYS.items():
    assert actual[key].dtype == array.dtype
    np.testing.assert_array_equal(actual[key], array)


@pytest.mark.parametrize("name", _CONTENTS)
def test_what_is_cut_off_is_refused_wherever(name, tmp_path):
  content = _CONTENTS[name]
  for length in (len(content) // 3, len(content) // 2, len(content) - 1):
    message = _refuse(tmp_path, content[:length])
    assert "cut off" in message, message
  message = _refuse(tmp_path, gzip.compress(content)[:-9])
  assert "not a whole gzip file" in message


def test_bfloat16_and_transposed_tensors_are_read(tmp_path):
  array = np.arange(6, dtype=np.float32).reshape(2, 3)
  arrays = {"half": array.astype(_BFLOAT16), "turned": array.T}
  for old in (False, True):
    actual = _read(tmp_path, torch_file(arrays, old=old))
    np.testing.assert_array_equal(actual["half"].astype(np.float32), array)
    np.testing.assert_array_equal(actual["turned"], array.T)
  actual = _read(tmp_path, safetensors({"half": arrays["half"]}))
  np.testing.assert_array_equal(actual["half"].astype(np.float32), array)


def test_a_state_dict_is_found_in_a_checkpoint(tmp_path):
  tree = {"epoch": 3, "state_dict": _ARRAYS, "optimizer": {"lr": 0.1}}
  assert _read(tmp_path, torch_file(tree)).keys() == _ARRAYS.keys()
  both = torch_file({"model": _ARRAYS, "state_dict": _ARRAYS})
  assert "not one alone is a state_dict" in _refuse(tmp_path, both)
  assert "holds epoch" in _refuse(tmp_path, torch_file({"epoch": 3}))
  mixed = torch_file({**_ARRAYS, "epoch": 3})
  assert "epoch is a int, not a tensor" in _refuse(tmp_path, mixed)


class _Code:
  def __init__(self, folder):
    self._folder = folder

  def __reduce__(self):
    return os.mkdir, (self._folder,)


@pytest.mark.parametrize("old", [False, True])
def test_code_in_a_file_is_not_run(old, tmp_path):
  trap = tmp_path / "trap"
  content = torch_file({**_ARRAYS, "x": _Code(str(trap))}, old=old)
  message = _refuse(tmp_path, content)
  assert "mkdir" in message and "could run code" in message
  assert not trap.exists()
  # The file is one that would run it.
  with contextlib.suppress(Exception), _like_torch():
    pickle.loads(pickle.dumps(_Code(str(trap))))
  assert trap.exists()


def test_a_tensor_beyond_its_storage_is_refused(tmp_path):
  content = torch_file({"x": _ARRAYS["a.weight"]})
  short = io.BytesIO()
  with zipfile.ZipFile(io.BytesIO(content)) as archive:
    with zipfile.ZipFile(short, "w") as out:
      for name in archive.namelist():
        data = archive.read(name)
        out.writestr(name, data[:-4] if name.endswith("data/0") else data)
  assert "x has 20 bytes" in _refuse(tmp_path, short.getvalue())

  class Far:
    def __reduce__(self):
      return _Tensor(_ARRAYS["a.weight"], "0", offset=1).__reduce__()

  content = torch_file({"y": _ARRAYS["a.weight"], "x": Far()})
  assert "x reaches beyond its storage" in _refuse(tmp_path, content)


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"", "it is empty"),
    (b"hello", "known are safetensors"),
    (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    (b"<!doctype html>", "a web page"),
    (b'{"model_type": "ced"}', "it is JSON"),
    (pickle.dumps([1]), "a pickle, but not one of torch.save"),
    ((10**9).to_bytes(8, "little") + b"{}", "header of 1000000000 bytes"),
    (safetensors(_ARRAYS) + b"\0", "longer than its header says"),
    (safetensors({"x": np.zeros(2)}).replace(b"F64", b"F08"), "of type F08"),
    (safetensors({"x": np.zeros(2)}).replace(b"[2]", b"[3]"), "do not fit"),
    (_flax()[:1] + b"\xc1" * 9, "flax's msgpack form"),
  ],
)
def test_what_is_not_weights_is_told(content, message, tmp_path):
  assert message in _refuse(tmp_path, content)


def test_other_zip_archives_are_told(tmp_path):
  file = io.BytesIO()
  np.savez(file, a=np.zeros(1))
  assert "not one of torch.save" in _refuse(tmp_path, file.getvalue())


def test_a_missing_file_and_a_folder_are_told(tmp_path):
  with pytest.raises(ValueError, match="none: cannot be read: No such file"):
    weight_files.read(str(tmp_path / "none"))
  with pytest.raises(ValueError, match="a folder; give the file"):
    weight_files.read(str(tmp_path))


def test_a_local_file_is_mapped_and_not_copied(tmp_path):
  path = tmp_path / "weights"
  path.write_bytes(safetensors({"x": np.zeros(1000, np.float32)}))
  array = weight_files.read(str(path))["x"]
  assert not array.flags.writeable and not array.flags.owndata
  # A change of the file is seen through the array.
  with path.open("r+b") as file:
    file.seek(-4, os.SEEK_END)
    file.write(np.float32(5).tobytes())
  assert array[-1] == 5
