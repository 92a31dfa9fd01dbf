"""Writes sgd.json: steps of torch.optim.SGD that opt-nn's Sgd must repeat. Run with PyTorch 2.13: python sgd.py"""

import json
import pathlib

import torch

cases = []
for momentum, nesterov, weight_decay in [(0.0, False, 0.0), (0.9, False, 0.01), (0.9, True, 0.01), (0.85, True, 0.0)]:
    w = torch.nn.Parameter(torch.tensor([i * 0.25 - 1.0 for i in range(9)]))
    sgd = torch.optim.SGD([w], lr=0.1, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)
    steps = []
    for step in range(4):
        w.grad = torch.tensor([((i + 3 * step) % 5) * 0.5 - 1.0 for i in range(9)])
        sgd.step()
        steps.append(w.tolist())
    cases.append(dict(momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, lr=0.1, weights=steps))
out = pathlib.Path(__file__).with_suffix(".json")
out.write_text(json.dumps(dict(torch=torch.__version__.split("+")[0], cases=cases)) + "\n")
