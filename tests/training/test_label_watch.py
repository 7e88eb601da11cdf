"""Labels that teach nothing stop a run, whichever Trainer reads them."""

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from PIL import Image
from transformers import Trainer, TrainingArguments

from depth_anything_hf.data.records import encode_record
from depth_anything_hf.training.collator import DepthCollator
from depth_anything_hf.training.trainer import DepthAnythingTrainer

PHOTO = np.random.default_rng(0).integers(0, 255, (36, 48, 3), dtype=np.uint8)
DEPTH = 1 + np.linspace(4, 0, 36)[:, None] + 0.5 * np.sin(np.arange(48) / 9)
RAW = {"depth_scale": 1e-3, "depth_offset": 0.0, "space": "depth", "image": Image.fromarray(PHOTO)}

WRONG = {
    "millimeters": (
        20,
        lambda: encode_record(PHOTO, DEPTH * 1000),
        r"beyond max_depth.*500\S* to 5\d\d\d\S* \(meters",
    ),
    "a divisor as scale": (80, lambda: encode_record(PHOTO, DEPTH * 256), r"beyond max_depth.*max_depth is 80"),
    "a range below": (1, lambda: encode_record(PHOTO, DEPTH + 1), r"beyond max_depth.*max_depth is 1\)"),
    "empty": (
        None,
        lambda: RAW | {"depth_map": Image.fromarray(np.zeros((36, 48), np.uint16))},
        r"empty.*values are none",
    ),
    "empty, metric": (20, lambda: encode_record(PHOTO, np.full_like(DEPTH, np.nan)), r"empty.*values are none"),
    "constant": (
        None,
        lambda: encode_record(PHOTO, np.full_like(DEPTH, 4.0)),
        r"constant.*0\.25 to 0\.25 \(disparity",
    ),
    "only sky": (20, lambda: encode_record(PHOTO, DEPTH, sky=np.ones(DEPTH.shape, bool)), r"empty"),
}


def stock(model, processor, data, folder, **settings):
    given = {"remove_unused_columns": False, "max_steps": 3, "per_device_train_batch_size": 2} | settings
    arguments = TrainingArguments(str(folder), report_to="none", use_cpu=True, save_strategy="no", **given)
    return Trainer(model, arguments, DepthCollator(processor, model), data)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*teach nothing")
@pytest.mark.parametrize(
    ("name", "kind", "workers"),
    [
        *((name, kind, 0) for name in WRONG for kind in ("ours", "stock")),
        ("constant", "pseudo-labels", 0),
        *(("millimeters", kind, 1) for kind in ("ours", "stock", "pseudo-labels")),
    ],
)
def test_train__without_any_label_stops(make_model, processor, make_trainer, tmp_path, name, kind, workers):
    max_depth, make, message = WRONG[name]
    data, model = [make() | {"source": f"s{i}"} for i in range(4)], make_model(max_depth=max_depth)
    settings = {"max_steps": 3, "per_device_train_batch_size": 2, "dataloader_num_workers": workers}
    if kind == "stock":
        trainer = stock(model, processor, data, tmp_path, **settings)
    else:
        part = "train_dataset" if kind == "ours" else "unlabeled_dataset"
        trainer = make_trainer(model, settings | {"feature_alignment_weight": 0.0}, **{part: data})
    with pytest.raises((ValueError, RuntimeError), match=rf"(?s){message}.*First: s\d"):
        trainer.train()


def test_train__single_step_without_a_label_stops_at_the_end(make_model, make_trainer):
    data = [encode_record(PHOTO, np.full_like(DEPTH, 4.0))] * 2
    trainer = make_trainer(make_model(), {"max_steps": 1, "per_device_train_batch_size": 2}, train_dataset=data)
    with pytest.raises(RuntimeError, match=r"2 of 2 images of train_dataset had no label.*nothing was learned"):
        trainer.train()


@pytest.mark.parametrize(("beyond", "stops"), [(1, False), (2, True), (3, True)])
def test_collator__half_of_the_records_beyond_max_depth(make_model, processor, beyond, stops):
    data = [encode_record(PHOTO, DEPTH * (1000 if i < beyond else 1)) for i in range(4)]
    collate = DepthCollator(processor, make_model(max_depth=20))
    if stops:
        with pytest.warns(UserWarning, match=rf"{beyond} of the first 4 depth maps of train_dataset teach nothing"):
            collate(data)
        with pytest.raises(ValueError, match=rf"{8 * beyond} beyond max_depth\).*0\.5\S* to 5\d\d\d.*max_depth is 20"):
            [collate(data) for _ in range(7)]
    else:
        with pytest.warns(UserWarning, match=r"8 of the first 32 depth maps.*\(8 beyond max_depth\)"):
            [collate(data) for _ in range(10)]


@pytest.mark.parametrize("column", ["depth", "label", "labels", "disparity"])
def test_collator__depth_in_another_column_is_named(make_model, processor, make_trainer, tmp_path, column):
    maps = [Image.fromarray((DEPTH * 1000).astype(np.uint16))] * 4
    data = [{"image": Image.fromarray(PHOTO), column: one} for one in maps]
    with pytest.raises(ValueError, match=rf"no record has a depth_map.*columns are .*{column}.*\. Rename"):
        stock(make_model(), processor, data, tmp_path).train()
    with pytest.raises(ValueError, match=rf"of train_dataset has a depth_map.*columns are image, {column}\. Rename"):
        make_trainer(make_model(), train_dataset=data)


def test_collator__columns_that_the_stock_trainer_removed(make_model, processor, labeled, tmp_path):
    with pytest.raises(ValueError, match=r"columns \(none\) and no image.*remove_unused_columns=False"):
        stock(make_model(), processor, labeled, tmp_path, remove_unused_columns=True).train()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([(PHOTO, DEPTH)] * 4, "a record is a tuple; it must be a mapping with image, depth_map"),
        ([[PHOTO, DEPTH]] * 4, "a record is a list"),
        ([PHOTO] * 4, "a record is a ndarray"),
        ({"train": [1], "test": [2]}, r"train_dataset is a dict with the splits 'train', 'test'; pass one of them"),
        (DatasetDict(train=Dataset.from_dict({"a": [1]})), "train_dataset is a DatasetDict with the splits 'train'"),
    ],
    ids=["tuples", "lists", "arrays", "dict", "DatasetDict"],
)
def test_init__data_of_another_kind(make_model, make_trainer, processor, tmp_path, data, message):
    with pytest.raises(TypeError, match=message):
        make_trainer(make_model(), train_dataset=data)
    with pytest.raises(TypeError, match=message.replace("train_dataset", "unlabeled_dataset")):
        make_trainer(make_model(), unlabeled_dataset=data)
    if isinstance(data, list):
        with pytest.raises(TypeError, match=message):
            DepthCollator(processor, make_model())(data)
        with pytest.raises(TypeError, match=message):
            stock(make_model(), processor, data, tmp_path).train()


def test_init__evaluation_on_a_stream(make_model, make_trainer, labeled):
    stream = Dataset.from_dict({"a": [1]}).to_iterable_dataset()
    for data in (stream, iter(labeled), {"near": labeled, "far": stream}):
        with pytest.raises(TypeError, match=r"eval_dataset is a .*, a stream; evaluation needs a set with a length"):
            make_trainer(make_model(), train_dataset=labeled, eval_dataset=data)
    trainer = make_trainer(make_model(), train_dataset=labeled)
    with pytest.raises(TypeError, match="eval_dataset is a IterableDataset, a stream"):
        trainer.evaluate(stream)


def test_init__processors_that_are_no_processor_of_ours(
    make_model, make_trainer, make_args, processor, labeled, tmp_path
):
    from transformers import AutoImageProcessor

    processor.save_pretrained(tmp_path)
    foreign, model = AutoImageProcessor.from_pretrained(tmp_path), make_model()
    with pytest.raises(
        TypeError, match=r"processing_class is a DPTImage\w+; pass.*DepthAnythingImageProcessor.from_pretr"
    ):
        DepthAnythingTrainer(model, make_args(), processing_class=foreign, train_dataset=labeled)
    for given in (processor, foreign):
        with pytest.raises(TypeError, match=r"data_collator is a \w+Processor\w*: the third one is data_collator"):
            DepthAnythingTrainer(model, make_args(), given, train_dataset=labeled)
        with pytest.raises(TypeError, match=r"data_collator is a \w+; pass a DepthCollator.*the third one is"):
            DepthAnythingTrainer(model, make_args(), given, labeled, processing_class=processor)
    for given in (foreign, None, "mini"):
        with pytest.raises(TypeError, match=r"processor is a .*it must be a DepthAnythingImageProcessor"):
            DepthCollator(given, model)
