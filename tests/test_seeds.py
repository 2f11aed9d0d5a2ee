"""A student draws random numbers that no teacher has; a teacher, those of its bare seed."""

import torch
from common import random_net, some_params

from dataset import get_dataloader
from distillation import distill
from layers import LAYERS, CumbersomeNet, SmallNet, init_weights
from train import hard_loss, train

SEEDS = [0, 1, 2, 3, 10, 1000, 2**31 - 1]  # the last is the largest that the scripts take


def first_weights(net, seed):
    init_weights(net, 1.0, seed)
    return [net.get_submodule(layer).weight.detach().flatten() for layer in LAYERS]


def order_shown(net, digits, seed, training=train):
    """Which images `training` shows to `net`, in their order."""
    shown = []

    def loss(logits, batch):
        shown.extend(batch.indices.tolist())
        return hard_loss(logits, batch)

    training(net, digits, some_params("Distilled"), loss=loss, seed=seed)
    return shown


def order_of_bare_seed(digits, seed):
    loader = get_dataloader(digits, some_params().batch_size, seed)
    return [case for _ in range(2) for batch in loader for case in batch.indices.tolist()]


def test_first_weights_of_a_student_are_independent_of_those_of_all_teachers():
    nets = [first_weights(net(12), seed)[0] for net in (CumbersomeNet, SmallNet) for seed in SEEDS]
    correlations = torch.corrcoef(torch.stack(nets)).fill_diagonal_(0)
    assert correlations.abs().max() < 5 / len(nets[0]) ** 0.5


def test_a_teacher_draws_what_its_bare_seed_gives(some_digits):
    generator = torch.Generator().manual_seed(5)
    for weights in first_weights(CumbersomeNet(12), seed=5):
        assert torch.equal(weights, torch.randn(len(weights), generator=generator))
    order = order_shown(CumbersomeNet(12), some_digits, 5)
    assert order == order_of_bare_seed(some_digits, 5)


def test_students_see_the_images_in_another_order_than_teachers(some_digits):
    orders = [
        tuple(order_shown(net(12), some_digits, seed))
        for net in (CumbersomeNet, SmallNet)
        for seed in SEEDS
    ]
    assert len({*orders}) == 2 * len(SEEDS)


def test_a_small_net_and_a_distilled_one_are_a_pair(some_digits):
    small, distilled = (first_weights(SmallNet(12), 3) for _ in range(2))
    assert all(map(torch.equal, small, distilled))

    def distilling(net, digits, params, **options):
        distill(net, random_net(20, cls=CumbersomeNet), digits, params, **options)

    order = order_shown(SmallNet(12), some_digits, 3)
    assert order == order_shown(SmallNet(12), some_digits, 3, distilling)
