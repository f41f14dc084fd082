"""What a trainer does, in one process and in seconds."""

import os
import signal

import numpy as np
import pytest
import torch
from torch import nn

from leptonai.data import DataLoader
from leptonai.errors import InvalidRequest
from leptonai.training import Callback, Keep, Trainer
from leptonai.training.checkpoints import steps_in
from leptonai.training.trainer import STOPPED
from leptonai.training.troubles import NotANumber

FEATURES = 6


def a_problem(samples=120, seed=0):
    """Which of two inputs is larger."""
    chance = np.random.default_rng(seed)
    inputs = chance.normal(size=(samples, FEATURES)).astype(np.float32)
    return inputs, (inputs[:, 0] > inputs[:, 1]).astype(np.int64)


def a_network(outputs=2, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, outputs))


def a_trainer(model=None, data=None, **options):
    options = {"epochs": 2, "batch_size": 16, "quiet": True, "learning_rate": 1e-2} | options
    return Trainer(model or a_network(), data or a_problem(), **options)


class Losses(Callback):
    def __init__(self):
        self.found = []

    def on_step(self, trainer, step, loss):
        self.found.append(loss)


def losses_of(**options):
    heard = Losses()
    a_trainer(callbacks=[heard], **options).fit()
    return heard.found


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


# --- learning ------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "lion", "adafactor"])
def test_every_optimizer_learns(optimizer):
    rate = {"lion": 1e-3, "sgd": 0.05}.get(optimizer, 1e-2)
    trainer = a_trainer(
        optimizer=optimizer, learning_rate=rate, epochs=40, metrics=["accuracy"],
        validation=a_problem(seed=1),
    )  # fmt: skip
    history = trainer.fit()
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert history["val_accuracy"][-1] > 0.9
    assert (history.ended, history.steps) == ("finished", 40 * 8)


def test_equal_seeds_learn_equally_and_others_differently():
    assert losses_of(seed=1) == losses_of(seed=1)
    assert losses_of(seed=1) != losses_of(seed=2)


def test_pieces_of_a_batch_add_up_to_the_batch():
    whole, pieces = losses_of(), losses_of(accumulation=5)
    assert pieces == pytest.approx(whole, rel=1e-5)


def test_it_is_a_loop_that_anyone_would_write():
    """Against one by hand, to the bit."""
    heard = Losses()
    model = a_network()
    a_trainer(model, optimizer="adamw", callbacks=[heard], seed=3).fit()

    other = a_network()
    optimizer = torch.optim.AdamW(other.parameters(), lr=1e-2, weight_decay=0, fused=True)
    by_hand = []
    loader = DataLoader(a_problem(), 16, True, seed=3)
    for _ in range(2):
        for inputs, targets in loader:
            loss = nn.functional.cross_entropy(other(inputs), targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            by_hand.append(loss.item())
    assert heard.found == by_hand
    assert equal(weights(model), weights(other))


@pytest.mark.parametrize(
    ("loss", "outputs"), [("mse", 1), ("mae", 1), ("huber", 1), ("bce", 1), ("focal", 2)]
)
def test_every_loss_falls(loss, outputs):
    inputs, targets = a_problem()
    if outputs == 1:
        targets = targets.astype(np.float32)
    history = a_trainer(a_network(outputs), (inputs, targets), loss=loss, epochs=15).fit()
    assert history["loss"][-1] < 0.8 * history["loss"][0]


def test_a_model_may_bring_its_own_loss():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(FEATURES, 1)

        def forward(self, inputs):
            return self.layer(inputs)

        def loss(self, outputs, targets):
            return (outputs.squeeze(-1) - 7).square().mean() + 0 * targets.sum()

    model = Own()
    a_trainer(model, epochs=60, learning_rate=0.05).fit()
    assert model(torch.zeros(1, FEATURES)).item() == pytest.approx(7, abs=1)


def test_an_average_of_the_weights_is_what_the_model_has_at_the_end():
    plain, averaged = a_network(), a_network()
    a_trainer(plain).fit()
    a_trainer(averaged, average=0.9).fit()
    assert not equal(weights(plain), weights(averaged))


def test_it_stops_when_it_gets_no_better():
    class Worse(Callback):
        def on_epoch(self, trainer, epoch, metrics):
            trainer.progress.best = -1.0  # nothing will be better

    history = a_trainer(epochs=50, patience=2, callbacks=[Worse()]).fit()
    assert history.ended == "stopped early"
    assert len(history.epochs) < 10


def test_a_callback_may_end_it():
    class Enough(Callback):
        def on_step(self, trainer, step, loss):
            if step == 5:
                trainer.stop()

    history = a_trainer(epochs=50, callbacks=[Enough()]).fit()
    assert (history.ended, history.steps) == ("stopped early", 5)


def test_max_steps_end_it_in_the_middle_of_an_epoch():
    history = a_trainer(epochs=50, max_steps=11).fit()
    assert (history.ended, history.steps, len(history.epochs)) == ("finished", 11, 2)


def test_the_learning_rate_follows_the_schedule():
    class Rates(Callback):
        def __init__(self):
            self.found = []

        def on_step(self, trainer, step, loss):
            self.found.append(trainer._fit._optimizer.param_groups[0]["lr"])

    rates = Rates()
    a_trainer(schedule="linear", warmup_steps=4, callbacks=[rates]).fit()
    assert rates.found[:5] == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.01])
    assert rates.found[-1] < 0.001


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_learns(precision):
    history = a_trainer(precision=precision, epochs=30).fit()
    assert history["loss"][-1] < 0.5 * history["loss"][0]


def test_evaluation_counts_every_sample_once():
    inputs, targets = a_problem(101)
    model = a_network()
    found = a_trainer(model, metrics=["accuracy", "f1"]).evaluate((inputs, targets))
    with torch.no_grad():
        scores = model(torch.from_numpy(inputs))
    right = (scores.argmax(1).numpy() == targets).mean()
    loss = nn.functional.cross_entropy(scores, torch.from_numpy(targets)).item()
    assert found["accuracy"] == pytest.approx(right)
    assert found["loss"] == pytest.approx(loss, rel=1e-5)
    assert 0 <= found["f1"] <= 1


# --- memory --------------------------------------------------------------------------------------


class Hungry(nn.Module):
    """Memory suffices for so many rows."""

    def __init__(self, most):
        super().__init__()
        self.inner, self.most = a_network(), most

    def forward(self, inputs):
        if len(inputs) > self.most:
            raise torch.OutOfMemoryError(f"{len(inputs)} rows")
        return self.inner(inputs)


def test_where_memory_does_not_suffice_it_takes_smaller_pieces_and_says_so(capsys):
    heard = Losses()
    Trainer(
        Hungry(5), a_problem(), batch_size=16, learning_rate=1e-2, epochs=2, callbacks=[heard]
    ).fit()
    assert heard.found == pytest.approx(losses_of(), rel=1e-5)
    told = capsys.readouterr().out
    assert "going on with 4, in 4 pieces a batch" in told


def test_where_it_does_not_suffice_for_one_sample_it_says_what_to_do():
    with pytest.raises(InvalidRequest, match="single sample"):
        a_trainer(Hungry(0)).fit()


# --- checkpoints ---------------------------------------------------------------------------------


class Dies(Callback):
    def __init__(self, at):
        self.at = at

    def on_step(self, trainer, step, loss):
        if step == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("at", [1, 4, 8, 9, 15])
def test_a_training_that_was_interrupted_ends_as_one_that_was_not(tmp_path, at):
    options = {
        "epochs": 2, "average": 0.9, "schedule": "cosine", "save_every": 2, "weight_decay": 0.1,
        "validation": a_problem(seed=1),
    }  # fmt: skip
    whole = a_network()
    expected = a_trainer(whole, **options).fit()
    with pytest.raises(KeyboardInterrupt):
        a_trainer(checkpoints=tmp_path, callbacks=[Dies(at)], **options).fit()
    torn = a_network(seed=9)  # its weights come from the checkpoint, if there is one
    if at == 1:
        torn = a_network()
    history = a_trainer(torn, checkpoints=tmp_path, **options).fit()
    assert history.resumed_from == ((at - 1) // 2 * 2 or None)
    assert history.epochs == expected.epochs
    assert equal(weights(torn), weights(whole))


def test_a_stop_is_answered_with_a_checkpoint(tmp_path):
    class Asked(Callback):
        def on_step(self, trainer, step, loss):
            if step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        a_trainer(checkpoints=tmp_path, callbacks=[Asked()]).fit()
    assert stopped.value.code == STOPPED
    assert steps_in(tmp_path) == [3]
    assert signal.getsignal(signal.SIGTERM) is before
    assert a_trainer(checkpoints=tmp_path).fit().resumed_from == 3


def test_what_is_finished_is_not_trained_again(tmp_path):
    model = a_network()
    first = a_trainer(model, checkpoints=tmp_path).fit()
    again = a_network(seed=5)
    history = a_trainer(again, checkpoints=tmp_path, callbacks=[Dies(17)]).fit()
    assert (history.epochs, history.steps) == (first.epochs, first.steps)
    assert equal(weights(model), weights(again))


def test_more_epochs_go_on_where_it_was_finished(tmp_path):
    a_trainer(checkpoints=tmp_path, epochs=1).fit()
    history = a_trainer(checkpoints=tmp_path, epochs=3).fit()
    assert (history.resumed_from, history.steps, len(history.epochs)) == (8, 24, 3)


def test_only_those_that_are_to_stay_stay(tmp_path):
    a_trainer(checkpoints=tmp_path, save_every=2, keep=Keep(last=2, best=0, every=6)).fit()
    assert steps_in(tmp_path) == [6, 12, 14, 16]


def test_another_model_is_refused_and_told_where_it_differs(tmp_path):
    a_trainer(checkpoints=tmp_path).fit()
    wider = nn.Sequential(nn.Linear(FEATURES, 17), nn.ReLU(), nn.Linear(17, 2))
    with pytest.raises(InvalidRequest, match=r"0\.bias is \[16\] there and \[17\] here"):
        a_trainer(wider, checkpoints=tmp_path).fit()


def test_another_optimizer_is_refused(tmp_path):
    a_trainer(checkpoints=tmp_path).fit()
    with pytest.raises(InvalidRequest, match="AdamW, and this trains with SGD"):
        a_trainer(checkpoints=tmp_path, optimizer="sgd").fit()


def test_other_data_are_refused(tmp_path):
    a_trainer(checkpoints=tmp_path, save_every=3, max_steps=3).fit()
    with pytest.raises(InvalidRequest, match="other data"):
        a_trainer(data=a_problem(121), checkpoints=tmp_path).fit()


def test_a_torn_checkpoint_is_passed_over(tmp_path, capsys):
    a_trainer(checkpoints=tmp_path, save_every=4, keep=Keep(last=9)).fit()
    for doomed in (16, 12):
        path = tmp_path / f"step-{doomed:09}" / "rank-00000.safetensors"
        path.write_bytes(path.read_bytes()[:-3])
    history = Trainer(
        a_network(), a_problem(), epochs=2, batch_size=16, checkpoints=tmp_path,
        learning_rate=1e-2,
    ).fit()  # fmt: skip
    assert history.resumed_from == 8
    assert capsys.readouterr().out.count("going back to the checkpoint before it") == 2


# --- what is wrong is said -----------------------------------------------------------------------


def test_a_loss_that_is_no_number_names_the_samples_and_the_checkpoint(tmp_path):
    inputs, targets = a_problem()
    inputs[17] = np.inf
    trainer = a_trainer(data=DataLoader((inputs, targets), 10), checkpoints=tmp_path, save_every=1)
    with pytest.raises(NotANumber) as wrong:
        trainer.fit()
    assert "at step 2 of epoch 1" in wrong.value.message
    assert "samples 10, 11, 12, 13, 14, 15, 16, 17, 18, 19" in wrong.value.message
    assert "step-000000001" in wrong.value.message


def test_inputs_that_are_no_numbers_are_named_before_the_first_step():
    inputs, targets = a_problem()
    inputs[3, 2] = np.nan
    with pytest.raises(InvalidRequest, match="row 3"):
        a_trainer(data=DataLoader((inputs, targets), 16)).fit()


def test_a_shape_that_does_not_fit_names_the_layer():
    with pytest.raises(InvalidRequest) as wrong:
        a_trainer(nn.Sequential(nn.Linear(FEATURES, 5), nn.Linear(4, 2))).fit()
    assert "the layer 1, Linear(in_features=4, out_features=2" in wrong.value.message
    assert "shape [2, 5]" in wrong.value.message


def test_labels_out_of_range_are_told():
    inputs, targets = a_problem()
    with pytest.raises(InvalidRequest, match="labels go from 5 to 6"):
        a_trainer(data=(inputs, targets + 5)).fit()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs is at least 1"),
        ({"batch_size": 0}, "batch_size is at least 1"),
        ({"learning_rate": 0}, "learning_rate is above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is above 0"),
        ({"average": 1.0}, "average is a decay"),
        ({"loss": "hope"}, "no loss 'hope'"),
        ({"metrics": ["luck"]}, "no metric 'luck'"),
        ({"schedule": "staircase"}, "no schedule"),
        ({"precision": "fp8"}, "no precision 'fp8'"),
    ],
)
def test_arguments_are_checked_before_anything_begins(options, message):
    with pytest.raises(InvalidRequest, match=message):
        a_trainer(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "magic"}, "no optimizer 'magic'"),
        ({"strategy": "pray"}, "no strategy 'pray'"),
        ({"device": "toaster"}, "no device 'toaster'"),
        ({"recompute": True}, "does not say what its blocks are"),
    ],
)
def test_what_needs_the_model_is_checked_when_it_begins(options, message):
    with pytest.raises(InvalidRequest, match=message):
        a_trainer(**options).fit()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_told():
    with pytest.raises(InvalidRequest, match="torch finds none here"):
        a_trainer(device="cuda").fit()


def test_an_empty_data_set_is_told():
    with pytest.raises(InvalidRequest, match="empty"):
        a_trainer(data=a_problem(0)).fit()


def test_a_batch_without_targets_is_told():
    with pytest.raises(InvalidRequest, match="a dict of x"):
        a_trainer(data={"x": np.zeros((8, FEATURES), np.float32)}).fit()


def test_a_model_without_parameters_is_told():
    with pytest.raises(InvalidRequest, match="no parameters"):
        a_trainer(nn.ReLU()).fit()
