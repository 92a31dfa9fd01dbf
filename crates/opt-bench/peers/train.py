"""Trains the zoo's networks in plain PyTorch: the peer of `bench train`. Follows protocol.py."""

import contextlib
import platform
import shutil
import time

import numpy
import torch
import torch.nn as nn
import torch.nn.functional as F


class Block(nn.Module):
    """Two convolutions beside a shortcut without parameters."""

    def __init__(self, n_in, n_out, stride, inplace):
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.added = n_out - n_in
        self.inplace = inplace

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), self.inplace)
        y = self.bn2(self.conv2(y))
        if self.added:
            before = self.added // 2
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, before, self.added - before))
        return F.relu(y + x, self.inplace)


class ResNet20(nn.Module):
    def __init__(self, inplace):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        for stage, (n_in, n_out) in enumerate([(16, 16), (16, 32), (32, 64)], 1):
            first = Block(n_in, n_out, 1 if stage == 1 else 2, inplace)
            others = [Block(n_out, n_out, 1, inplace) for _ in range(2)]
            setattr(self, f"layer{stage}", nn.Sequential(first, *others))
        self.linear = nn.Linear(64, 10)
        self.inplace = inplace

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)), self.inplace)
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


class SourceNet(nn.Module):
    def __init__(self, inplace):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1)
        self.conv2 = nn.Conv2d(64, 128, 3, 1, 1)
        self.fc = nn.Linear(128 * 8 * 8, 10)
        self.inplace = inplace

    def forward(self, x):
        x = F.relu(self.conv1(x), self.inplace)
        x = F.relu(self.conv2(x), self.inplace)
        return self.fc(F.avg_pool2d(x, 4).flatten(1))


class Stage(nn.Module):
    def __init__(self, n_in, n_out, inplace):
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, 1, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(n_out)
        for norm in (self.norm1, self.norm2):
            norm.weight.requires_grad_(False)
        self.inplace = inplace

    def forward(self, x):
        x = F.relu(self.norm1(F.max_pool2d(self.conv1(x), 2)), self.inplace)
        return F.relu(self.norm2(self.conv2(x)), self.inplace)


class Airbench(nn.Module):
    def __init__(self, inplace):
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 2)
        widths = [(24, 32), (32, 64), (64, 128)]
        self.blocks = nn.Sequential(*(Stage(a, b, inplace) for a, b in widths))
        self.head = nn.Linear(128, 10)
        self.inplace = inplace

    def forward(self, x):
        x = self.blocks(F.relu(self.stem(x), self.inplace))
        return self.head(F.max_pool2d(x, 3).flatten(1))


NETWORKS = {"resnet20": ResNet20, "source_net": SourceNet, "airbench_32_64_128": Airbench}


class CastConv2d(nn.Conv2d):
    """A convolution in bfloat16 whose parameters stay f32."""

    def forward(self, x):
        bias = None if self.bias is None else self.bias.bfloat16()
        weight = self.weight.bfloat16()
        return F.conv2d(x.bfloat16(), weight, bias, self.stride, self.padding)


class CastLinear(nn.Linear):
    """A linear layer in bfloat16 whose parameters stay f32."""

    def forward(self, x):
        return F.linear(x.bfloat16(), self.weight.bfloat16(), self.bias.bfloat16())


CASTS = {nn.Conv2d: CastConv2d, nn.Linear: CastLinear}

# Name: arithmetic, channels last, how SGD runs, compiled. The first is what a user writes without looking further.
MODES = {
    "eager f32 NCHW, SGD": ("f32", False, {}, False),
    "f32 channels_last, foreach SGD": ("f32", True, {"foreach": True}, False),
    "f32 channels_last, fused SGD": ("f32", True, {"fused": True}, False),
    "bf16 autocast channels_last, foreach SGD": ("autocast", True, {"foreach": True}, False),
    "bf16 autocast channels_last, fused SGD": ("autocast", True, {"fused": True}, False),
    "bf16 cast channels_last, foreach SGD": ("cast", True, {"foreach": True}, False),
    "bf16 cast channels_last, fused SGD": ("cast", True, {"fused": True}, False),
    "torch.compile f32 channels_last, fused SGD": ("f32", True, {"fused": True}, True),
    "torch.compile bf16 autocast channels_last, fused SGD": ("autocast", True, {"fused": True}, True),
    "torch.compile bf16 cast channels_last, fused SGD": ("cast", True, {"fused": True}, True),
}


class Trainer:
    """A network, its optimizer and a few batches that were made before the clock runs."""

    def __init__(self, network, mode, batch):
        arithmetic, channels_last, sgd, compiled = MODES[mode]
        torch.manual_seed(0)
        self.net = NETWORKS[network](inplace=mode != next(iter(MODES)))
        layout = torch.channels_last if channels_last else torch.contiguous_format
        if arithmetic == "cast":
            for module in self.net.modules():
                module.__class__ = CASTS.get(type(module), type(module))
        self.net.to(memory_format=layout)
        trained = [p for p in self.net.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(
            trained, lr=0.02, momentum=0.9, nesterov=True, weight_decay=5e-4, **sgd
        )
        images = [torch.randn(batch, 3, 32, 32) for _ in range(4)]
        kind = torch.float32 if arithmetic == "f32" else torch.bfloat16
        self.images = [x.to(kind).contiguous(memory_format=layout) for x in images]
        self.labels = [torch.randint(0, 10, (batch,)) for _ in range(4)]
        self.call = torch.compile(self.net) if compiled else self.net
        self.autocast = contextlib.nullcontext()
        if arithmetic == "autocast":
            self.autocast = torch.autocast("cpu", torch.bfloat16)

    def step(self, i):
        images, labels = self.images[i % 4], self.labels[i % 4]
        self.optimizer.zero_grad()
        with self.autocast:
            logits = self.call(images)
        F.cross_entropy(logits.float(), labels).backward()
        self.optimizer.step()


trainers = {}


def hello(threads):
    torch.set_num_threads(threads)
    return {
        "version": f"PyTorch {torch.__version__} on Python {platform.python_version()}",
        "threads": torch.get_num_threads(),
        "modes": [
            {"name": name, "arithmetic": "f32" if kind == "f32" else "bf16", "compiled": compiled}
            for name, (kind, _, _, compiled) in MODES.items()
        ],
        "compiler": shutil.which("c++") or shutil.which("g++") or shutil.which("clang++"),
    }


def parameters(network):
    """Name and shape of everything that is trained."""
    net = NETWORKS[network](inplace=False)
    return {name: list(p.shape) for name, p in net.named_parameters() if p.requires_grad}


def logits(network, file, images, names):
    """The answers to `images` images with the given parameters, which `file` holds in this order as f32."""
    net = NETWORKS[network](inplace=False).train()
    values = torch.from_numpy(numpy.fromfile(file, dtype="<f4"))
    tensors = dict(net.named_parameters())
    size = images * 3 * 32 * 32
    x, values = values[:size].view(images, 3, 32, 32), values[size:]
    with torch.no_grad():
        for name in names:
            tensor = tensors[name]
            tensor.copy_(values[: tensor.numel()].view(tensor.shape))
            values = values[tensor.numel() :]
        return net(x).flatten().tolist()


def run(network, mode, steps, batch):
    """Seconds of `steps` steps; whatever has to be built is built before."""
    key = (network, mode, batch)
    if key not in trainers:
        trainers[key] = Trainer(*key)
    trainer = trainers[key]
    started = time.perf_counter()
    for i in range(steps):
        trainer.step(i)
    return time.perf_counter() - started


def forget():
    trainers.clear()
    torch.compiler.reset()


serve({f.__name__: f for f in (hello, parameters, logits, run, forget, memory)})
