"""The settings and the plan of a small training run."""

from attncli.config import TrainConfig
from attncli.model.count import PRESETS
from attncli.training.reports import Plan
from attncli.training.schedule import Schedule

SMALL = TrainConfig(steps=40, size="1x32", context=16, batch_size=4, dropout=0.1, lr=0.01, dtype="float32")
FACTS = {"created": "", "versions": {}, "corpus": {}, "request": {}}

PLAN = Plan(
    model=PRESETS["gpt2"][1], parameters=124_439_808, context=1024, batch_size=8, grad_accum=2,
    checkpoint_activations=False, optimizer="muon", adam_lr=3e-3, compiled=False, dropout=0.1, weight_decay=0.1,
    schedule=Schedule(0.03, 90, ((0, 1830),)), eval_every=10, report_every=5, seed=1, device="cpu", dtype="float32",
    threads=2, seconds=300.0, most_steps=None, step_seconds=0.12, closing_windows=None, closing_seconds=2.0,
    memory_bytes=123_456_789,
    train_tokens=500_000,
    train_bytes=1_000_000, reasons={"size": "for 5 minutes on this machine", "dropout": "the text is seen 30.0 times"},
)  # fmt: skip
