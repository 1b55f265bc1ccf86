"""The doctor and the clinic: every bug can be seen, every cure works, and the doctor says what it knows."""

import copy

import pytest
import torch
from torch import nn

from lora_lab import LinearWithLoRA, doctor, replace_linear_with_lora, train_model
from lora_lab.exercises import clinic
from lora_lab.exercises.clinic import DIAGNOSES, PATIENTS, visit

IDS = [patient.bug for patient in PATIENTS]
every_patient = pytest.mark.parametrize("patient", PATIENTS, ids=IDS)

# How each bug shows: a row of the table in which the patient differs from its healthy twin, and how.
SYMPTOMS = {
    "frozen": ("numbers that learn", lambda ill, well: ill == 0 < well),
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
}
# What the doctor says of each: when LoRA has gone in, or, of bugs that come later, at the end.
AT_ADMISSION = {
    "frozen": "frozen after LoRA went in",
    "random B": "B is not zero although no step was taken",
    "optimizer": "made before LoRA went in",
    "both zero": "A and B are both zero",
    "bias": "freeze the bias as well",
    "alpha": "not alpha/r",
    "twice": "LoRA inside LoRA",
    "fan": "wrong fan",
    "tied": "untie it first",
}
AT_THE_END = {"merged twice": "2 times"}
CANT_TELL = {"turned"}


def examined(patient, ill, at_the_end=False):
    world = patient.world()
    if at_the_end:
        model, optimizer = visit(patient, ill).model, visit(patient, ill).optimizer
    else:
        model, optimizer = patient.admit(ill)
    return doctor(model, world.new.X, world.new.y, world.pretrained, optimizer)


def test_there_are_eleven_patients_each_with_a_symptom():
    assert len(PATIENTS) == 11 and [patient.number for patient in PATIENTS] == list(range(1, 12))
    assert set(IDS) == set(SYMPTOMS) == set(AT_ADMISSION) | set(AT_THE_END) | CANT_TELL


@every_patient
def test_the_patient_fails_where_the_healthy_twin_does_not(patient):
    row, differs = SYMPTOMS[patient.bug]
    ill, well = (visit(patient, ill).measured[row] for ill in (True, False))
    assert differs(ill, well), (row, ill, well)


@every_patient
def test_the_healthy_twin_learns_its_task_and_keeps_the_old_one(patient):
    measured = visit(patient, ill=False).measured
    assert measured["new task, % right"] > 90 and measured.get("new task when in use, % right", 100) > 90
    assert measured["old task, LoRA switched off, %"] > 95 and measured["pretrained numbers changed by"] == 0


@every_patient
def test_the_doctor_finds_nothing_wrong_with_the_healthy_twin(patient):
    assert examined(patient, ill=False).problems == []
    if not patient.afterwards:  # a twin that was merged in place is another patient
        assert examined(patient, ill=False, at_the_end=True).problems == []


@every_patient
def test_the_doctor_names_the_bug_or_says_that_it_cant_be_seen(patient):
    report = examined(patient, ill=True, at_the_end=patient.bug in AT_THE_END | dict.fromkeys(CANT_TELL))
    if patient.bug in CANT_TELL:
        assert report.problems == [] and "a file read the wrong way round" in repr(report)
    else:
        said = AT_ADMISSION.get(patient.bug) or AT_THE_END[patient.bug]
        assert any(said in problem for problem in report.problems), report
        assert all(said in problem for problem in report.problems), "nothing else is wrong with it"


@every_patient
def test_every_wrong_choice_says_what_speaks_against_it_and_the_right_one_gives_the_cure(patient):
    assert set(patient.why_not) == set(patient.choices) - {patient.bug} and len(patient.choices) == 4
    for letter, bug in zip("abcd", patient.choices, strict=True):
        card = patient.diagnose(letter)
        if bug == patient.bug:
            assert card.sign == "✓" and "# the cure" in card.code and "#" in patient.reference + "#"
        else:
            assert (card.sign, card.text) == ("✗", patient.why_not[bug])


@pytest.mark.parametrize("answer", ["e", "", 3, None, "both"])
def test_what_is_no_letter_is_answered_with_the_choices(answer):
    card = PATIENTS[0].diagnose(answer)
    assert card.sign == "✗" and DIAGNOSES["both zero"] in card.code


def test_untouched_it_asks_and_gives_nothing_away():
    for patient in PATIENTS:
        card = patient.diagnose(...)
        assert card.sign == "…" and all(DIAGNOSES[bug] in card.code for bug in patient.choices)
        assert patient.explanation not in repr(card)


def test_examining_prints_both_and_draws_both(capsys):
    figure = PATIENTS[0].examine()
    assert "numbers that learn" in capsys.readouterr().out and "healthy" in figure.alt


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
    assert report.problems == [] and "2 layers, rank 2, scale 2" in repr(report) and "✓ no bug found" in repr(report)
    train_model(model, X, y, epochs=20, lr=0.01, progress=False)
    assert doctor(model, X, y, pretrained).problems == []


def test_a_new_head_that_learns_is_mentioned_as_what_it_may_be():
    model, X, y = own_model()
    replace_linear_with_lora(model, rank=2, targets=["0"])
    model[2].requires_grad_(True)
    (problem,) = doctor(model, X, y).problems
    assert "2.weight, 2.bias" in problem and "right for a new head" in problem


def test_an_update_that_is_written_in_and_still_added_counts_twice():
    model, X, y = own_model()
    pretrained = copy.deepcopy(model).eval()
    replace_linear_with_lora(model, rank=2)
    nn.init.normal_(model[0].lora.B)
    model[0].linear.weight.data += model[0].lora.delta().T
    (problem,) = doctor(model, X, y, pretrained).problems[-1:]
    assert "it counts twice" in problem


def test_a_frozen_weight_that_is_another_one_is_found():
    model, X, y = own_model()
    pretrained = copy.deepcopy(model).eval()
    replace_linear_with_lora(model, rank=2)
    model[0].linear.weight.data += 1
    assert any("is not the pretrained one" in problem for problem in doctor(model, X, y, pretrained).problems)


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
