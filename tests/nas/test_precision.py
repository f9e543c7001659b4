import torch
from torch import nn

from nas.precision import Copy, choose


def test_what_the_recipe_says_is_done():
    assert choose("fp32", 64, 32, torch.device("cpu")) == torch.float32
    assert choose("bf16", 64, 32, torch.device("cpu")) == torch.bfloat16


def test_auto_measures_and_keeps_to_its_answer():
    answers = {choose("auto", 500, 384, torch.device("cpu")) for _ in range(5)}
    assert answers <= {torch.float32, torch.bfloat16}
    assert len(answers) == 1


def test_a_copy_in_float32_is_the_student_itself():
    student = nn.Linear(3, 2)
    assert Copy(student, torch.float32).model is student


def test_small_updates_are_not_lost_to_rounding():
    student = nn.Linear(1, 1, bias=False)
    nn.init.ones_(student.weight)
    twin = Copy(student, torch.bfloat16)
    for _ in range(8):
        with torch.no_grad():
            student.weight.sub_(2**-10)
        twin.push_weights()
    assert student.weight.item() == 1 - 8 * 2**-10
    assert twin.model.weight.item() < 1


def test_gradients_go_to_the_student_and_do_not_pile_up():
    student = nn.Linear(2, 1, bias=False)
    twin = Copy(student, torch.bfloat16)
    for _ in range(2):
        twin.model(torch.ones(1, 2, dtype=torch.bfloat16)).sum().backward()
        twin.pull_gradients()
    assert torch.equal(student.weight.grad, torch.ones(1, 2))


def test_frozen_parameters_get_no_gradient():
    student = nn.Linear(2, 1)
    student.bias.requires_grad_(False)
    twin = Copy(student, torch.bfloat16)
    twin.model(torch.ones(1, 2, dtype=torch.bfloat16)).sum().backward()
    twin.pull_gradients()
    assert student.bias.grad is None
