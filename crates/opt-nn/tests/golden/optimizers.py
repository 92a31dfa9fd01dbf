"""Writes optimizers.json: steps of torch.optim that opt-nn's Optimizer must repeat. Run with PyTorch 2.13: python optimizers.py"""

import json
import pathlib

import torch


def steps(make):
    w = torch.nn.Parameter(torch.tensor([i * 0.25 - 1.0 for i in range(9)]))
    optimizer = make([w])
    weights = []
    for step in range(4):
        w.grad = torch.tensor([((i + 3 * step) % 5) * 0.5 - 1.0 for i in range(9)])
        optimizer.step()
        weights.append(w.tolist())
    return weights


cases = []
for momentum, nesterov, weight_decay in [(0.0, False, 0.0), (0.9, False, 0.01), (0.9, True, 0.01), (0.85, True, 0.0)]:
    knobs = dict(momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, lr=0.1)
    cases.append(dict(**knobs, weights=steps(lambda p: torch.optim.SGD(p, **knobs))))
for beta1, beta2, epsilon, weight_decay in [(0.9, 0.999, 1e-8, 0.0), (0.9, 0.999, 1e-8, 0.05), (0.8, 0.95, 1e-3, 0.1)]:
    knobs = dict(lr=0.1, betas=(beta1, beta2), eps=epsilon, weight_decay=weight_decay)
    weights = steps(lambda p: torch.optim.AdamW(p, **knobs))
    cases.append(dict(beta1=beta1, beta2=beta2, epsilon=epsilon, weight_decay=weight_decay, lr=0.1, weights=weights))
out = pathlib.Path(__file__).with_suffix(".json")
out.write_text(json.dumps(dict(torch=torch.__version__.split("+")[0], cases=cases)) + "\n")
