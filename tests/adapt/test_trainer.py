"""The step: what each gradient reaches, the teacher's path, sums of gradients, weights, batches without labels."""

import copy
from dataclasses import replace

import pytest
import torch
from helpers.adapt import CLASSES, labelled, tiny_network, tiny_recipe, training_pictures, unlabelled
from torch.testing import assert_close

from saot.adapt import trainer as module
from saot.adapt.contrast import pixel_weights
from saot.adapt.crops import Crop
from saot.adapt.mixing import MixSettings
from saot.adapt.networks import Prediction, build_segmenter
from saot.adapt.pull import class_confidence, class_weights
from saot.adapt.recipe import OptimizerRecipe
from saot.adapt.schedule import rate_factor
from saot.adapt.teacher import TeacherSettings, weighted_cross_entropy
from saot.adapt.two_scale import DetailPrediction, TwoScaleSettings

accelerate = pytest.importorskip("accelerate")

pytestmark = pytest.mark.training

EVERY = tuple(range(len(CLASSES)))


def make(recipe=None, network=None, source=None, target=None, things=EVERY, seed=0) -> module.Trainer:
    recipe = recipe or tiny_recipe()
    pictures = training_pictures(recipe, source, target, seed)
    return module.Trainer(network or tiny_network(), pictures, recipe, accelerate.Accelerator(cpu=True), things)


def train(trainer: module.Trainer, steps: int) -> list[module.Record]:
    records = [trainer.step(number) for number in range(steps)]
    trainer.close()
    return records


def ignored(number):
    return torch.full((56, 112), 255, dtype=torch.uint8).numpy()


def reached(network) -> set[str]:
    """Parts of a network with a gradient that is not zero."""
    found = ((name, part.grad) for name, part in network.named_parameters())
    return {name.split(".")[0] for name, grad in found if grad is not None and float(grad.abs().sum()) > 0}


def test_each_term_reaches_what_it_should(monkeypatch):
    trainer, found = make(), {}
    real = trainer._backward

    def watched(loss, number, what):
        before = [None if part.grad is None else part.grad.clone() for part in trainer.student.parameters()]
        trainer.student.zero_grad()
        real(loss, number, what)
        found[what] = reached(trainer.student)
        for part, kept in zip(trainer.student.parameters(), before, strict=True):
            if kept is not None:
                part.grad = kept if part.grad is None else part.grad + kept

    monkeypatch.setattr(trainer, "_backward", watched)
    record = trainer.step(0)
    trainer.close()
    assert found == {
        "L_source": {"encoder", "head"},
        "L_target": {"encoder", "head"},
        "L_pull": {"encoder", "projector"},
    }
    assert set(record) >= {"source", "target", "pull", "feature_distance", "labelled", "sure", "queries", "rate"}
    assert all(value == value for value in record.values())
    for network in (trainer.teacher, trainer.reference):
        assert not any(part.requires_grad or part.grad is not None for part in network.parameters())


def test_the_feature_distance_pulls_the_encoder_back():
    """Zero where the student starts; from a place farther off than it can walk, it comes back; the reference stays."""

    def distances(weight: float) -> list[float]:
        trainer, push = make(tiny_recipe(feature_distance=weight)), torch.Generator().manual_seed(0)
        before = copy.deepcopy(trainer.reference.state_dict())
        with torch.no_grad():
            for part in trainer.student.encoder.parameters():
                part.add_(0.03 * torch.randn(part.shape, generator=push))
        records = train(trainer, 6)
        assert all(torch.equal(value, before[name]) for name, value in trainer.reference.state_dict().items())
        return [record["feature_distance"] for record in records]

    assert train(make(), 1)[0]["feature_distance"] == 0
    far, free = distances(1000.0), distances(1e-9)
    assert far[0] == free[0] > 0
    # 0.44 under every instruction set, 0.44 to 0.68 over seeds. A student that reaches the reference jumps to and fro
    # about it (the gradient of a norm has no middle), so six steps from there end anywhere.
    assert far[5] < 0.8 * free[5]
    assert make(tiny_recipe(feature_distance=0.0)).reference is None


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_the_teacher_follows_the_formula(decay):
    """theta_t <- eta theta_t + (1 - eta) theta_s at the start of each step, eta = min(1 - 1/(t + 1), decay)."""
    trainer = make(tiny_recipe(teacher=TeacherSettings(decay=decay, ignore_top=0, ignore_bottom=0)))
    with torch.no_grad():
        for part in trainer.teacher.parameters():
            part.add_(1.0)  # forgotten at step 0, where the teacher becomes the student
    wanted = [part.detach().clone() + 9 for part in trainer.student.parameters()]
    for step in range(5):
        eta = min(1 - 1 / (step + 1), decay)
        students = [part.detach().clone() for part in trainer.student.parameters()]
        wanted = [eta * old + (1 - eta) * new for old, new in zip(wanted, students, strict=True)]
        trainer.step(step)
        for old, mine in zip(wanted, trainer.teacher.parameters(), strict=True):
            assert_close(mine.detach(), old, rtol=1e-5, atol=1e-7)  # lerp rounds otherwise
    trainer.close()
    away = [float((a - b.detach()).abs().max()) for a, b in zip(wanted, trainer.student.parameters(), strict=True)]
    assert max(away) > 1e-4  # it is not simply the student


def test_statistics_of_batch_norm_are_the_teachers_own():
    trainer = make()
    train(trainer, 2)
    mine, students = (dict(net.named_buffers()) for net in (trainer.teacher, trainer.student))
    means = [name for name in mine if name.endswith("running_mean")]
    assert means and all(float(mine[name].abs().sum()) > 0 for name in means)
    assert not any(torch.equal(mine[name], students[name]) for name in means)


def test_a_teacher_in_evaluation_mode_has_the_students_statistics():
    """Those at the start of the step: it gathers none of its own, and without any its answers mean nothing."""
    still = make(tiny_recipe(teacher_mode="eval"))
    still.step(0)
    before = {name: value.clone() for name, value in still.student.named_buffers()}
    still.step(1)
    still.close()
    assert any(name.endswith("running_mean") and float(value.abs().sum()) > 0 for name, value in before.items())
    assert all(torch.equal(value, before[name]) for name, value in still.teacher.named_buffers())


def test_source_only_asks_no_teacher_and_no_target():
    trainer = make(tiny_recipe("source-only"), network=tiny_network(projector=False))

    def refuse(*arguments, **named):
        raise AssertionError("the teacher was asked")

    trainer.teacher.forward = refuse
    assert trainer.pictures.target is None and trainer.reference is None
    records = train(trainer, 3)
    assert all(set(record) == {"source", "labelled", "rate"} for record in records)
    with torch.no_grad():  # whatever the teacher is
        other = make(tiny_recipe("source-only"), network=tiny_network(projector=False))
        for part in other.teacher.parameters():
            part.fill_(7.0)
    assert train(other, 3) == records


def test_source_only_is_cross_entropy_and_adamw():
    """Against the plainest loop: same batches, torch's own cross-entropy and optimiser."""
    recipe = tiny_recipe("source-only", optimizer=OptimizerRecipe(steps=4, warmup=2, rate=1e-2))
    trainer = make(recipe)
    network, pictures = tiny_network(), training_pictures(recipe)
    groups = network.parameter_groups(1e-2, 10.0, 0.01)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999))
    rates = [group["lr"] for group in groups]
    for step in range(4):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * rate_factor(step, recipe.optimizer)
        batch = pictures.draw(step)
        logits = torch.nn.functional.interpolate(network(batch.source).logits, size=(32, 32), mode="bilinear")
        losses = torch.nn.functional.cross_entropy(logits, batch.labels, ignore_index=255, reduction="sum")
        optimizer.zero_grad()
        (losses / batch.labels.numel()).backward()
        optimizer.step()
    train(trainer, 4)
    for mine, theirs in zip(trainer.student.parameters(), network.parameters(), strict=True):
        assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_domain_generalisation_opens_no_target():
    def refuse(number):
        raise AssertionError("a target picture was opened")

    trainer = make(tiny_recipe("t2s-da-dg"), target=replace(unlabelled(), load=refuse))
    records = train(trainer, 3)
    assert all("pull" in record and "target" not in record for record in records)
    assert any(record["pull"] > 0 for record in records)


def test_accumulated_gradients_are_the_mean_of_their_batches():
    """Two batches a step: the gradient is the mean of those of the batches 0 and 1, and the loss logged, too."""
    plain = OptimizerRecipe(steps=2, warmup=0)
    recipe = tiny_recipe("source-only", optimizer=replace(plain, accumulate=2))
    trainer = make(recipe)
    record = trainer.step(0)
    trainer.close()
    single, grads, losses = tiny_network(), [], []
    for number in (0, 1):
        batch = training_pictures(replace(recipe, optimizer=plain)).draw(number)
        logits = module.upsampled(single(batch.source).logits, (32, 32))
        loss = weighted_cross_entropy(logits, batch.labels, torch.ones(2, 32, 32))
        single.zero_grad()
        loss.backward()
        grads.append([None if part.grad is None else part.grad.clone() for part in single.parameters()])
        losses.append(float(loss.detach()))
    assert record["source"] == pytest.approx(sum(losses) / 2)
    for part, first, second in zip(trainer.student.parameters(), *grads, strict=True):
        if first is None:
            assert part.grad is None
        else:
            assert not torch.equal(first, second)
            assert_close(part.grad, (first + second) / 2, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("reweight", ["target", "pull", "none"])
@pytest.mark.parametrize("mixed", [False, True])
def test_pseudo_labels_weigh_what_the_recipe_says(monkeypatch, reweight, mixed):
    recipe = tiny_recipe()
    recipe = replace(recipe, pull=replace(recipe.pull, reweight=reweight), mix=recipe.mix if mixed else None)
    told, given = [], []
    ask, entropy = module.pseudo_labels, module.weighted_cross_entropy
    monkeypatch.setattr(module, "pseudo_labels", lambda *words: told.append(ask(*words)) or told[-1])

    def watched(logits, labels, weights):
        given.append((labels, weights))
        return entropy(logits, labels, weights)

    monkeypatch.setattr(module, "weighted_cross_entropy", watched)
    network = tiny_network()
    with torch.no_grad():
        for layer in network.head.classifiers:
            layer.weight.mul_(30)  # so that the teacher is of several minds, and sometimes sure
    train(make(recipe, network=network), 1)
    (source, ones), (labels, weights) = given
    assert bool((ones == 1).all()) and 0 < float(told[0].share[0]) < 1 and len(told[0].labels.unique()) > 1
    wanted = told[0].weights
    if reweight == "target":
        balance = class_weights(*class_confidence(told[0].confidence, told[0].labels, 5), recipe.pull.settings)
        wanted = wanted * pixel_weights(told[0].labels, balance)
    if mixed:  # the source's pixels weigh 1
        pasted = (weights == 1) & (labels == source)
        assert 0 < float(pasted.float().mean()) < 1
        wanted = torch.where(pasted, 1.0, wanted)
        assert torch.equal(labels[~pasted], told[0].labels[~pasted])
    else:
        assert torch.equal(labels, told[0].labels)
    assert_close(weights, wanted)


def test_the_student_sees_source_pixels_where_they_are_pasted_and_the_targets_elsewhere(monkeypatch):
    """Both on the scale of pictures, 0 to 255, though colours are changed between 0 and 1."""
    recipe = tiny_recipe(mix=MixSettings(jitter_above=1.0, blur_above=1.0))  # never
    trainer, pasted, seen, real = make(recipe), [], [], module.class_masks
    monkeypatch.setattr(module, "class_masks", lambda *words: pasted.append(real(*words)) or pasted[-1])
    trainer.student.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    train(trainer, 1)
    batch = training_pictures(recipe).draw(0)
    assert 0 < float(pasted[0].float().mean()) < 1
    wanted = torch.where(pasted[0].unsqueeze(1), batch.source, batch.target)
    assert_close(seen[1], wanted, rtol=0, atol=1e-3)  # first is the source, third the translation


def test_the_translation_can_be_supervised_in_the_sources_place():
    recipe = tiny_recipe("dacs", supervise="pseudo_target", feature_distance=0.0)
    trainer = make(recipe)
    record = train(trainer, 1)[0]
    batch = training_pictures(recipe).draw(0)
    assert batch.translated is not None
    for pixels, equal in ((batch.translated, True), (batch.source, False)):
        loss = weighted_cross_entropy(
            module.upsampled(tiny_network()(pixels).logits, (32, 32)), batch.labels, torch.ones(2, 32, 32)
        )
        assert (abs(float(loss.detach()) - record["source"]) < 1e-6) is equal


@pytest.mark.parametrize(
    "changes",
    [
        {"queries": "source"},
        {"positives": "pseudo_target"},
        {"queries": "source", "positives": "target"},
        {"reweight": "fixed", "fixed_weights": (1.0, 2.0, 3.0, 4.0, 5.0)},
    ],
)
def test_other_directions_of_the_pull_loss_train(changes):
    recipe = tiny_recipe()
    records = train(make(replace(recipe, pull=replace(recipe.pull, **changes))), 2)
    assert any(record["pull"] > 0 for record in records)


def test_a_loss_that_is_not_finite_names_its_step():
    trainer = make()
    train_one = trainer.step(0)
    assert train_one["source"] == train_one["source"]
    with torch.no_grad():
        trainer.student.head.classifiers[0].bias.fill_(torch.inf)
    with pytest.raises(FloatingPointError, match="L_source; got nan at step 1"):
        trainer.step(1)
    trainer.close()
    trainer = make()
    with torch.no_grad():
        trainer.student.projector.blocks[0][0].weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="L_pull; got nan at step 0"):
        trainer.step(0)
    trainer.close()


@pytest.mark.parametrize("method", ["source-only", "dacs", "t2s-da", "t2s-da-dg"])
def test_batches_without_a_label_give_no_nan(method):
    source = labelled()
    recipe = tiny_recipe(method, rare=None)
    pictures = training_pictures(recipe, source)  # counted with labels, drawn without
    pictures._masks = ignored
    trainer = module.Trainer(tiny_network(), pictures, recipe, accelerate.Accelerator(cpu=True), EVERY)
    records = train(trainer, 2)
    assert all(value == value and abs(value) < 1e6 for record in records for value in record.values())
    assert records[0]["source"] == 0 and records[0]["labelled"] == 0
    assert records[0].get("pull", 0) == 0
    for part in trainer.student.parameters():
        assert bool(torch.isfinite(part).all())


def test_randomness_is_the_steps_own():
    """Dropout depends on the step; the caller's random state is neither read nor changed."""
    outcomes = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        trainer = make(network=tiny_network(dropout=0.5))
        records = train(trainer, 2)
        assert torch.equal(torch.get_rng_state(), before)
        outcomes.append((records, trainer.student.state_dict()))
    assert outcomes[0][0] == outcomes[1][0]
    assert all(torch.equal(value, outcomes[1][1][name]) for name, value in outcomes[0][1].items())
    without = train(make(), 1)[0]
    assert without["source"] != outcomes[0][0][0]["source"]
    with module.own_randomness(0, 1, 0, 0):
        first = torch.rand(2)
    with module.own_randomness(0, 1, 0, 1):
        assert not torch.equal(torch.rand(2), first)


def test_the_teachers_answers_are_not_thinned_out():
    trainer = make(network=tiny_network(dropout=0.9))
    trainer.step(0)
    trainer.close()
    batch = trainer.pictures.draw(1)
    assert trainer.student.encoder.dropout.training and not trainer.teacher.encoder.dropout.training
    first, again = (trainer.teacher(batch.source).logits for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("clip", [0.0, 1e-3])
def test_gradients_are_clipped_where_wanted(clip):
    trainer = make(tiny_recipe(optimizer=OptimizerRecipe(steps=2, warmup=0, clip=clip)))
    train(trainer, 1)
    norm = torch.cat([part.grad.flatten() for part in trainer.student.parameters() if part.grad is not None]).norm()
    assert (float(norm) <= 1.001e-3) is (clip > 0)


def test_rates_of_the_step_and_of_the_groups():
    recipe = tiny_recipe(optimizer=OptimizerRecipe(steps=4, warmup=2, rate=1e-3))
    trainer = make(recipe)
    for step in range(3):
        rate = 1e-3 * rate_factor(step, recipe.optimizer)
        assert trainer.step(step)["rate"] == pytest.approx(rate)
        groups = {group["name"]: group["lr"] for group in trainer.optimizer.param_groups}
        assert groups["encoder"] == pytest.approx(rate) and groups["head"] == pytest.approx(10 * rate)
    trainer.close()


def test_the_state_holds_all_a_step_changes():
    first = make()
    records = [first.step(number) for number in range(2)]
    kept = {name: copy.deepcopy(part.state_dict()) for name, part in first.state.items()}
    records += [first.step(number) for number in range(2, 4)]
    first.close()
    again = make(network=tiny_network(seed=9))  # other weights
    again.reference = first.reference  # which a run loads anew
    for name, part in again.state.items():
        part.load_state_dict(kept[name])
    assert [again.step(number) for number in range(2, 4)] == records[2:]
    again.close()
    for name in ("student", "teacher"):
        mine, theirs = (trainer.state[name].state_dict() for trainer in (first, again))
        assert all(torch.equal(value, theirs[key]) for key, value in mine.items())


class Beside:
    """Two processes as one of them sees them: the other's gradients are known beforehand."""

    num_processes, is_main_process, process_index = 2, True, 0

    def __init__(self, others) -> None:
        self.others = iter(others)

    def reduce(self, tensor, kind):
        assert kind == "mean"
        return (tensor + next(self.others)) / 2


def test_gradients_of_processes_are_averaged():
    trainer = make(tiny_recipe("source-only"))
    trainer.step(0)
    trainer.close()
    mine = [None if part.grad is None else part.grad.clone() for part in trainer.student.parameters()]
    others = [torch.randn_like(part) for part in trainer.student.parameters()]
    given = [other for other, own in zip(others, mine, strict=True) if own is not None]
    trainer._share_gradients()  # alone: nothing changes
    for part, own in zip(trainer.student.parameters(), mine, strict=True):
        assert part.grad is None if own is None else torch.equal(part.grad, own)
    trainer.accelerator = Beside(given)
    trainer._share_gradients()
    assert any(own is None for own in mine)  # the projector's, in every process: it takes no part and no decay
    for part, own, other in zip(trainer.student.parameters(), mine, others, strict=True):
        if own is None:
            assert part.grad is None
        else:
            assert part.grad is not None
            assert_close(part.grad, (other + own) / 2)


def test_two_scales_train_and_weigh_the_detail():
    recipe = tiny_recipe(detail_weight=0.25)
    network = build_segmenter(tiny_network().encoder, 5, channels=4, two_scale=True)
    trainer = make(recipe, network=network)
    records = train(trainer, 2)
    assert all(value == value for record in records for value in record.values())
    logits, detail = torch.randn(1, 5, 8, 8), torch.randn(1, 5, 4, 4)
    labels, weights, box = torch.randint(0, 5, (1, 16, 16)), torch.rand(1, 16, 16), Crop(4, 8, 8, 8)
    found = trainer._cross_entropy(Prediction(logits, (), None, DetailPrediction(detail, box)), labels, weights)
    whole = weighted_cross_entropy(module.upsampled(logits, (16, 16)), labels, weights)
    own = weighted_cross_entropy(module.upsampled(detail, (8, 8)), labels[:, 4:12, 8:16], weights[:, 4:12, 8:16])
    assert_close(found, 0.75 * whole + 0.25 * own)
    assert_close(trainer._cross_entropy(Prediction(logits, (), None, None), labels, weights), whole)


def test_queries_from_the_detail_scale_cover_what_keys_and_labels_cover():
    """A projector on the detail gets the windows of the whole crop, not the one drawn for the cross-entropy."""
    settings = TwoScaleSettings(projector_scale="detail")
    network = build_segmenter(tiny_network().encoder, 5, channels=4, two_scale=settings)
    trainer = make(tiny_recipe(), network=network)
    assert trainer.student.projects_detail
    record = train(trainer, 1)[0]
    assert record["queries"] > 0 and record["pull"] == record["pull"]
    assert any("projector" in name for name in reached(trainer.student))


@pytest.mark.parametrize(
    ("crop", "two_scale", "said"),
    [
        ((30, 32), False, "multiples of 8 for tiny; got 30x32: choose 32x32"),
        ((32, 44), False, "got 32x44: choose 32x48"),
        ((24, 32), True, "multiples of 16 for tiny; got 24x32: choose 32x32"),
    ],
)
def test_a_crop_that_does_not_fit(crop, two_scale, said):
    recipe = tiny_recipe()
    recipe = replace(recipe, pictures=replace(recipe.pictures, crop=crop))
    network = build_segmenter(tiny_network().encoder, 5, channels=4, two_scale=two_scale)
    with pytest.raises(ValueError, match=said):
        module.check_crop(network, recipe)


def test_queries_of_the_pull_loss_are_the_students_of_the_translation_and_keys_the_teachers_of_the_source(monkeypatch):
    """Fig. 3 and Eq. (3): the pseudo-target is pulled to the source, not the source to itself or to the translation."""
    given, real = [], module.pull_batch
    monkeypatch.setattr(module, "pull_batch", lambda *words: given.append(words) or real(*words))
    recipe = tiny_recipe()
    train(make(recipe), 1)
    batch = training_pictures(recipe).draw(0)
    queries, keys = given[0][:2]
    for pixels, of_queries in ((batch.translated, True), (batch.source, False)):
        seen = tiny_network()(pixels, project=True).projected  # the teacher of the first step is the student
        assert torch.allclose(queries, seen, atol=1e-5) is of_queries
        assert torch.allclose(keys, seen, atol=1e-5) is not of_queries
    assert queries.requires_grad and not keys.requires_grad


def test_positives_from_the_translation_are_the_teachers():
    """The direction source -> target: the teacher, not the student, sees the translation that keys are made of."""
    recipe = tiny_recipe()
    recipe = replace(recipe, pull=replace(recipe.pull, queries="source", positives="pseudo_target"))
    trainer, seen = make(recipe), {"teacher": [], "student": []}
    for name, pictures in seen.items():
        getattr(trainer, name).register_forward_pre_hook(lambda _, given, kept=pictures: kept.append(given[0].clone()))
    train(trainer, 1)
    translated = training_pictures(recipe).draw(0).translated
    told = {name: any(torch.equal(each, translated) for each in pictures) for name, pictures in seen.items()}
    assert told == {"teacher": True, "student": False}
