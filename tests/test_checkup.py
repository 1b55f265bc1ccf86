"""The doctor and the clinic: every bug can be seen, every cure works, and the doctor says what it knows."""

import copy
import re

import pytest
import torch
from torch import nn

from lora_lab import LinearWithLoRA, doctor, replace_linear_with_lora, train_model
from lora_lab.exercises import clinic
from lora_lab.exercises.clinic import PATIENTS
from lora_lab.exercises.clinic_peft import MORE_PATIENTS
from lora_lab.exercises.ward import DIAGNOSES, visit

IDS = [patient.bug for patient in PATIENTS]
every_patient = pytest.mark.parametrize("patient", PATIENTS, ids=IDS)
MORE = [patient.bug for patient in MORE_PATIENTS]
everybody = pytest.mark.parametrize("patient", PATIENTS + MORE_PATIENTS, ids=IDS + MORE)
more_patients = pytest.mark.parametrize("patient", MORE_PATIENTS, ids=MORE)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # PEFT's, of what the new patients have

# How each bug shows: a row of the table in which the patient differs from its healthy twin, and how.
SYMPTOMS = {
    "frozen": ("numbers that want to learn", lambda ill, well: ill == 0 < well),
    "random B": ("old task before training, % right", lambda ill, well: ill < well - 10),
    "optimizer": ("loss after training", lambda ill, well: ill > 10 * well),
    "both zero": ("gradient of B at the start", lambda ill, well: ill == 0 < well),
    "bias": ("pretrained numbers changed by", lambda ill, well: ill > 0.1 and well == 0),
    "alpha": ("new task, % right", lambda ill, well: ill < well - 5),
    "twice": ("new task when in use, % right", lambda ill, well: ill < well - 10),
    "fan": ("new task, % right", lambda ill, well: ill < well - 50),
    "merged twice": ("new task when in use, % right", lambda ill, well: ill < well - 10),
    "turned": ("new task when in use, % right", lambda ill, well: ill < well - 40),
    "tied": ("new task when in use, % right", lambda ill, well: ill < well - 50),
    "head": ("new task when in use, % right", lambda ill, well: ill < well - 50),
    "cut off": ("LoRA layers that learned", lambda ill, well: (ill, well) == (1, 3)),
    "other targets": ("new task when in use, % right", lambda ill, well: ill < well - 20),
    "names": ("output differs from pretrained, in use", lambda ill, well: ill == 0 < well),
    "scale": ("output differs from pretrained, in use", lambda ill, well: ill < well / 2),
    "saved merged": ("pretrained numbers changed, in use", lambda ill, well: well == 0 < ill),
}
# What the doctor says of each: when LoRA has gone in, or, of bugs that come later, at the end.
AT_ADMISSION = {
    "frozen": "frozen after LoRA went in",
    "random B": "does not start as the pretrained one",
    "optimizer": "made before LoRA went in",
    "both zero": "are both zero",
    "bias": "in layers that LoRA should leave as they were",
    "alpha": "not alpha/r",
    "twice": "LoRA inside LoRA",
    "fan": "wrong fan",
    "tied": "untie it first",
}
AT_THE_END = {"merged twice": "2 times"}
BY_PEFT = {
    "head": "head.weight, head.bias will not be in PEFT's file",
    "cut off": "B of fc1, fc2 gets no gradient: checkpoint(…, use_reentrant=True)",
    "other targets": "fc1: LoRA is in there, and target_modules does not name it",
}
BY_PEFT_AT_THE_END = {
    "names": "adds nothing, although it is trained",
    "scale": "the scale of fc1, fc2 is 0.25 times what the file means",
    "saved merged": "written into its weight once and is still added beside it",
}
CANT_TELL = {"turned"}


def examined(patient, ill, at_the_end=False):
    world = patient.world()
    if at_the_end:
        model, optimizer = visit(patient, ill).model, visit(patient, ill).optimizer
    else:
        model, optimizer = patient.admit(ill)
    return doctor(model, world.new.X, world.new.y, world.pretrained, optimizer, trained=at_the_end)


def test_the_patients_are_numbered_through_and_each_has_a_symptom_and_a_place_here():
    everyone = PATIENTS + MORE_PATIENTS
    assert (len(PATIENTS), len(MORE_PATIENTS)) == (11, 6), "README, docs/index.md, 07 and 13 say how many"
    assert [patient.number for patient in everyone] == list(range(1, len(everyone) + 1))
    assert set(IDS + MORE) == set(SYMPTOMS), "SYMPTOMS has a line for each bug"
    assert set(IDS) == set(AT_ADMISSION) | set(AT_THE_END) | CANT_TELL, "each of 07 is in one of these"
    assert set(MORE) == set(BY_PEFT) | set(BY_PEFT_AT_THE_END), "each of 13 is in one of these"


def test_a_patient_is_treated_once_however_it_is_asked_for():
    assert visit(PATIENTS[0], True) is visit(PATIENTS[0], ill=True) is not visit(PATIENTS[0], ill=False)


@everybody
def test_the_patient_fails_where_the_healthy_twin_does_not(patient):
    row, differs = SYMPTOMS[patient.bug]
    ill, well = (visit(patient, ill).measured[row] for ill in (True, False))
    assert differs(ill, well), (row, ill, well)


@every_patient
def test_the_healthy_twin_learns_its_task_and_keeps_the_old_one(patient):
    measured = visit(patient, ill=False).measured
    assert measured["new task, % right"] > 90 and measured.get("new task when in use, % right", 100) > 90
    assert measured["old task, LoRA off, % right"] > 95 and measured["pretrained numbers changed by"] == 0


@every_patient
def test_the_doctor_finds_nothing_wrong_with_the_healthy_twin(patient):
    assert examined(patient, ill=False).problems == []
    if not patient.afterwards:  # a twin that was merged in place is another patient
        assert examined(patient, ill=False, at_the_end=True).problems == []


@every_patient
def test_the_doctor_names_the_bug_or_says_that_it_cant_be_seen(patient):
    report = examined(patient, ill=True, at_the_end=patient.bug in AT_THE_END | dict.fromkeys(CANT_TELL))
    if patient.bug in CANT_TELL:
        assert report.problems == [] and "a file that was read the wrong way round" in repr(report)
    else:
        said = AT_ADMISSION.get(patient.bug) or AT_THE_END[patient.bug]
        assert any(said in problem for problem in report.problems), report
        assert all(said in problem for problem in report.problems), "nothing else is wrong with it"


def examined_by_peft(patient, ill):
    """The doctor's report when LoRA has gone in, or, of what went wrong later, on the model that is used in the end."""
    world, learns = patient.world(), ["head"] if patient.bug == "head" else []
    if patient.bug in BY_PEFT:
        model, optimizer = patient.admit(ill)
        return doctor(model, world.new.X, world.new.y, world.pretrained, optimizer, learns=learns)
    healthy = visit(patient, ill=False)
    model = visit(patient, ill).model
    return doctor(model, world.new.X, world.new.y, world.pretrained, trained=True, file=healthy.file.name)


@more_patients
def test_the_doctor_names_what_ails_the_patients_of_peft(patient):
    said = (BY_PEFT | BY_PEFT_AT_THE_END)[patient.bug]
    assert any(said in problem for problem in examined_by_peft(patient, ill=True).problems)
    assert examined_by_peft(patient, ill=False).problems == []


@more_patients
def test_the_healthy_twin_of_peft_learns_and_is_the_same_in_use(patient):
    measured = visit(patient, ill=False).measured
    assert measured["new task, % right"] > 90
    assert measured.get("new task when in use, % right", measured["new task, % right"]) == measured["new task, % right"]


@everybody
def test_every_wrong_choice_says_what_speaks_against_it_and_the_right_one_gives_the_cure(patient):
    assert set(patient.why_not) == set(patient.choices) - {patient.bug} and len(patient.choices) == 4
    for letter, bug in zip("abcd", patient.choices, strict=True):
        card = patient.diagnose(letter)
        if bug == patient.bug:
            assert card.sign == "✓" and "# the cure" in card.code
            assert re.search(r"\w/[\w-]+#\d+|loralib", patient.reference), "where was it met?"
        else:
            assert (card.sign, card.text) == ("✗", patient.why_not[bug])


@pytest.mark.parametrize("answer", ["e", "", 3, None, "both"])
def test_what_is_no_letter_is_answered_with_the_choices(answer):
    card = PATIENTS[0].diagnose(answer)
    assert card.sign == "✗" and DIAGNOSES["both zero"] in card.choices.values()


def test_untouched_it_asks_and_gives_nothing_away():
    for patient in PATIENTS + MORE_PATIENTS:
        card = patient.diagnose(...)
        assert card.sign == "…" and all(DIAGNOSES[bug] in card.choices.values() for bug in patient.choices)
        assert patient.explanation not in repr(card)


def test_examining_prints_both_and_draws_both(capsys):
    figure = PATIENTS[0].examine()
    assert "numbers that want to learn" in capsys.readouterr().out and "healthy" in figure.alt


def own_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3)).train()
    X, y = torch.randn(20, 6), torch.randn(20, 3)
    return model, X, y


def test_the_doctor_leaves_the_model_as_it_was():
    model, X, y = own_model()
    replace_linear_with_lora(model, rank=2)
    model[0].lora.B.grad = torch.ones_like(model[0].lora.B)
    before = copy.deepcopy(model.state_dict())
    doctor(model, X, y)
    assert model.training and torch.equal(model[0].lora.B.grad, torch.ones_like(model[0].lora.B))
    assert model[2].lora.B.grad is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_doctor_is_content_with_a_learners_own_model_before_and_after_training():
    model, X, y = own_model()
    pretrained = copy.deepcopy(model).eval()
    replace_linear_with_lora(model, rank=2, alpha=4)
    report = doctor(model, X, y, pretrained)
    assert report.problems == [] and "2, rank 2, scale 2" in repr(report) and "✓ none of the bugs" in repr(report)
    train_model(model, X, y, epochs=20, lr=0.01, progress=False)
    assert doctor(model, X, y, pretrained, trained=True).problems == []


def test_a_new_head_is_named_as_what_is_meant_to_learn():
    model, X, y = own_model()
    pretrained = copy.deepcopy(model)
    replace_linear_with_lora(model, rank=2, targets=["0"])
    model[2] = nn.Linear(8, 3)
    (problem,) = doctor(model, X, y, learns=[]).problems
    assert "2.weight, 2.bias" in problem and "learns=[…]" in problem
    assert doctor(model, X, y, pretrained, learns=["2"]).problems == []


def unseen(model, X, y, pretrained):
    """A bug in one of two layers, or after LoRA went in, and what the doctor has to say."""
    first = model[0]

    def merged():
        first.merge()

    def off():
        first.enabled = False

    def silent():
        first.lora.strength = 0.0

    def zero():
        nn.init.zeros_(first.lora.A)

    def random():
        nn.init.normal_(first.lora.B)

    def large():
        first.lora.alpha = 100.0

    def other():
        with torch.no_grad():
            model[2].linear.bias.add_(1)

    def weight():
        with torch.no_grad():
            first.linear.weight.add_(1)

    return locals()


@pytest.mark.parametrize(
    ("bug", "said"),
    [
        ("merged", "B of 0 gets no gradient: merged"),
        ("off", "B of 0 gets no gradient: switched off"),
        ("silent", "B of 0 gets no gradient: strength 0"),
        ("zero", "A and B of 0 are both zero"),
        ("random", "B of 0 is not zero"),
        ("large", "the scale of 0 is 50, alpha/r"),
        ("other", "2.bias has changed"),
        ("weight", "the frozen weight of 0 is not the pretrained one"),
    ],
)
def test_the_doctor_sees_what_is_wrong_with_one_layer_of_two(bug, said):
    model, X, y = own_model()
    pretrained = copy.deepcopy(model)
    replace_linear_with_lora(model, rank=2)
    unseen(model, X, y, pretrained)[bug]()
    assert any(said in problem for problem in doctor(model, X, y, pretrained).problems)


@pytest.mark.parametrize(
    ("times", "enabled", "said"),
    [
        (1, False, "written into its weight once"),
        (1, True, "once and is still added beside it"),
        (2, False, "2 times"),
        (1.4, False, "1.4 times"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_an_update_written_into_the_weight_is_counted(times, enabled, said, dtype):
    model, X, y = own_model()
    model.to(dtype)
    pretrained = copy.deepcopy(model)
    replace_linear_with_lora(model, rank=2, targets="0")
    layer = model[0]
    nn.init.normal_(layer.lora.B)
    layer.linear.weight.data += times * layer.lora.delta().T
    layer.enabled = enabled
    (problem,) = doctor(model, X.to(dtype), y.to(dtype), pretrained, trained=True).problems
    assert said in problem


class Answers(nn.Module):
    """A model that answers with a dictionary, as many do."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        return {"logits": self.fc(x)}


def test_a_model_that_answers_with_a_dictionary_needs_a_loss_of_its_own():
    model, (_, X, y) = Answers(), own_model()
    pretrained = copy.deepcopy(model)
    replace_linear_with_lora(model, rank=2)
    with pytest.raises(TypeError, match="returns a dict; say how to make a loss of it"):
        doctor(model, X, y)
    report = doctor(model, X, y, pretrained, loss=lambda output, y: (output["logits"] - y).square().mean())
    assert report.problems == [] and "can't be compared" in repr(report)


@pytest.mark.parametrize("loss", [lambda output, y: None, lambda output, y: (output - y).square()])
def test_a_loss_that_is_no_number_is_refused(loss):
    model, X, y = own_model()
    replace_linear_with_lora(model, rank=2)
    with pytest.raises(TypeError, match="must return one number"):
        doctor(model, X, y, loss=loss)


def test_a_pretrained_model_that_is_no_copy_is_refused():
    model, X, y = own_model()
    replace_linear_with_lora(model, rank=2)
    with pytest.raises(ValueError, match="pass a copy that was made before"):
        doctor(model, X, y, model)
    with pytest.raises(ValueError, match="same dtype, same device"):
        doctor(model, X, y, own_model()[0].double())


def test_every_part_of_the_model_is_in_its_own_mode_afterwards():
    model, X, y = own_model()
    replace_linear_with_lora(model, rank=2)
    model[0].eval()
    modes = [module.training for module in model.modules()]
    doctor(model, X, y)
    with pytest.raises(ValueError):
        doctor(model, X, y[:, :2])
    assert [module.training for module in model.modules()] == modes


def test_batch_norm_and_dropout_do_not_make_a_fresh_lora_look_changed():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)).train()
    pretrained = copy.deepcopy(model)
    replace_linear_with_lora(model, rank=2)
    mean = pretrained[1].running_mean.clone()
    assert doctor(model, torch.randn(20, 6), torch.randn(20, 3), pretrained).problems == []
    assert torch.equal(pretrained[1].running_mean, mean)


class WithLinear(nn.Module):
    """A model that has a plain layer called "linear", and its own way of naming things."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.head = nn.ModuleDict({"linear": nn.Linear(4, 2)})

    def forward(self, x):
        return self.head["linear"](self.fc(x))


def test_a_plain_layer_called_linear_is_no_illness():
    pretrained = WithLinear()
    model = copy.deepcopy(pretrained)
    replace_linear_with_lora(model, 2, targets="fc")
    X, y = torch.randn(8, 4), torch.randn(8, 2)
    assert not doctor(model, X, y, pretrained).problems
    with torch.no_grad():
        model.head["linear"].weight.add_(1)
    assert "head.linear.weight has changed" in str(doctor(model, X, y, pretrained).problems)


def test_a_model_that_is_itself_one_adapted_layer_is_a_case_like_others():
    pretrained = nn.Linear(4, 2)
    model = LinearWithLoRA(copy.deepcopy(pretrained), 2)
    X, y = torch.randn(8, 4), torch.randn(8, 2)
    assert not doctor(model, X, y, pretrained).problems
    with torch.no_grad():
        model.linear.weight.add_(torch.randn(2, 4))
    assert doctor(model, X, y, pretrained).problems


def test_a_model_without_lora_is_no_case_for_the_doctor():
    model, X, y = own_model()
    with pytest.raises(ValueError, match="no LoRA layers"):
        doctor(model, X, y)


def test_the_package_itself_refuses_what_several_owners_did():
    """Put in twice, tied, read the wrong way round: lora_lab does not let these happen."""
    model = clinic.Speller()
    with pytest.raises(ValueError, match="tied"):
        replace_linear_with_lora(model, rank=2, targets=["head"])
    plain, _, _ = own_model()
    replace_linear_with_lora(plain, rank=2)
    with pytest.raises(ValueError, match="already has LoRA"):
        replace_linear_with_lora(plain, rank=2)
    with pytest.raises(TypeError, match="already has LoRA"):
        LinearWithLoRA(plain[0])


@pytest.mark.parametrize(
    ("dtype", "lr", "stuck"),
    [
        (torch.bfloat16, 1e-4, True),
        (torch.bfloat16, 1e-2, False),
        (torch.float32, 1e-4, False),
        (torch.float32, 1e-10, True),
    ],
    ids=str,
)
def test_steps_too_small_for_the_adapters_precision_are_named(dtype, lr, stuck):
    model = nn.Sequential(nn.Linear(64, 8)).bfloat16()
    replace_linear_with_lora(model, 4, dtype=dtype)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    X, y = torch.randn(20, 64).bfloat16(), torch.randn(20, 8).bfloat16()
    found = [problem for problem in doctor(model, X, y, optimizer=optimizer).problems if "too small for" in problem]
    assert bool(found) == stuck
    assert all(f"at lr={lr:g} a step is too small for" in problem and "% of 0.lora.A" in problem for problem in found)


def test_a_step_of_plain_gradient_descent_has_no_size_of_its_own_and_is_not_judged():
    model = nn.Sequential(nn.Linear(64, 8)).bfloat16()
    replace_linear_with_lora(model, 4)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    X, y = torch.randn(20, 64).bfloat16(), torch.randn(20, 8).bfloat16()
    assert doctor(model, X, y, optimizer=optimizer).problems == []


def checked(model, X, y, **options):
    return "\n".join(doctor(model, X, y, **options).problems)


@pytest.mark.parametrize(("alpha", "named"), [(16, False), (16.5, True)])
def test_a_scale_of_eight_is_fine_and_a_larger_one_is_named(alpha, named):
    model, X, y = own_model()
    replace_linear_with_lora(model, rank=2, alpha=alpha)
    assert ("the scale of 0 is" in checked(model, X, y)) == named


@pytest.mark.parametrize(("times", "named"), [(0, False), (0.05, True), (0.2, False), (1.8, False), (3, True)])
def test_an_A_much_too_small_is_named_as_well_as_one_too_large(times, named):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(400, 20))
    replace_linear_with_lora(model, rank=8)
    model[0].lora.A.data *= times
    said = checked(model, torch.randn(4, 400), torch.randn(4, 20))
    assert ("wrong fan" in said) == named and ("both zero" in said) == (times == 0)


def test_an_A_of_a_few_numbers_may_differ_by_chance():
    model = nn.Sequential(nn.Linear(31, 3))
    replace_linear_with_lora(model, rank=2)
    model[0].lora.A.data *= 4
    assert "wrong fan" not in checked(model, torch.randn(4, 31), torch.randn(4, 3))


def test_a_caller_who_switched_gradients_off_gets_the_same_report():
    model, X, y = own_model()
    replace_linear_with_lora(model, rank=2)
    report = doctor(model, X, y)
    with torch.no_grad():
        assert repr(doctor(model, X, y)) == repr(report) and not torch.is_grad_enabled()


def test_an_optimizers_second_group_counts_and_what_no_group_holds_is_named():
    model, X, y = own_model()
    replace_linear_with_lora(model, rank=2)
    groups = [{"params": list(layer.lora.parameters()), "lr": lr} for layer, lr in ((model[0], 0.1), (model[2], 0.2))]
    assert doctor(model, X, y, optimizer=torch.optim.SGD(groups)).problems == []
    (problem,) = doctor(model, X, y, optimizer=torch.optim.SGD(groups[:1])).problems
    assert "does not hold 2.lora.A, 2.lora.B: made before LoRA went in?" in problem


def test_the_report_measures_the_gradients_of_all_A_and_of_all_B():
    model, X, y = own_model()
    model.eval()
    replace_linear_with_lora(model, rank=2)
    for layer in (model[0], model[2]):
        nn.init.normal_(layer.lora.B)
    (model(X) - y).square().mean().backward()
    measured = doctor(model, X, y, trained=True).measured
    for half in "AB":
        both = torch.cat([getattr(layer.lora, half).grad.flatten() for layer in (model[0], model[2])])
        assert measured[f"gradient of {half}"] == f"{both.norm().item():.2g}"


def test_layers_of_several_ranks_and_scales_are_listed_and_their_numbers_added():
    model, X, y = own_model()
    replace_linear_with_lora(model, rank=2, alpha=2, targets="0")
    model[2] = LinearWithLoRA(model[2], 3, alpha=6)
    measured = doctor(model, X, y).measured
    assert measured["LoRA layers"] == "2, rank 2, 3, scale 1, 2"
    assert measured["numbers that want to learn"].endswith(f"A and B together have {2 * (6 + 8) + 3 * (8 + 3)}")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_number_of_X_that_is_none_is_named_and_not_blamed_on_the_training(value):
    model, X, y = own_model()
    replace_linear_with_lora(model, rank=2)
    X[3, 1] = value
    said = checked(model, X, y)
    assert "X contains NaN or infinity" in said and "diverged" not in said


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_means_that_the_training_diverged(value):
    model, X, y = own_model()
    replace_linear_with_lora(model, rank=2)
    said = checked(model, X, y, loss=lambda output, y: output.mean() * 0 + value)
    assert f"the loss is {value}: the training diverged" in said and "X contains" not in said


def test_a_model_that_reads_whole_numbers_hears_of_its_diverged_training_too():
    model = nn.Sequential(nn.Embedding(5, 6), nn.Flatten(), nn.Linear(18, 3)).requires_grad_(False)
    replace_linear_with_lora(model, rank=2)
    X, y = torch.randint(5, (8, 3)), torch.randn(8, 3)
    assert checked(model, X, y) == ""
    model[2].lora.B.data.fill_(float("nan"))
    assert "the training diverged" in checked(model, X, y, trained=True)


def test_the_difference_from_the_pretrained_is_the_largest_in_either_direction():
    model, X, y = own_model()
    pretrained = copy.deepcopy(model)
    replace_linear_with_lora(model, rank=2)
    model[2].linear.bias.data -= torch.tensor([0.0, 0.5, 0.0])
    report = doctor(model, X, y, pretrained)
    assert report.measured["output differs from the pretrained by"] == "0.5"
    assert any("B is zero, and yet the output differs" in problem for problem in report.problems)


def test_a_new_head_of_another_size_cant_be_compared_but_is_no_illness():
    model, X, _ = own_model()
    pretrained = copy.deepcopy(model)
    replace_linear_with_lora(model, rank=2, targets="0")
    model[2] = nn.Linear(8, 5)
    report = doctor(model, X, torch.randn(20, 5), pretrained, learns="2")
    assert report.problems == []
    assert report.measured["output differs from the pretrained by"] == "can't be compared"


def test_a_pretrained_model_of_another_shape_or_other_layers_is_not_the_same_model():
    model, X, y = own_model()
    replace_linear_with_lora(model, rank=2)
    wider = nn.Sequential(nn.Linear(6, 9), nn.Dropout(), nn.Linear(9, 3))
    assert "0.weight is not in the pretrained model in this shape" in checked(model, X, y, pretrained=wider)
    other = nn.Sequential(nn.Linear(6, 3))
    assert "2.weight is not in the pretrained model in this shape" in checked(model, X, y, pretrained=other)


def test_one_frozen_half_is_named_alone():
    model, X, y = own_model()
    replace_linear_with_lora(model, rank=2)
    model[2].lora.B.requires_grad_(False)
    (problem,) = doctor(model, X, y).problems
    assert problem.startswith("2.B can't learn")


def test_a_layer_that_the_model_never_uses_gets_no_gradient():
    model, X, y = own_model()
    replace_linear_with_lora(model, rank=2)
    model[0].spare = LinearWithLoRA(nn.Linear(4, 4), 2)
    (problem,) = doctor(model, X, y).problems
    assert "B of 0.spare gets no gradient: is it used" in problem


def test_a_model_cut_off_from_its_loss_is_examined_all_the_same():
    model, X, y = own_model()
    replace_linear_with_lora(model, rank=2)
    report = doctor(model, X, y, loss=lambda output, y: (output.detach() - y).square().mean())
    assert report.measured["gradient of B"] == "0" and "B of 0, 2 gets no gradient" in repr(report)


def test_after_training_zero_B_and_a_silent_layer_are_no_longer_the_start():
    model, X, y = own_model()
    replace_linear_with_lora(model, rank=2)
    nn.init.normal_(model[0].lora.B)
    model[2].enabled = False
    assert doctor(model, X, y, trained=True).problems == []


def test_a_loss_of_one_number_in_a_list_is_a_loss():
    model, X = nn.Sequential(nn.Linear(3, 3)), torch.randn(6, 3)
    replace_linear_with_lora(model, 2)
    assert doctor(model, X, X, loss=lambda output, y: (output - y).square().mean().reshape(1)).problems == []


def test_a_strength_of_a_half_stands_in_the_report_and_full_strength_does_not():
    model, X = nn.Sequential(nn.Linear(3, 3)), torch.randn(6, 3)
    replace_linear_with_lora(model, 2)
    assert "strength" not in str(doctor(model, X, X))
    model[0].lora.strength = 0.5
    assert "strength 0.5" in str(doctor(model, X, X))


def test_a_head_inside_is_meant_to_learn_when_its_short_name_is_given():
    model = nn.ModuleDict({"body": nn.ModuleDict({"fc": nn.Linear(3, 3), "head": nn.Linear(3, 3)})})
    model.forward = lambda X: model.body.head(model.body.fc(X))
    replace_linear_with_lora(model, 2, targets="fc")
    model.body.head.requires_grad_(True)
    X = torch.randn(6, 3)
    assert doctor(model, X, X, learns=["head"]).problems == doctor(model, X, X, learns="head").problems == []
