"""Exported ONNX models under ONNX Runtime and OpenVINO, against the logits that PyTorch computed.

Cases are found: every folder of the reference data with a golden.safetensors and a config.json.
Run by scripts/test-onnx: python3 tests/onnx_runtimes.py WOOTZ FIXTURES
"""

import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
from safetensors.numpy import load_file

# Of the largest logit: sums in another order; weights of which some more are rounded.
EXACT, ROUNDED = 2e-5, 4e-2

if importlib.util.find_spec("openvino"):
    import openvino
else:
    openvino = None


class Runtime:
    """ONNX Runtime."""

    def __init__(self, path):
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.inputs = {value.name: value.shape for value in self.session.get_inputs()}

    def __call__(self, feeds):
        names = [value.name for value in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, feeds)))


class OpenVino(Runtime):
    """OpenVINO; what the inputs are, ONNX Runtime says."""

    def __init__(self, path):
        super().__init__(path)
        self.model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def __call__(self, feeds):
        return {output.get_any_name(): value.copy() for output, value in self.model(feeds).items()}


def in_parts(model, ids, mask, parts):
    """Logits of a batch that is given in parts, through the cache."""
    past = {
        name: np.zeros((len(ids), shape[1], 0, shape[3]), np.float32)
        for name, shape in model.inputs.items()
        if name.startswith("past_key_values")
    }
    logits, at = [], 0
    for part in parts:
        new = ids[:, at : at + part]
        at += part
        outputs = model({"input_ids": new, "attention_mask": mask[:, :at], **past})
        logits.append(outputs.pop("logits"))
        past = {name.replace("present", "past_key_values"): value for name, value in outputs.items()}
    assert at == ids.shape[1]
    return np.concatenate(logits, axis=1)


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def off(found, expected):
    """The largest difference over the largest magnitude."""
    assert found.shape == expected.shape, f"{found.shape}, expected {expected.shape}"
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def check(wootz, folder, scratch):
    """Every graph and type of one model; gives how far each is off."""

    def export(name, *flags):
        path = str(scratch / name)
        run(wootz, "export", folder, path, *flags)
        onnx.checker.check_model(path, full_check=True)  # with inference of shapes
        return path

    golden = load_file(folder / "golden.safetensors")
    ids, expected = golden["input_ids"].astype(np.int64), golden["logits"]
    batch, seq = ids.shape
    parts = [seq // 3, seq // 3] + [1] * (seq - 2 * (seq // 3))
    plain, cache = export("plain.onnx"), export("cache.onnx", "--graph", "cache")
    found = {}
    for runtime in [Runtime] + ([OpenVino] if openvino else []):
        name = runtime.__name__
        model = runtime(plain)
        found[f"{name} plain"] = off(model({"input_ids": ids})["logits"], expected), EXACT
        few = model({"input_ids": ids[:1, :7]})["logits"]
        found[f"{name} few"] = off(few, expected[:1, :7]), EXACT
        model = runtime(cache)
        ones = np.ones_like(ids)
        found[f"{name} at once"] = off(in_parts(model, ids, ones, [seq]), expected), EXACT
        found[f"{name} in parts"] = off(in_parts(model, ids, ones, parts), expected), EXACT
        # The second sequence has padding before it, the first behind.
        padded, mask = np.zeros((2, batch, seq + 5), np.int64)
        padded[0, :seq], padded[1, 5:], mask[0, :seq], mask[1, 5:] = ids[0], ids[1], 1, 1
        logits = in_parts(model, padded, mask, parts + [1] * 5)
        found[f"{name} padded"] = off(np.stack([logits[0, :seq], logits[1, 5:]]), expected), EXACT
    beside = Runtime(export("beside.onnx", "--external-data"))
    found["beside"] = off(beside({"input_ids": ids})["logits"], expected), EXACT
    for dtype in "f16", "bf16":
        # The same rounded weights in f32, by way of a GGUF file, which rounds all but vectors and learned positions.
        rounded, wide = str(scratch / f"{dtype}.gguf"), str(scratch / f"{dtype}-wide.onnx")
        run(wootz, "export", folder, rounded, "--dtype", dtype)
        run(wootz, "export", rounded, wide)
        tolerance = EXACT if json.loads((folder / "config.json").read_text())["model_type"] != "gpt2" else ROUNDED
        logits = Runtime(export(f"{dtype}.onnx", "--dtype", dtype))({"input_ids": ids})["logits"]
        found[dtype] = off(logits, Runtime(wide)({"input_ids": ids})["logits"]), tolerance
        assert off(logits, expected) > 1e-4, "nothing is rounded"

    weights = Runtime(export("weights.onnx", "--graph", "weights"))({})
    stored = {}
    for file in folder.glob("model*.safetensors"):
        stored.update(load_file(file))
    for name, value in weights.items():
        # A file of GPT-2 may have names without their prefix.
        original = stored.get(name, stored.get(name.removeprefix("transformer.")))
        assert original.astype(np.float32).tobytes() == value.tobytes(), f"{folder}: {name}"
    return found


def main(wootz, fixtures):
    folders = [path.parent for path in pathlib.Path(fixtures).glob("*/golden.safetensors")]
    folders = sorted(folder for folder in folders if (folder / "config.json").is_file())
    assert folders, f"no fixtures under {fixtures}"
    failed = False
    for folder in folders:
        with tempfile.TemporaryDirectory() as scratch:
            found = check(wootz, folder, pathlib.Path(scratch))
        print(f"{folder.name}: " + ", ".join(f"{name} {off:.1e}" for name, (off, _) in found.items()), flush=True)
        for name, (off, tolerance) in found.items():
            if not off <= tolerance:
                print(f"{folder.name}: {name}: off by {off:.1e}, at most {tolerance:.0e}")
                failed = True
    sys.exit(failed)


main(*sys.argv[1:])
