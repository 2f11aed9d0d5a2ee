"""Train the cumbersome net, or a small one: `python train.py [--model small]`.

The last line with --precision bf16, after 40 minutes on two processor cores (in fp32 55):

    68 errors on 10,000 images of MNIST (the paper: 67) after epoch 400. Saved in runs/...

The cumbersome net is that of [KD] s.3, trained with dropout, weight constraint, momentum and
minibatches of [DO] app. A on images jittered by up to two pixels. `--model small` takes 2 minutes.
The function `train` is the one training loop of this project: distillation is another loss.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from dataset import Digits, Loader, Mnist, get_dataloader, labels_of
from evaluate import count_errors, logits_of, measure
from layers import CumbersomeNet, RectifierNet, SmallNet, init_weights, scale_weights
from support.checkpoints import unwrapped
from support.command_line import Parser, hyperparameter_flags, training_flags
from support.errors import TrainingFailed, UserError
from support.hyperparameters import checked_params
from support.machine import autocast, set_up
from support.records import columns_of, identity, provenance, setting
from support.reporting import Progress, announce, report
from support.resume import ResumePoint
from support.runs import Run, RunFiles, plan
from support.script import run_script
from support.seeds import seeded, seeds_of
from support.sweep import Results
from support.teacher import check_outputs, checked_device

Loss = Callable[[Tensor, Digits], Tensor]  # of float32 logits and their minibatch


EXAMPLES = """\
python train.py --model small --hidden-units 300
python train.py --precision bf16 --output runs/my_teacher.pt
python train.py --precision bf16 --output runs/my_teacher.pt --resume  # after Ctrl-C
python train.py --epochs 10  # the schedules are compressed
"""


def hard_loss(logits: Tensor, batch: Digits) -> Tensor:
    """Cross entropy with the correct labels, averaged over the images of the minibatch."""
    return F.cross_entropy(logits, labels_of(batch))


def schedule(params: Any, step: int, steps: int) -> tuple[float, float]:
    """Learning rate and momentum at update `step` of `steps` ([DO] app. A).

    They span `schedule_epochs`; a run of another length compresses or stretches them.
    """
    epoch = step * params.schedule_epochs // steps
    if params.rate_schedule == "exponential":
        rate = params.learning_rate * params.rate_decay**epoch
    else:
        rate = params.learning_rate * (1 - step / steps)
    rise = min(1, epoch / params.momentum_epochs)
    return rate, params.momentum_start + (params.momentum_end - params.momentum_start) * rise


def make_optimizer(model: nn.Module, params: Any) -> torch.optim.Optimizer:
    """Fused, so that each update passes over the weights once."""
    if params.optimizer == "adam":
        rate, betas = params.learning_rate, (0.9, params.adam_beta2)
        return torch.optim.Adam(model.parameters(), lr=rate, betas=betas, fused=True)
    # With rate 1 and the loss multiplied by (1 - momentum) * rate, SGD does just what [DO] says:
    # dw(t) = p(t) dw(t-1) - (1 - p(t)) e(t) gradient. Its own rate would rescale dw(t-1) too.
    return torch.optim.SGD(model.parameters(), lr=1.0, momentum=params.momentum_start, fused=True)


def set_schedule(optimizer: torch.optim.Optimizer, rate: float, momentum: float) -> float:
    """Set rate and momentum of the next update; returns the factor of the loss."""
    group = optimizer.param_groups[0]
    if isinstance(optimizer, torch.optim.Adam):
        group["lr"] = rate
        return 1.0
    group["momentum"] = momentum or 1e-30  # at 0 PyTorch would not keep dw(t-1) for the next
    return (1 - momentum) * rate


def train_one_epoch(
    model: nn.Module,
    loader: Loader,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    params: Any,
    epoch: int,
    precision: str = "fp32",
    after_batch: Callable[[], None] = lambda: None,
) -> Tensor:
    """One pass over the training set; the loss averaged over its images, () or one per student."""
    model.train()
    optimizer.zero_grad()  # of gradients that the caller left
    total, step = 0.0, epoch * len(loader)
    device = next(model.parameters()).device.type
    for batch in loader:
        factor = set_schedule(optimizer, *schedule(params, step, params.epochs * len(loader)))
        with autocast(device, precision):
            logits = model(batch.images)
        losses = loss(logits.float(), batch)
        _check_loss(losses, logits.shape[:-2])
        (losses.sum() * factor).backward()
        optimizer.step()
        optimizer.zero_grad()
        if params.max_squared_length:
            constrain(model, params.max_squared_length)
        total += losses.detach() * batch.indices.shape[-1]  # on the device: read once an epoch
        step += 1
        after_batch()
    return total / len(loader.digits)


def _check_loss(losses: Any, shape: torch.Size) -> None:
    """Raise UserError for what is not a loss of the net, averaged over the minibatch."""
    if not isinstance(losses, Tensor) or not losses.requires_grad:
        raise UserError(
            "the loss must return a tensor that depends on the logits, "
            f"not a {type(losses).__name__} without a gradient"
        )
    if losses.shape != shape:
        shapes = f"{tuple(shape)}, not {tuple(losses.shape)}"
        raise UserError(f"the loss must be averaged over the minibatch: of shape {shapes}")


def constrain(model: nn.Module, max_squared_length: float) -> None:
    """The weight constraint of the net, also inside a wrapper. Raises UserError if it has none."""
    net = unwrapped(model)
    if not hasattr(net, "constrain"):
        raise UserError("max_squared_length is for nets with a method `constrain`: set it to 0")
    net.constrain(max_squared_length)


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
    """Train `model` in place from its present weights; the history: epoch, loss, rate, errors.

    `params` is a class of training_params.py or has its fields. `seed` gives the order of images,
    jitter and dropout: weights are bit-identical on the same machine, with as many threads, and
    after resuming. Raises UserError for wrong arguments, TrainingFailed if a weight is not finite.
    """
    params = checked_params(params)
    device = checked_device(model, training_set, test_set, seed, params)
    seed = seeds_of(model, seed)
    loader = get_dataloader(training_set.to(device), params.batch_size, seed, params.jitter)
    check_outputs(model, logits_of(model, training_set.images[:100]))
    optimizer = make_optimizer(model, params)
    with seeded(model, device, seed) as dropout, closing(progress or Progress(True)) as progress:
        state = (model, optimizer, loader.generators, dropout)
        history = resume_point.begin(*state, params.epochs) if resume_point else []
        progress.start(params.epochs, len(loader), len(history))
        for epoch in range(len(history), params.epochs):
            options = (params, epoch, precision, progress.after_batch)
            mean_loss = train_one_epoch(model, loader, optimizer, loss, *options)
            rate = schedule(params, epoch, params.epochs)[0]
            history.append({"epoch": epoch + 1, "loss": mean_loss.tolist(), "rate": rate})
            _check_finite(history[-1], (mean_loss, *model.parameters()))
            if test_set is not None and _is_measured(epoch + 1, params.epochs):
                history[-1]["errors"] = count_errors(model, test_set).tolist()
            if resume_point:
                resume_point.save(*state, history)
            progress.after_epoch(history[-1])
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


def run(planned: Run, model: RectifierNet, mnist: Mnist) -> dict[str, Any]:
    """Train `model`, unless that is done already, and save it; returns the checkpoint."""
    record, files = planned.record, RunFiles(planned.output)
    with files.locked():
        if files.are_finished(planned):
            tqdm.write(f"{planned.output} is finished already: nothing was changed.")
        else:
            resume_point = ResumePoint(files.resume_point, identity(record))
            done = resume_point.continue_or_start(planned.existing)
            init_weights(model, planned.params.init_std, planned.seed)
            options = {
                "loss": planned.loss,
                "test_set": mnist.test,
                "seed": planned.seed,
                "precision": record["precision"],
                "resume_point": resume_point,
                "progress": Progress.of_run(planned, mnist.held_out, done),
            }
            if not (planned.quiet or planned.several):
                announce(model, record, done)
            try:
                history = train(model, mnist.training, planned.params, **options)
                save_trained(planned, model, history, mnist)
            except TrainingFailed:
                resume_point.remove()  # resuming would come to the same
                raise
            resume_point.remove()
    return report(planned.output)


def save_trained(
    planned: Run, model: RectifierNet, history: list[dict[str, Any]], mnist: Mnist
) -> None:
    """Count the errors of a net after its last epoch, and write its checkpoint and history."""
    result = measure(scale_weights(model), mnist.test.to("cpu"))
    made = provenance(mnist.test.device) | {"result": result, "history": history}
    RunFiles(planned.output).save(model, planned.record | made)


def parse_arguments() -> argparse.Namespace:
    parser = Parser(EXAMPLES, description=__doc__)
    nets = ("cumbersome", "small")
    parser.add_argument(
        "--model", choices=nets, default="cumbersome", help="which net to train [cumbersome]"
    )
    training_flags(parser)
    note = "with --model small those of LocalParams.Small are the defaults"
    hyperparameter_flags(parser, "Cumbersome", note)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    name = args.model + "_model_{hidden_units}"
    runs = plan(args, args.model.capitalize(), name, lambda params: hard_loss)
    mnist, device = set_up(args)
    net = CumbersomeNet if args.model == "cumbersome" else SmallNet
    shared = ["data", "precision", "model"]
    with Results(args, runs, setting(args, net, mnist), shared) as results:
        for planned in results.todo():
            with results.row(planned) as row:
                params = planned.params
                model = net(params.hidden_units, params.dropout_visible, params.dropout_hidden)
                row |= columns_of(run(planned, model.to(device), mnist))


if __name__ == "__main__":
    run_script(main)
