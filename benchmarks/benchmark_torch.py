# SPDX-License-Identifier: Apache-2.0
"""PyTorch's side of `benchmarks/benchmark.py`, which starts it.

Imports nothing of tf_audioset: it may run with another interpreter that has
torch and timm, torchaudio, librosa and onnxruntime for the rows of their own.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import tempfile

import benchmark_worker
import numpy as np
import torch


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument("what", choices=("training", "inference", "frontend"))
  parser.add_argument("--model")
  parser.add_argument("--setting", default="float32 contiguous")
  parser.add_argument("--batch_sizes", type=int, nargs="+")
  parser.add_argument("--num_classes", type=int)
  parser.add_argument("--data", help="npz of the inputs; outputs go beside it")
  args = parser.parse_args()
  data = pathlib.Path(args.data)
  about = f"torch {torch.__version__}"
  with np.load(data) as arrays:
    if args.what == "training":
      import timm

      about += f", timm {timm.__version__}"
      functions = {"step from features": _training(args, arrays)}
    elif args.what == "inference":
      functions = _inference(args, arrays)
    else:
      functions = _frontends(arrays, data)
  benchmark_worker.serve(functions, about)


def _model(args):
  """(model, function to the memory format, autocast)."""
  import timm

  precision, memory_format = args.setting.split()
  torch.manual_seed(0)
  rates = {  # As in gin/.
    "resnet18": {},
    "efficientnet_b0": {"drop_path_rate": 0.2},
    "convnext_tiny": {"drop_path_rate": 0.1},
  }[args.model]
  model = timm.create_model(
    args.model,
    in_chans=1,
    num_classes=args.num_classes,
    drop_rate=0.4,
    **rates,
  )

  def lay_out(x):
    if memory_format == "contiguous":
      return x
    return x.to(memory_format=torch.channels_last)

  def autocast():
    return torch.autocast(
      "cpu", torch.bfloat16, enabled=precision == "bfloat16"
    )

  return lay_out(model), lay_out, autocast


def _training(args, arrays):
  model, lay_out, autocast = _model(args)
  model.train()
  features = lay_out(torch.from_numpy(arrays["features"])[:, None])
  targets = torch.from_numpy(arrays["targets"])
  # Fused: the quickest of its three implementations.
  optimizer = torch.optim.AdamW(
    model.parameters(), lr=1e-4, weight_decay=1e-4, fused=True
  )

  def step():
    optimizer.zero_grad(set_to_none=True)
    with autocast():
      logits = model(features)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
      logits.float(), targets
    )
    loss.backward()
    optimizer.step()
    return loss.item()

  return step


def _padded(waveform):
  """For centred frames of 1024 with the reflection of frames of 400."""
  padded = torch.nn.functional.pad(waveform, (200, 200), mode="reflect")
  return torch.nn.functional.pad(padded, (312, 312))


class _LogMel(torch.nn.Module):
  """torchaudio's way: `stft`, |.|^2, mel, log."""

  def __init__(self, filterbank, dtype=torch.float32):
    super().__init__()
    self.register_buffer("filters", torch.from_numpy(filterbank).to(dtype))
    self.register_buffer("window", torch.hann_window(400, dtype=dtype))

  def forward(self, waveform):
    spectrum = torch.stft(
      _padded(waveform).to(self.window.dtype),
      1024,
      160,
      400,
      self.window,
      center=False,
      return_complex=True,
    )
    power = spectrum.real.square() + spectrum.imag.square()
    log_mel = (power.transpose(1, 2) @ self.filters).clamp(1e-8, 1e8).log()
    return log_mel.float()


def _inference(args, arrays):
  """Waveform to scores; with ONNX Runtime as well, if it is installed."""
  model, lay_out, autocast = _model(args)
  log_mel = _LogMel(arrays["filterbank"])
  model.eval()
  all_waveforms = torch.from_numpy(arrays["waveforms"])

  def scorer(forward, waveforms):
    def score():
      with torch.inference_mode():
        features = lay_out(log_mel(waveforms)[:, None])
        forward(features)

    return score

  def forward(features):
    with autocast():
      return model(features).float().sigmoid()

  def one_thread():
    torch.set_num_threads(1)

  def measured(forward, forward_on_one):
    one = scorer(forward_on_one, all_waveforms[:1])
    return {
      **{
        f"batch {n}": scorer(forward, all_waveforms[:n])
        for n in args.batch_sizes
      },
      **benchmark_worker.clients(one, one_thread),
    }

  functions = measured(forward, forward)
  if args.setting != "float32 contiguous":
    return functions
  try:
    import onnxruntime
    import onnxscript  # noqa: F401  The exporter needs it.
  except ImportError:
    return functions
  with tempfile.TemporaryDirectory() as folder:
    path = f"{folder}/model.onnx"
    torch.onnx.export(
      model,
      (torch.zeros(2, 1, 1001, 64),),
      path,
      input_names=["x"],
      dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
      external_data=False,
      verbose=False,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = (
      onnxruntime.InferenceSession(path),
      onnxruntime.InferenceSession(path, options),
    )

  def forward_onnx(session, features):
    (logits,) = session.run(None, {"x": features.numpy()})
    return 1 / (1 + np.exp(-logits))

  onnx = measured(*(functools.partial(forward_onnx, s) for s in sessions))
  return functions | {f"ONNX Runtime: {k}": v for k, v in onnx.items()}


def _frontends(arrays, data):
  waveforms = arrays["waveforms"]
  tensor = torch.from_numpy(waveforms)
  ways = {}

  def with_torch(log_mel, batch_size):
    with torch.inference_mode():
      return torch.cat([log_mel(x) for x in tensor.split(batch_size)]).numpy()

  for dtype, note in (torch.float32, ""), (torch.float64, " in float64"):
    log_mel = _LogMel(arrays["filterbank"], dtype)
    for batch_size, by in (len(tensor), ""), (1, " clip by clip"):
      ways[f"torch.stft{by}{note}: log-mel"] = functools.partial(
        with_torch, log_mel, batch_size
      )
  try:
    import torchaudio

    def with_torchaudio(transform, dtype):
      with torch.inference_mode():
        mel = transform(_padded(tensor).to(dtype))
        return mel.clamp(1e-8, 1e8).log().transpose(1, 2).float().numpy()

    for dtype, note in (torch.float32, ""), (torch.float64, " in float64"):
      transform = torchaudio.transforms.MelSpectrogram(
        16000,
        1024,
        400,
        160,
        60.0,
        7800.0,
        n_mels=64,
        center=False,
        wkwargs={"dtype": dtype},
      )
      ways[f"torchaudio{note}: log-mel"] = functools.partial(
        with_torchaudio, transform.to(dtype), dtype
      )
  except (ImportError, OSError):  # One for another version of torch.
    pass
  try:
    import librosa

    def with_librosa():
      padded = np.pad(waveforms, [(0, 0), (200, 200)], mode="reflect")
      padded = np.pad(padded, [(0, 0), (312, 312)])
      mel = librosa.feature.melspectrogram(
        y=padded,
        sr=16000,
        n_fft=1024,
        win_length=400,
        hop_length=160,
        center=False,
        n_mels=64,
        fmin=60.0,
        fmax=7800.0,
        htk=True,
        norm=None,
      )
      return np.log(mel.clip(1e-8, 1e8)).transpose(0, 2, 1)

    ways["librosa: log-mel"] = with_librosa
  except ImportError:
    pass
  return benchmark_worker.checked(ways, str(data))


if __name__ == "__main__":
  main()
