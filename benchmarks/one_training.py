"""One epoch of training in this process, by Temper's `fit`, the Hugging Face Trainer or Lightning.

`python benchmarks/one_training.py JOB.json`: says that it is ready, waits for a line of input, prints one of JSON. The
clocks are the same for all: the hook that torch calls after each step of the optimizer. Start-up and the first steps
are told apart. The model, its start, the rows, the optimizer, its schedule and the loss are those of the job; only who
calls them, and in what batches, differs. With one thread samples per second of processor time, which a busy machine
hardly changes, tell what the work costs.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from components import assemble, groups
from components.data import Rows, Spec, read_rows, trimmed
from components.fit import fit, measure, supervised
from components.model import Context, Model
from components.optimizers import learning_rate
from components.params import CrossEntropy, Fit, Nag, Sgd

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

WARM = 5  # steps that do not count
JUDGED = 500  # validation rows


class Batched:
    """Rows as tensors: one by one, as a data set usually gives them, or a batch at once, which costs least."""

    def __init__(self, rows: Rows, prepare: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None) -> None:
        import torch

        self.inputs = {name: torch.from_numpy(x) for name, x in rows.inputs.items()}
        self.labels = torch.from_numpy(rows.labels)
        if prepare:  # what would be done to every batch, done once
            self.inputs = dict(prepare(self.inputs))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        label = self.labels[row]  # or IndexError, which ends a loop over all
        one = trimmed({name: x[row].unsqueeze(0) for name, x in self.inputs.items()})
        return {**{name: x[0] for name, x in one.items()}, "labels": label}

    def __getitems__(self, chosen: list[int]) -> dict[str, Tensor]:
        import torch

        index = torch.tensor(chosen)
        return {**trimmed({name: x[index] for name, x in self.inputs.items()}), "labels": self.labels[index]}


def whole(batch: Any) -> Any:
    """Collates what is a batch already."""
    return batch


def wrapped(model: Model, prepared: bool) -> nn.Module:
    """The model as the Trainer wants one: keyword arguments in, logits out."""
    from torch import nn

    if "attention_mask" in model.spec.inputs:
        return model.module  # of transformers

    class Images(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model.module

        def forward(self, labels: Tensor | None = None, **inputs: Tensor) -> dict[str, Tensor]:
            taken = inputs if prepared else model.task.preprocess(inputs, model.spec)
            return {"logits": model.family.logits(self.inner, taken)}

    return Images()


def temper(model: Model, train: Rows, job: Mapping[str, Any]) -> None:
    params = Fit.model_validate(job["fit"])
    context = Context(
        rows=lambda split: train, create=lambda _: model, seed=job["seed"], out=Path(job["out"]), parent_sha256="",
        log=lambda metrics, step: None,
    )  # fmt: skip
    fit(model, params, context, supervised(model, params), validate=lambda: {"loss": 0.0})


def _optimizer(model: Model, params: Fit, **more: Any) -> torch.optim.Optimizer:
    """The one of the job, which leaves biases and normalisation without decay."""
    import torch

    trained = dict(model.module.named_parameters())
    parts = groups.for_optimizer(trained, {}, params.optimizer.weight_decay)
    if params.optimizer.kind == "adamw":
        return torch.optim.AdamW(parts, lr=params.optimizer.lr, **more)
    assert isinstance(params.optimizer, Sgd | Nag)
    momentum, nesterov = params.optimizer.momentum, params.optimizer.kind == "nag"
    return torch.optim.SGD(parts, lr=params.optimizer.lr, momentum=momentum, nesterov=nesterov, **more)


def _scheduler(optimizer: torch.optim.Optimizer, params: Fit, steps: int) -> Any:
    import torch

    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(params.schedule, step, steps))


def _smoothing(params: Fit) -> float:
    assert isinstance(params.loss, CrossEntropy)
    return params.loss.label_smoothing


def _smoothed(params: Fit) -> Callable[[Tensor, Tensor], Tensor]:
    from torch.nn import functional

    smoothing = _smoothing(params)
    return lambda logits, labels: functional.cross_entropy(logits, labels, label_smoothing=smoothing)


def _last(model: Model) -> None:
    """Channels last, for convolutions, as `fit` has it."""
    from components.layout import for_training

    model.module.to(memory_format=for_training(model.module))  # type: ignore[call-overload]


def trainer(model: Model, train: Rows, job: Mapping[str, Any]) -> None:
    """The Trainer, by its defaults but for evaluating, logging and saving; or `tuned`."""
    from transformers import DataCollatorWithPadding, PreTrainedTokenizerFast, Trainer, TrainingArguments

    params, tuned, text = Fit.model_validate(job["fit"]), job["tuned"], "attention_mask" in model.spec.inputs
    steps = params.epochs * -(-len(train) // params.batch_size)
    said: dict[str, Any] = {}
    if tuned:
        said = {"train_sampling_strategy": "group_by_length"} if text else {}
        said |= {"remove_unused_columns": False, "logging_nan_inf_filter": False, "dataloader_pin_memory": False}
        _last(model)
    arguments = TrainingArguments(
        output_dir=job["out"], use_cpu=True, seed=job["seed"], bf16=params.precision == "bf16",
        per_device_train_batch_size=params.batch_size, num_train_epochs=params.epochs,
        learning_rate=params.optimizer.lr, weight_decay=params.optimizer.weight_decay, max_grad_norm=params.clip_norm,
        lr_scheduler_type=params.schedule.kind, warmup_steps=int(params.schedule.warmup_share * steps),
        label_smoothing_factor=_smoothing(params) if text and not tuned else 0.0,
        dataloader_num_workers=job["workers"], dataloader_persistent_workers=job["workers"] > 0,
        save_strategy="no", logging_strategy="no", eval_strategy="no", report_to="none", disable_tqdm=True, **said,
    )  # fmt: skip
    # Its own AdamW (fused) for adamw; of SGD it has no Nesterov's.
    mine = None if params.optimizer.kind == "adamw" else _optimizer(model, params, **({"fused": True} if tuned else {}))
    given: dict[str, Any] = {}
    prepare = None
    if tuned or not text:  # its own smoothing is for models of transformers
        loss = _smoothed(params)
        given["compute_loss_func"] = lambda outputs, labels, **_: loss(outputs["logits"], labels)
    if tuned:
        given["data_collator"] = whole
        prepare = None if text else lambda inputs: model.task.preprocess(inputs, model.spec)
        rows: Any = Batched(train, prepare)
    elif text:
        import datasets

        special = {"pad_token": "[PAD]"}
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(Path(job["data"]) / "tokenizer.json"), **special)
        lengths = train.inputs["attention_mask"].sum(1)
        columns = {k: [list(map(int, r[:n])) for r, n in zip(x, lengths, strict=True)] for k, x in train.inputs.items()}
        rows = datasets.Dataset.from_dict({**columns, "labels": train.labels.tolist()})
        given["data_collator"] = DataCollatorWithPadding(tokenizer)
    else:
        rows = Batched(train, None)
        rows = [rows[i] for i in range(len(rows))]
        arguments.remove_unused_columns = False  # the model takes keyword arguments of any name
    optimizers = (mine, _scheduler(mine, params, steps) if mine else None)
    Trainer(wrapped(model, prepare is not None), arguments, train_dataset=rows, optimizers=optimizers,
            **given).train()  # fmt: skip


def lightning(model: Model, train: Rows, job: Mapping[str, Any]) -> None:
    """Lightning's Trainer, by its defaults but for what it shows and saves; or `tuned`."""
    import lightning as light
    import torch
    from torch.utils.data import DataLoader
    from transformers.trainer_pt_utils import LengthGroupedSampler

    params, tuned, text = Fit.model_validate(job["fit"]), job["tuned"], "attention_mask" in model.spec.inputs
    steps = params.epochs * -(-len(train) // params.batch_size)
    loss, prepare = _smoothed(params), None
    if tuned:
        _last(model)
        prepare = None if text else lambda inputs: model.task.preprocess(inputs, model.spec)

    class Module(light.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = wrapped(model, prepare is not None)

        def training_step(self, batch: dict[str, Tensor], number: int) -> Tensor:
            labels = batch.pop("labels")
            return loss(self.inner(**batch)["logits"], labels)

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            if tuned:  # Lightning refuses to clip for a fused optimizer under mixed precision
                torch.nn.utils.clip_grad_norm_(self.inner.parameters(), params.clip_norm)

        def configure_optimizers(self) -> Any:
            made = _optimizer(model, params, **({"fused": True} if tuned else {}))
            return [made], [{"scheduler": _scheduler(made, params, steps), "interval": "step"}]

    def padded(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        from torch.nn.utils.rnn import pad_sequence

        return {k: pad_sequence([x[k] for x in items], batch_first=True) if items[0][k].ndim == 1 and text
                else torch.stack([x[k] for x in items]) for k in items[0]}  # fmt: skip

    rows = Batched(train, prepare)
    some: dict[str, Any] = {"batch_size": params.batch_size, "num_workers": job["workers"]}
    some["persistent_workers"] = job["workers"] > 0
    if tuned and text:
        some["sampler"] = LengthGroupedSampler(
            params.batch_size, lengths=train.inputs["attention_mask"].sum(1).tolist()
        )
    else:
        some["shuffle"] = True
    loader: DataLoader[Any]
    if tuned:
        loader = DataLoader(rows, collate_fn=whole, **some)  # type: ignore[arg-type]
    else:
        loader = DataLoader([rows[i] for i in range(len(rows))], collate_fn=padded, **some)  # type: ignore[arg-type]
    light.seed_everything(job["seed"], verbose=False)
    light.Trainer(
        accelerator="cpu", devices=1, max_epochs=params.epochs, logger=False, enable_checkpointing=False,
        precision="bf16-mixed" if params.precision == "bf16" else "32-true", enable_progress_bar=False,
        enable_model_summary=False, gradient_clip_val=None if tuned else params.clip_norm,
        default_root_dir=job["out"],
    ).fit(Module(), loader)  # fmt: skip


WAYS = {"temper": temper, "trainer": trainer, "lightning": lightning}
LIBRARIES = {"temper": [], "trainer": ["transformers.trainer", "datasets"], "lightning": ["lightning"]}


def train(job: Mapping[str, Any], wait: Callable[[], object]) -> dict[str, Any]:
    """samples_per_s after the first steps; start_s up to their end; loss and accuracy on validation rows after all.

    `wait` is called when all is loaded.
    """
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    data, spec = Path(job["data"]), Spec.read(Path(job["data"]))
    model = assemble.load(Path(job["model"]))
    model.module.train()
    rows = read_rows(data, "train", spec).head(job["rows"])
    ends: list[float] = []
    worked: list[float] = []  # seconds of processor time

    def ended(*_: Any) -> None:
        ends.append(time.perf_counter())
        worked.append(time.process_time())

    handle = register_optimizer_step_post_hook(ended)
    for library in LIBRARIES[job["way"]]:
        importlib.import_module(library)
    wait()
    started = time.perf_counter()
    WAYS[job["way"]](model, rows, job)
    handle.remove()
    params = Fit.model_validate(job["fit"])
    counted = len(rows) * params.epochs - WARM * params.batch_size
    judged = measure(model, read_rows(data, "validation", spec).head(JUDGED), params.loss)
    return {
        "samples_per_s": counted / (ends[-1] - ends[WARM - 1]),
        "samples_per_cpu_s": counted / (worked[-1] - worked[WARM - 1]),
        "start_s": ends[WARM - 1] - started,
        "steps": len(ends),
        "validation_loss": judged["loss"],
        "validation_accuracy": judged["accuracy"],
    }


if __name__ == "__main__":

    def ready() -> None:
        print("ready", flush=True)
        sys.stdin.readline()

    print(json.dumps(train(json.loads(Path(sys.argv[1]).read_text("utf-8")), ready)))
