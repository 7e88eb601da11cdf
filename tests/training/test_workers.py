"""A worker of a data loader that dies, or finds no room, ends the run with a clear message."""

import os
import resource
import signal

import pytest
import torch
from transformers import Trainer, TrainingArguments

from depth_anything_hf.data.records import encode_record
from depth_anything_hf.training.batches import hand_over
from depth_anything_hf.training.collator import DepthCollator, EvaluationCollator

pytestmark = pytest.mark.slow
ROOM = "found no room in the shared memory, /dev/shm, or was killed.*--shm-size=8g.*dataloader_num_workers"


class Killed(DepthCollator):
    """In a worker, die as the kernel lets a process die that finds no memory."""

    def __call__(self, records):
        if torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGBUS)
        return super().__call__(records)


class Full(DepthCollator):
    """In a worker, find no room in the shared memory: a file there may have 1000 bytes."""

    def __call__(self, records):
        if torch.utils.data.get_worker_info() is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        return super().__call__(records)


@pytest.mark.parametrize("collator", [Killed, Full])
def test_train__worker_without_room_ends_the_run(make_trainer, make_model, processor, labeled, collator):
    model = make_model()
    trainer = make_trainer(
        model, {"dataloader_num_workers": 1}, train_dataset=labeled, data_collator=collator(processor, model)
    )
    with pytest.raises(RuntimeError, match=ROOM):
        trainer.train()


def test_stock_trainer__worker_without_room_ends_the_run(make_model, processor, labeled, tmp_path):
    model = make_model()
    settings = {"remove_unused_columns": False, "report_to": "none", "use_cpu": True, "dataloader_num_workers": 1}
    trainer = Trainer(
        model, TrainingArguments(str(tmp_path), max_steps=1, **settings), Full(processor, model), labeled
    )
    with pytest.raises(RuntimeError, match=ROOM):
        trainer.train()


def test_evaluate__worker_without_room_ends_it(make_trainer, make_model, labeled, monkeypatch):
    def full(self, records):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        return call(self, records)

    call = EvaluationCollator.__call__
    monkeypatch.setattr(EvaluationCollator, "__call__", full)
    trainer = make_trainer(make_model(), {"dataloader_num_workers": 1}, train_dataset=labeled, eval_dataset=labeled)
    with pytest.raises(RuntimeError, match=ROOM):
        trainer.evaluate()


def test_train__errors_of_a_worker_read_as_without_workers(make_trainer, make_model, labeled):
    broken = labeled[0] | {"depth_scale": -1.0, "source": "the third"}
    words = []
    for workers in (0, 1):
        data = [broken] * 6
        trainer = make_trainer(make_model(), {"dataloader_num_workers": workers}, train_dataset=data)
        with pytest.raises(ValueError, match="the third") as error:
            trainer.train()
        words.append(str(error.value))
    assert words[0] == words[1]
    assert "\n" not in words[0]


def test_train__slow_worker_is_not_waited_for_without_end(make_trainer, make_model, labeled):
    class Stuck(list):
        def __getitem__(self, index):
            if torch.utils.data.get_worker_info() is not None:
                signal.pause()
            return super().__getitem__(index)

    trainer = make_trainer(make_model(), {"dataloader_num_workers": 1, "ddp_timeout": 1}, train_dataset=Stuck(labeled))
    with pytest.raises(RuntimeError, match=r"/dev/shm.*timed out after 1"):
        trainer.train()


def test_hand_over__leaves_a_batch_of_the_main_process(labeled):
    batch = {"a": torch.ones(2), "b": [torch.ones(1)], "c": "d"}
    assert hand_over(batch) is batch
    assert not batch["a"].is_shared()
    assert encode_record(labeled[0]["image"])["depth_map"] is None
