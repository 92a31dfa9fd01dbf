"""Writes qdq.json: what ONNX Runtime makes of the files of tests/qdq.rs, and what it computes with them.

Run with ONNX Runtime 1.32 on a CPU with VNNI (without it, ONNX Runtime's u8·s8 products saturate at 16 bits):

    cargo test -p opt-format --test qdq -- --ignored write_the_files
    python crates/opt-format/tests/golden/qdq.py target/tmp/qdq
"""

import collections
import hashlib
import json
import pathlib
import sys
import tempfile

import numpy
import onnx
import onnxruntime

folder = pathlib.Path(sys.argv[1])


def session(path, optimised=None):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    if optimised:
        options.optimized_model_filepath = optimised
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(path, images):
    net = session(path)
    (image,) = net.get_inputs()
    bytes_ = numpy.frombuffer(images.read_bytes(), numpy.uint8).reshape(-1, *image.shape[1:])
    return {output.name: value for output, value in zip(net.get_outputs(), net.run(None, {image.name: bytes_}))}


def optimised(path):
    onnx.checker.check_model(onnx.load(path), full_check=True)
    with tempfile.TemporaryDirectory() as temporary:
        file = f"{temporary}/optimised.onnx"
        session(path, file)
        return dict(sorted(collections.Counter(node.op_type for node in onnx.load(file).graph.node).items()))


nets = {}
for plain in sorted(folder.glob("*.plain.onnx")):
    name = plain.name.split(".")[0]
    edges = run(folder / f"{name}.edges.onnx", folder / f"{name}.images")
    outputs = [edges]
    outputs.append(run(plain, folder / f"{name}.images"))
    padded = folder / f"{name}.padded.onnx"
    if padded.exists():
        outputs.append(run(padded, folder / f"{name}.padded.images"))
        ops = optimised(padded)
        assert not {"Split", "Concat"} & ops.keys(), ops
    for other in outputs:
        assert all((edges[output] == value).all() for output, value in other.items()), name
    logits = edges.pop("logits")
    nets[name] = dict(
        optimised=optimised(plain),
        logits=[float(x) for x in logits.ravel()],
        codes={edge: codes.tobytes().hex() for edge, codes in edges.items()},
    )
sha256 = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}
out = pathlib.Path(__file__).with_suffix(".json")
out.write_text(json.dumps(dict(onnxruntime=onnxruntime.__version__, sha256=sha256, nets=nets), indent=1) + "\n")
