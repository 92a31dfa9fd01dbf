"""Writes kd.json: distillation losses and gradients as PyTorch computes them, in double precision.

Usage: python kd.py   (made with torch 2.13)
"""

import json
import pathlib

import torch
import torch.nn.functional as F

CASES = [
    # name, batch, classes, scale of the logits, temperature, w_kd, w_ce, label smoothing
    ("usual", 8, 10, 2.0, 4.0, 0.9, 0.1, 0.0),
    ("temperature one", 4, 3, 2.0, 1.0, 0.5, 0.5, 0.0),
    ("smoothed labels", 5, 10, 3.0, 5.0, 0.7, 0.3, 0.1),
    ("one image", 1, 2, 1.0, 2.0, 1.0, 1.0, 0.0),
    ("sharp", 6, 7, 60.0, 1.5, 0.25, 2.0, 0.05),
]


def main() -> None:
    generator = torch.Generator().manual_seed(20150309)
    cases = []
    for name, batch, classes, scale, temperature, w_kd, w_ce, smoothing in CASES:
        shape = (batch, classes)
        # Rounded, so that the file holds the very numbers that were used.
        draw = lambda: (scale * torch.randn(shape, generator=generator, dtype=torch.float64) * 1000).round() / 1000
        student, teacher = draw().requires_grad_(), draw()
        labels = torch.randint(classes, (batch,), generator=generator)
        log_p_student = F.log_softmax(student / temperature, dim=1)
        p_teacher = F.softmax(teacher / temperature, dim=1)
        kd = temperature**2 * F.kl_div(log_p_student, p_teacher, reduction="batchmean")
        ce = F.cross_entropy(student, labels, label_smoothing=smoothing)
        total = w_kd * kd + w_ce * ce
        total.backward()
        # With probabilities as targets, cross_entropy is the mean over the batch of -sum y log softmax(f).
        textbook = F.cross_entropy(student / temperature, p_teacher)
        cases.append({
            "name": name, "temperature": temperature, "w_kd": w_kd, "w_ce": w_ce, "label_smoothing": smoothing,
            "student": student.tolist(), "teacher": teacher.tolist(), "labels": labels.tolist(),
            "kd": kd.item(), "ce": ce.item(), "total": total.item(), "teacher_cross_entropy": textbook.item(),
            "gradient": student.grad.tolist(),
        })
    path = pathlib.Path(__file__).with_suffix(".json")
    lines = ",\n".join(json.dumps(case) for case in cases)
    path.write_text(f"[\n{lines}\n]\n")


main()
