"""Runs ONNX networks on the CPU: the peer of `bench infer` and of `verify`. Follows protocol.py."""

import platform
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

networks = {}


def hello():
    versions = {"ONNX Runtime": f"ONNX Runtime {ort.__version__} on Python {platform.python_version()}"}
    try:
        import openvino

        versions["OpenVINO"] = f"OpenVINO {openvino.__version__.split('-')[0]}"
    except ModuleNotFoundError:
        pass
    return versions


def session(model, threads, optimized=None):
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Several threads look for the next step while a run lasts, as ours do; between runs they sleep and disturb nobody.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads > 1 else "0")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if optimized:
        options.optimized_model_filepath = str(optimized)
        options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class OnnxRuntime:
    """Inputs and outputs are bound once, so that a run copies and allocates nothing."""

    def __init__(self, model, threads, shape):
        self.session = session(model, threads)
        (given,) = self.session.get_inputs()
        (logits,) = self.session.get_outputs()
        self.kind = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}[given.type]
        empty = np.zeros(shape, self.kind)
        self.images = ort.OrtValue.ortvalue_from_numpy(empty)
        self.result = ort.OrtValue.ortvalue_from_numpy(self.session.run(None, {given.name: empty})[0])
        self.binding = self.session.io_binding()
        self.binding.bind_ortvalue_input(given.name, self.images)
        self.binding.bind_ortvalue_output(logits.name, self.result)

    def fill(self, values):
        self.images.update_inplace(values)

    def step(self):
        self.session.run_with_iobinding(self.binding)

    def answer(self):
        return self.result.numpy()


class OpenVino:
    """One stream for latency; its own tensors are used again."""

    def __init__(self, model, threads, shape):
        import openvino
        import openvino.properties as properties
        import openvino.properties.hint as hint

        core = openvino.Core()
        network = core.read_model(model)
        network.reshape(list(shape))
        in_f32 = network.input(0).element_type == openvino.Type.f32
        settings = {
            properties.inference_num_threads(): threads,
            hint.performance_mode(): hint.PerformanceMode.LATENCY,
        }
        if in_f32:
            # Else it computes in bf16 where the CPU can.
            settings[hint.inference_precision()] = openvino.Type.f32
        self.request = core.compile_model(network, "CPU", settings).create_infer_request()
        self.kind = self.request.get_input_tensor().data.dtype

    def fill(self, values):
        self.request.get_input_tensor().data[...] = values

    def step(self):
        self.request.infer()

    def answer(self):
        return self.request.get_output_tensor().data


ENGINES = {"ONNX Runtime": OnnxRuntime, "OpenVINO": OpenVino}


def load(name, engine, model, threads, images, shape):
    """Makes the network `model` ready and answers the logits of the images in a file (those of one run)."""
    network = ENGINES[engine](model, threads, shape)
    network.fill(np.fromfile(images, network.kind).reshape(shape))
    network.step()
    networks[name] = network
    return network.answer().flatten().tolist()


def run(name, runs):
    """The median of the seconds of so many runs, each timed alone."""
    step = networks[name].step
    clock = time.perf_counter_ns
    for _ in range(2):
        step()
    times = []
    for _ in range(runs):
        started = clock()
        step()
        times.append(clock() - started)
    return statistics.median(times) / 1e9


def kinds(model):
    """How often each operator occurs in the network as ONNX Runtime executes it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        session(model, 1, path)
        graph = onnx.load(path).graph
    return dict(Counter(node.op_type for node in graph.node))


def codes(model, images, out, count):
    """Runs images one by one and writes all outputs, one after another, to a file; answers their names."""
    network = session(model, 1)
    (given,) = network.get_inputs()
    shape = [1] + [int(d) for d in given.shape[1:]]
    names = [output.name for output in network.get_outputs()]
    pixels = np.fromfile(images, np.uint8).reshape([count] + shape)
    with open(out, "wb") as file:
        for image in pixels:
            for value in network.run(names, {given.name: image}):
                value.tofile(file)
    return names


serve({f.__name__: f for f in (hello, load, run, kinds, codes)})
