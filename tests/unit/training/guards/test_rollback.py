import pytest
import torch
from accelerate.scheduler import AcceleratedScheduler

from posttrain.training.guards.rollback import scale_learning_rate


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_lower_rate_stays_and_is_not_lowered_twice(wrapped):
    groups = [{"params": [torch.zeros(1)], "lr": rate} for rate in (0.1, 0.4)]
    optimizer = torch.optim.SGD(groups)
    course = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 10)
    optimizer.step()
    course.step()
    scheduler = AcceleratedScheduler(course, [optimizer]) if wrapped else course
    for _ in range(2):
        scale_learning_rate(optimizer, scheduler, 0.5)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.045, 0.18])
        assert scheduler.get_last_lr() == pytest.approx([0.045, 0.18])
    course.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.04, 0.16])
