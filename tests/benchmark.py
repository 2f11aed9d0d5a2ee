"""How long an epoch takes, and in how much memory: `python tests/benchmark.py`.

Prints a table with, for three trainings and each precision, the seconds per epoch of
  conventional  the loop that public re-implementations use, always in fp32,
  project       the functions that the scripts of this project call,
  floor         only the matrix products that forward and backward cannot do without,
  update        only the optimizer, the weight constraint and, in bf16, the conversions of weights
                and gradients: what moves memory rather than computes,
their ratios and peak memories; then 50 students of 30 units, one by one against together.

All on the processor, with the threads PyTorch takes (OMP_NUM_THREADS sets them) and MNIST in
$MNIST_DIR or data/: some minutes on 2 cores, which should have nothing else to do. A quick look,
which measures nothing but that it runs: `python tests/benchmark.py --batches 3 --rounds 1`.
"""

import json
import multiprocessing
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import cycle, product
from multiprocessing.connection import Connection
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import mean, median
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import MNIST_ROOT

from dataset import get_dataloader, load_mnist
from distillation import distillation_loss, stacked_loss
from evaluate import logits_of
from layers import CumbersomeNet, SmallNet, StackedNet, init_weights
from support.command_line import Parser
from support.errors import UserError
from support.hyperparameters import Allowed, default_params
from support.script import run_script
from train import hard_loss, make_optimizer, train_one_epoch

EPOCH = 600  # minibatches of 100
SEEDS = list(range(10))  # of the students that are trained together
Run = Callable[[Callable[[], None]], Any]  # calls its argument after each minibatch
teacher_seconds: list[float] = []  # that its logits took, once, in this process


class Task(NamedTuple):
    measure: Callable[["Task"], Run]
    role: str  # of the net
    units: int
    temperatures: tuple[float, ...] = ()  # several: students of each, with every seed, together
    precision: str = "fp32"


def project(task: Task) -> Run:
    torch.set_flush_denormal(True)  # as `train` does
    params, digits = default_params("local", task.role), load_mnist(source="mnist").training
    net, loss, seed = CumbersomeNet, hard_loss, 0
    if task.temperatures:
        start = time.perf_counter()
        digits = replace(digits, teacher_logits=logits_of(CumbersomeNet(), digits.images))
        teacher_seconds.append(time.perf_counter() - start)
        net, loss = SmallNet, distillation_loss(task.temperatures[0], params.hard_weight)
    model = net(task.units, params.dropout_visible, params.dropout_hidden)
    init_weights(model, params.init_std)
    if len(task.temperatures) > 1:  # as `distill_together` does
        each, seed = torch.tensor(task.temperatures * len(SEEDS)), SEEDS
        model = StackedNet([model] * len(each), orders=len(SEEDS))
        loss = stacked_loss(each)
    loader = get_dataloader(digits, 100, seed, params.jitter)
    optimizer = make_optimizer(model, params)
    return partial(train_one_epoch, model, loader, optimizer, loss, params, 0, task.precision)


def conventional_net(units: int, visible: float, hidden: float) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs, share in ((784, units, visible), (units, units, hidden)):
        layers += [nn.Dropout(share), nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Dropout(hidden), nn.Linear(units, 10))


@torch.no_grad()
def conventional_constraint(model: nn.Sequential, max_squared_length: float) -> None:
    for layer in [module for module in model if isinstance(module, nn.Linear)][:-1]:
        for unit in range(layer.out_features):
            squared_length = layer.weight[unit].pow(2).sum()
            if squared_length > max_squared_length:
                layer.weight[unit] *= (max_squared_length / squared_length).sqrt()


def conventional(task: Task) -> Run:
    from torchvision.datasets import MNIST  # here: its memory counts, as it does in `project`
    from torchvision.transforms import Compose, RandomCrop, ToTensor

    params = default_params("local", task.role)
    crop = [RandomCrop(28, padding=params.jitter)] if params.jitter else []
    data = MNIST(str(MNIST_ROOT), download=True, transform=Compose([*crop, ToTensor()]))
    loader = torch.utils.data.DataLoader(data, 100, shuffle=True)
    model = conventional_net(task.units, params.dropout_visible, params.dropout_hidden)
    teacher = conventional_net(1200, 0.2, 0.5).eval() if task.temperatures else None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def run(after_batch: Callable[[], None]) -> None:
        for images, labels in loader:
            optimizer.zero_grad()
            logits = model(images)
            if teacher:
                t = task.temperatures[0]
                with torch.no_grad():
                    targets = F.softmax(teacher(images) / t, dim=1)
                outputs = F.log_softmax(logits / t, dim=1)
                loss = F.kl_div(outputs, targets, reduction="batchmean") * t**2
            else:
                loss = F.cross_entropy(logits, labels)
            loss.backward()
            optimizer.step()
            if params.max_squared_length:
                conventional_constraint(model, params.max_squared_length)
            loss.item()  # which they print or add up
            after_batch()

    return run


def floor(task: Task) -> Run:
    kind = torch.bfloat16 if task.precision == "bf16" else torch.float32
    products: list[Callable[[], Any]] = []
    for i, o in ((784, task.units), (task.units, task.units), (task.units, 10)):
        x, weight, gradient = (torch.randn(s).to(kind) for s in ((100, i), (o, i), (100, o)))
        products += [partial(F.linear, x, weight), partial(torch.mm, gradient.t(), x)]
        products += [partial(torch.mm, gradient, weight)] if i != 784 else []  # not of the pixels

    def run(after_batch: Callable[[], None]) -> None:
        for step in cycle((*products, after_batch)):
            step()

    return run


def update(task: Task) -> Run:
    params = default_params("local", task.role)
    model = (SmallNet if task.temperatures else CumbersomeNet)(task.units)
    optimizer = make_optimizer(model, params)
    gradients = [torch.randn_like(p) * 1e-3 for p in model.parameters()]
    converted = [g.bfloat16() for g in gradients]

    def run(after_batch: Callable[[], None]) -> None:
        while True:
            if task.precision == "bf16":
                [p.detach().bfloat16() for p in model.parameters()]
                gradients[:] = [g.float() for g in converted]
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
            if params.max_squared_length:
                model.constrain(params.max_squared_length)
            after_batch()

    return run


def seconds_per_epoch(run: Run, warm_up: int, timed: int) -> float:
    times: list[float] = []

    def after_batch() -> None:
        times.append(time.perf_counter())
        if len(times) == warm_up + timed:
            raise StopIteration  # the only way out of an epoch

    with suppress(StopIteration):
        run(after_batch)
    return (times[-1] - times[-1 - timed]) * EPOCH / timed


def peak() -> float:
    """The most memory that this process has had, in MiB."""
    return getrusage(RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def work(pipe: Connection, task: Task, batches: tuple[int, int]) -> None:
    """In a process of its own: says when it is prepared, then measures whenever told to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with its parent
    imported = peak()  # Linux starts it at that of the parent, which has imported the same
    try:
        run = task.measure(task)
    except UserError as error:
        return pipe.send(error)
    pipe.send(None)
    with suppress(EOFError):  # the parent has ended
        while pipe.recv():
            pipe.send((seconds_per_epoch(run, *batches), peak() - imported, teacher_seconds))


def measure(tasks: Sequence[Task], rounds: int, batches: int | None) -> dict[Task, dict[str, Any]]:
    """One task at a time, in turn, so that a disturbance hits all of them alike."""
    context, pipes = multiprocessing.get_context("spawn"), {}
    for task in tasks:
        pipes[task], end = context.Pipe()
        # The loader of this project gathers 50 minibatches at once: a multiple of them is fair.
        warm_up, timed = (5, 60) if task.measure is conventional else (50, 200)
        part = min(warm_up, batches or warm_up), batches or timed
        context.Process(target=work, args=(end, task, part), daemon=True).start()
        end.close()
        if error := pipes[task].recv():
            raise error
    results = {task: {"rounds": []} for task in tasks}
    for _ in range(rounds):
        for task, pipe in pipes.items():
            pipe.send(True)
            seconds, results[task]["peak_mib"], results[task]["teacher_seconds"] = pipe.recv()
            results[task]["rounds"].append(seconds)
            results[task]["seconds"] = median(results[task]["rounds"])
    return results


JOBS = [("Cumbersome", 1200), ("Distilled", 800, (20.0,)), ("Distilled", 300, (8.0,))]
ALONE = [Task(project, "Distilled", 30, (t,)) for t in (1.0, 4.0, 20.0)]
TOGETHER = Task(project, "Distilled", 30, (1.0, 2.5, 4.0, 8.0, 20.0))


def machine() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", cpuinfo.read_text() if cpuinfo.exists() else "")
    facts = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads(), torch.__version__
    return (found[1] if found else "?") + ", {}, {} threads, torch {}".format(*facts)


def print_table(results: dict[Task, dict[str, Any]], precisions: Sequence[str]) -> None:
    print(f"{machine()}\nMedians of seconds per epoch, scaled up from 200 of 600 minibatches")
    print("(conventional, fp32: 60) or --batches, and peak MiB beyond importing torch.\n")
    print(f"{'':23}{'conventional':>15}{'project':>14}{'floor':>14}{'update':>9}", end="")
    print(f"{'project / project /':>24}{'conv. /':>10}")
    print(f"{'':24}{'seconds   MiB ' * 3} seconds", end="")
    print(f"{'floor  (fl. + up.)':>24}{'project':>10}")
    for job, precision in product(JOBS, precisions):
        ours = [results[Task(m, *job, precision=precision)] for m in (project, floor, update)]
        four = [results[Task(conventional, *job)], *ours]
        row = "".join(f"{one['seconds']:8.2f}{one['peak_mib']:6.0f}" for one in four[:3])
        slow, here, low, up = (one["seconds"] for one in four)
        ratios = f"{here / low:11.2f}{here / (low + up):11.2f}{slow / here:12.1f}"
        print(f"{job[0]:11}{job[1]:<6}{precision:6}{row}{up:9.2f}{ratios}")
    once = median(s for result in results.values() for s in result["teacher_seconds"])
    print(f"\nThe teacher's logits, once for each distillation, not in the table: {once:.2f} s")
    alone = 50 * mean(results[task]["seconds"] for task in ALONE)
    stack, size = results[TOGETHER]["seconds"], results[TOGETHER]["peak_mib"]
    print(f"50 students of 30 units, fp32, an epoch of all: one by one {alone:.2f} s (50 times the")
    print(f"mean of 3), together {stack:.2f} s and {size:.0f} MiB. Ratio: {alone / stack:.2f}")


def main() -> None:
    parser = Parser("python tests/benchmark.py\n", description=__doc__)
    count, both = Allowed(int, low=1, high=500).check, ("fp32", "bf16")
    parser.add_argument("--rounds", type=count, default=3, help="[3]")
    parser.add_argument("--batches", type=count, help="minibatches to time in each round")
    parser.add_argument("--precision", choices=both, nargs="+", default=both, help="[both]")
    parser.add_argument("--json", action="store_true", help="print a list for machines")
    args, tasks = parser.parse_args(), [*ALONE, TOGETHER]
    for job, precision in product(JOBS, args.precision):
        tasks += [Task(m, *job, precision=precision) for m in (project, floor, update)]
    tasks += [Task(conventional, *job) for job in JOBS]
    results = measure(tasks, args.rounds, args.batches)
    if not args.json:
        return print_table(results, args.precision)
    for task, result in results.items():
        result |= task._asdict() | {"measure": task.measure.__name__, "machine": machine()}
    print(json.dumps(list(results.values()), indent=1))


if __name__ == "__main__":
    run_script(main)
