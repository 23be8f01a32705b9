import math

import pytest

from tercet.training.step.schedule import learning_rate_factor


def test_warm_up_rises_to_one_and_a_cosine_falls_to_zero():
    factors = [learning_rate_factor(step, steps=103, warmup_steps=7) for step in range(103)]
    assert factors[:7] == [pytest.approx((step + 1) / 8) for step in range(7)]
    assert factors[7] == 1.0
    for step in range(7, 103):
        assert factors[step] == pytest.approx((1 + math.cos(math.pi * (step - 7) / 96)) / 2)
    assert 0 < factors[-1] < 0.001


def test_without_warm_up_it_starts_at_the_peak():
    assert learning_rate_factor(0, steps=5, warmup_steps=0) == 1.0
    assert learning_rate_factor(0, steps=1, warmup_steps=0) == 1.0
