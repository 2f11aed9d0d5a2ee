"""Train the cumbersome net, or a small one: `python train.py [--model small]`.

The training loop of this project is `train`; the scripts that distil call it too.
"""

import argparse
import copy
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, nullcontext
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from dataset import Digits, Loader, Mnist, get_dataloader, hold_out, load_mnist, pixels
from layers import (
    CumbersomeNet,
    Lock,
    RectifierNet,
    ResumePoint,
    SmallNet,
    check_regular,
    check_same,
    init_weights,
    load_checkpoint,
    replace_file,
    save_model,
    scale_weights,
)
from reporting import (
    RESULT_COLUMNS,
    Progress,
    announce,
    columns_of,
    command_line,
    event_writer,
    history_lines,
    report,
    versions,
)
from sweep import Job, make_folder, sweep
from training_params import (
    Parser,
    TrainingFailed,
    UserError,
    add_flags,
    chosen_params,
    common_flags,
    run_script,
)

Loss = Callable[[Tensor, Digits], Tensor]  # of float32 logits and their minibatch


EXAMPLES = """\
python train.py --model small --hidden-units 300
python train.py --precision bf16 --output runs/my_teacher.pt
python train.py --precision bf16 --output runs/my_teacher.pt --resume  # after Ctrl-C
python train.py --epochs 10  # the schedules are compressed
"""


def hard_loss(logits: Tensor, batch: Digits) -> Tensor:
    """Cross entropy with the correct labels, averaged over the cases of the minibatch."""
    return F.cross_entropy(logits, batch.labels)


def schedule(params: Any, step: int, steps: int) -> tuple[float, float]:
    """Learning rate and momentum at update `step` of `steps` ([DO] app. A).

    Both are told in `schedule_epochs`; a training of another length passes through all of them.
    """
    epoch = step * params.schedule_epochs // steps
    if params.rate_schedule == "exponential":
        rate = params.learning_rate * params.rate_decay**epoch
    elif params.rate_schedule == "linear":
        rate = params.learning_rate * (1 - step / steps)
    else:
        raise UserError(f"there is no rate_schedule {params.rate_schedule!r}")
    rise = min(1, epoch / params.momentum_epochs)
    return rate, params.momentum_start + (params.momentum_end - params.momentum_start) * rise


def make_optimizer(model: nn.Module, params: Any) -> torch.optim.Optimizer:
    """Fused, so that each update passes over the weights once."""
    if params.optimizer == "adam":
        rate, betas = params.learning_rate, (0.9, params.adam_beta2)
        return torch.optim.Adam(model.parameters(), lr=rate, betas=betas, fused=True)
    if params.optimizer != "sgd":
        raise UserError(f"there is no optimizer {params.optimizer!r}: adam or sgd")
    # With rate 1 and the loss multiplied by (1 - momentum) * rate, SGD does just what [DO] says:
    # dw(t) = p(t) dw(t-1) - (1 - p(t)) e(t) gradient. Its own rate would rescale dw(t-1) too.
    return torch.optim.SGD(model.parameters(), lr=1.0, momentum=params.momentum_start, fused=True)


def set_schedule(optimizer: torch.optim.Optimizer, rate: float, momentum: float) -> float:
    """Set rate and momentum of the next update; returns the factor of the loss."""
    group = optimizer.param_groups[0]
    if isinstance(optimizer, torch.optim.Adam):
        group["lr"] = rate
        return 1.0
    group["momentum"] = momentum
    return (1 - momentum) * rate


def train_epoch(
    model: nn.Module,
    loader: Loader,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    params: Any,
    epoch: int,
    precision: str = "fp32",
    after_batch: Callable[[], None] = lambda: None,
) -> Tensor:
    """One pass over the training set; the loss averaged over its cases, () or one per student."""
    model.train()
    total, step = 0.0, epoch * len(loader)
    device = next(model.parameters()).device.type
    for batch in loader:
        factor = set_schedule(optimizer, *schedule(params, step, params.epochs * len(loader)))
        with autocast(device, precision):
            logits = model(batch.images)
        losses = loss(logits.float(), batch)
        (losses.sum() * factor).backward()
        optimizer.step()
        optimizer.zero_grad()
        if params.max_squared_length:
            model.constrain(params.max_squared_length)
        total += losses.detach() * batch.labels.shape[-1]  # on the device: read once an epoch
        step += 1
        after_batch()
    return total / len(loader.digits)


def autocast(device: str, precision: str) -> Any:
    """Matrix products in bfloat16 if `precision` is "bf16"; weights and updates stay float32."""
    if precision not in ("fp32", "bf16"):
        raise UserError(f"there is no precision {precision!r}: fp32 or bf16")
    return torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext()


def train(
    model: nn.Module,
    training_set: Digits,
    params: Any,
    *,
    loss: Loss = hard_loss,
    test_set: Digits | None = None,
    seed: int | Sequence[int] = 0,
    precision: str = "fp32",
    resume_point: ResumePoint | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Train `model` in place, from its present weights; returns the history, a dict an epoch.

    `params` has the fields of a class in training_params.py (or is one); the model's device is
    used. `seed` gives the order of the data, jitter and dropout: the same seed, machine and number
    of threads give bit-identical weights, also after resuming from `resume_point`. Errors on
    `test_set` are counted up to 50 times, for the eye only: they decide nothing.
    Raises TrainingFailed after an epoch that leaves the loss or a weight not finite.
    """
    torch.set_flush_denormal(True)  # denormal numbers make element-wise steps 10-50 times slower
    torch.manual_seed(seed if isinstance(seed, int) else 0)  # for dropout, which stacks have not
    loader = get_dataloader(training_set, params.batch_size, seed, params.jitter)
    optimizer = make_optimizer(model, params)
    state = (model, optimizer, loader.generators)
    history = _epochs_done(resume_point, state, params.epochs)
    with closing(progress or Progress(quiet=True)) as progress:
        progress.start(params.epochs, len(loader), len(history))
        for epoch in range(len(history), params.epochs):
            mean_loss = train_epoch(
                model, loader, optimizer, loss, params, epoch, precision, progress.after_batch
            )
            rate, _ = schedule(params, epoch, params.epochs)
            entry = {"epoch": epoch + 1, "loss": mean_loss.tolist(), "rate": rate}
            _check_finite(entry, (mean_loss, *model.parameters()))
            if test_set is not None and _is_measured(epoch + 1, params.epochs):
                entry["errors"] = count_errors(model, test_set).tolist()
            history.append(entry)
            if resume_point:
                resume_point.save(*state, history)
            progress.after_epoch(entry)
    return history


def _epochs_done(
    resume_point: ResumePoint | None, state: tuple[Any, ...], epochs: int
) -> list[dict[str, Any]]:
    """The history so far; puts `state` back to where it was then."""
    if resume_point is None:
        return []
    history = resume_point.restore(*state)
    if len(history) > epochs:
        raise UserError(f"{resume_point.path} is damaged: delete it and start anew")
    if not history:  # a full disk or a folder that is read-only shows at once
        resume_point.save(*state, history)
    return history


def _check_finite(entry: dict[str, Any], tensors: Iterable[Tensor]) -> None:
    if not all(torch.isfinite(values).all() for values in tensors):
        raise TrainingFailed(
            f"loss or weights are not finite in epoch {entry['epoch']} "
            f"(learning rate {entry['rate']:g}): try a lower --learning-rate"
        )


def _is_measured(epoch: int, epochs: int) -> bool:
    """Evaluation costs a tenth of an epoch: each epoch of short runs, 25 to 50 of long ones."""
    return epoch == epochs or epoch % -(-epochs // 50) == 0


@torch.no_grad()
def logits_of(model: nn.Module, images: Tensor, chunk: int = 2000) -> Tensor:
    """float32 logits (N, 10) in eval mode for uint8 images (N, 28, 28); no random number is drawn.

    Those of a stack are (S, N, 10). In chunks, for memory.
    """
    model.eval()
    return torch.cat([model(pixels(part)).float() for part in images.split(chunk)], dim=-2)


def count_errors(model: nn.Module, digits: Digits) -> Tensor:
    """The number of `digits` that are not classified correctly: int64 (), of a stack (S,)."""
    return (logits_of(model, digits.images).argmax(-1) != digits.labels).sum(-1)


def measure(model: nn.Module, digits: Digits) -> dict[str, Any]:
    """Errors of one net as checkpoints record them: integers, in total and for each digit."""
    wrong = digits.labels[logits_of(model, digits.images).argmax(-1) != digits.labels]
    return {
        "errors": len(wrong),
        "cases": len(digits),
        "errors_per_digit": wrong.bincount(minlength=10).tolist(),
        "cases_per_digit": digits.labels.bincount(minlength=10).tolist(),
    }


def describe_data(mnist: Mnist, training_set: Digits) -> dict[str, Any]:
    return {
        "name": mnist.name,
        "training_cases": len(training_set),
        "digits": training_set.labels.unique().tolist(),
        "test_cases": len(mnist.test),
    }


def prepare(args: argparse.Namespace) -> tuple[Mnist, torch.device]:
    """Set device and threads, load the data; `--validation` holds part of the training set out."""
    torch.set_flush_denormal(True)  # threads take it over from the one that starts them
    if args.threads:
        torch.set_num_threads(args.threads)
    mnist, device = load_mnist(args.data_dir, args.data), choose_device(args.device)
    if mnist.name == "sample":
        print("The data: the bundled sample of MNIST, 4,000 cases to train on and 1,000 to test.")
        print("Its errors do not compare with those of the paper, which are on all of MNIST.")
    if args.validation:
        mnist = hold_out(mnist)
    return mnist._replace(training=mnist.training.to(device), test=mnist.test.to(device)), device


def choose_device(name: str) -> torch.device:
    """`auto` takes cuda, then mps, then the processor. Raises UserError for what is not there."""
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, available in there.items() if available)
    if not there[name]:
        raise UserError(f"--device {name}: this machine has none; try --device auto")
    if name == "cuda":  # one for each process that torchrun started
        return torch.device(name, int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    return torch.device(name)


def run(
    args: argparse.Namespace,
    model: RectifierNet,
    params: Any,
    mnist: Mnist,
    training_set: Digits,
    fit: Callable[..., list[dict[str, Any]]],
    teacher: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """All that surrounds a training: lock, first weights, resume point, checkpoint, last lines.

    `fit` trains `model` on `training_set`, given the keyword arguments of `train`; `teacher` says
    which net the soft targets came from. Returns the checkpoint.
    """
    settings = settings_of(args, model, params, describe_data(mnist, training_set), teacher)
    output = Path(args.output)
    check_output(output)
    make_folder(output)
    with Lock(output):
        resume_point = ResumePoint(output, settings)
        if args.resume and output.exists() and not resume_point.path.exists():
            return finished(output, settings)
        if resume_point.path.exists() and not args.resume:
            raise UserError(
                f"{resume_point.path} is of a run that was stopped: add --resume, or delete it"
            )
        init_weights(model, params.init_std, args.seed)
        done = resume_point.load() if args.resume else 0
        events = event_writer(args.log, output, done) if args.log is not None else None
        if not args.quiet:
            epoch = seconds_per_epoch(model, training_set, params, args.precision)
            announce(model, params, settings, done, epoch * (params.epochs - done))
        errors = "held-out errors" if args.validation else "test errors"
        progress = Progress(args.quiet, errors, events)
        fit_and_save(fit, model, mnist, settings, progress, resume_point, output)
    checkpoint = load_checkpoint(output)
    report(checkpoint, output)
    return checkpoint


def check_output(output: Path) -> None:
    """Raise UserError for what could not be written at the end, or would be lost then."""
    if os.path.isdir(output):
        raise UserError(f"--output {output} is a folder: name a file")
    history = Path(f"{output}.csv")
    for path in (output, history):
        check_regular(path)
    if history.exists() and not history.read_bytes().startswith(history_lines([])):
        raise UserError(f"--output {output} would replace {history}, which is no history of a run")


def settings_of(
    args: argparse.Namespace,
    model: RectifierNet,
    params: Any,
    data_set: dict[str, Any],
    teacher: dict[str, Any] | None,
) -> dict[str, Any]:
    """What a run was started with: the only settings with which it may be resumed."""
    return {
        "architecture": type(model).__name__,
        "parameters": dict(vars(params)),
        "seed": args.seed,
        "precision": args.precision,
        "data_set": data_set,
        "teacher": teacher,
    }


def fit_and_save(
    fit: Callable[..., list[dict[str, Any]]],
    model: RectifierNet,
    mnist: Mnist,
    settings: dict[str, Any],
    progress: Progress,
    resume_point: ResumePoint,
    output: Path,
) -> None:
    """The training, and its checkpoint and history."""
    options = {name: settings[name] for name in ("seed", "precision")}
    try:
        history = fit(test_set=mnist.test, progress=progress, resume_point=resume_point, **options)
        record = settings | origin_of(model, mnist, history)
        put_aside(output, settings)
        replace_file(f"{output}.csv", history_lines(history))
        save_model(output, model, **record)
        resume_point.remove()
    except TrainingFailed:
        resume_point.remove()  # going on would come to the same
        raise


def finished(output: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint of a run that is resumed after its end, if it has the same settings."""
    checkpoint = of_same_run(output, settings)
    tqdm.write(f"{output} is finished already: nothing was changed.")
    return checkpoint


def of_same_run(output: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint in `output`. Raises UserError if it has other settings, or is none."""
    checkpoint = load_checkpoint(output)
    check_same(settings, {name: checkpoint.get(name) for name in settings}, output)
    return checkpoint


def put_aside(output: Path, settings: dict[str, Any]) -> None:
    """Rename NAME.pt, and its history, to NAME.1.pt if it is of a run with other settings.

    Or to the first number that is free: hours of training are not lost for a name.
    """
    if not output.exists():
        return
    try:
        of_same_run(output, settings)
    except UserError:
        names = (output.with_name(f"{output.stem}.{n}{output.suffix}") for n in count(1))
        free = next(name for name in names if not os.path.lexists(name))
        for suffix in ("", ".csv"):
            if os.path.lexists(f"{output}{suffix}"):
                os.rename(f"{output}{suffix}", f"{free}{suffix}")
        tqdm.write(f"{output} was of another run: it is {free} now.")


def origin_of(model: RectifierNet, mnist: Mnist, history: list[dict[str, Any]]) -> dict[str, Any]:
    """What a checkpoint records beside its settings: how it came about, and its errors."""
    return {
        "hidden_units": model.hidden_units,
        "command": command_line(Path(sys.argv[0]).name),
        "versions": versions(),
        "result": measure(scale_weights(model), mnist.test.to("cpu")),
        "history": history,
    }


def seconds_per_epoch(model: RectifierNet, digits: Digits, params: Any, precision: str) -> float:
    """How long an epoch will take, from some minibatches with a copy of `model`."""
    trial = copy.deepcopy(model)
    some = digits[: min(len(digits), 20 * params.batch_size)]
    loader, optimizer = get_dataloader(some, params.batch_size), make_optimizer(trial, params)
    for _ in range(2):  # the first pass has much to set up
        started = time.perf_counter()
        train_epoch(trial, loader, optimizer, hard_loss, params, epoch=0, precision=precision)
    return (time.perf_counter() - started) * len(digits) / len(some)


def main() -> None:
    parser = Parser(EXAMPLES, description=__doc__)
    parser.add_argument(
        "--model",
        choices=("cumbersome", "small"),
        default="cumbersome",
        help="which net to train [cumbersome]",
    )
    common_flags(parser)
    add_flags(
        parser, "Cumbersome", "with --model small those of LocalParams.Small are the defaults"
    )
    args = parser.parse_args()
    choices = chosen_params(args, args.model.capitalize())
    mnist, device = prepare(args)
    cls = CumbersomeNet if args.model == "cumbersome" else SmallNet

    def work(args: Any, job: Job) -> list[dict[str, Any]]:
        params = job[0].params
        model = cls(params.hidden_units, params.dropout_visible, params.dropout_hidden).to(device)
        fit = partial(train, model, mnist.training, params)
        return [columns_of(run(args, model, params, mnist, mnist.training, fit))]

    def name(params: Any) -> str:
        return f"{args.model}_model_{params.hidden_units}.pt"

    setting = {"data": mnist.name, "precision": args.precision, "model": args.model}
    sweep(args, choices, setting, name, RESULT_COLUMNS, work)


if __name__ == "__main__":
    run_script(main)
