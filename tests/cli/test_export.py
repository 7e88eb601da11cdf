import re

import pytest

from depth_anything_hf.cli.export import main, make_parser
from depth_anything_hf.data.folder import write_image_folder
from depth_anything_hf.data.records import encode_record
from depth_anything_hf.export.onnx import CHECKED_IMAGES, LARGEST_ERROR
from depth_anything_hf.scenes.simple import iter_synthetic_records

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_export__int8_prints_what_it_loses_and_no_noise(
    make_model, tiny_processor, trace_once, tmp_path, capsys, caplog, recwarn
):
    for part in (make_model(), tiny_processor):
        part.save_pretrained(tmp_path / "student")
    scenes = list(iter_synthetic_records(2, 60, 80))
    write_image_folder(
        [encode_record(one["image"], one["depth"], mask=one["depth"] > 0) for one in scenes], tmp_path / "own"
    )
    (tmp_path / "photos").mkdir()
    for i, scene in enumerate(scenes):
        scene["image"].save(tmp_path / "photos" / f"{i}.png")
    capsys.readouterr()
    recwarn.clear()
    arguments = [
        "--model",
        str(tmp_path / "student"),
        "--out",
        str(tmp_path / "files" / "depth.onnx"),
        "--dtype",
        "int8",
    ]
    with trace_once():
        assert main([*arguments, "--images", str(tmp_path / "photos"), "--eval", str(tmp_path / "own")]) == 0
    captured = capsys.readouterr()
    assert "rendered scenes" not in captured.out
    for line in ("| 4:3 | ", "| 3:4 | ", "| 16:9 | ", "| 1:1 | ", "| PyTorch float32 | 0.", "| ONNX int8 | 0."):
        assert line in captured.out
    assert re.search(r"largest error against PyTorch float32: \d\.\de-\d\d of the prediction's spread\n", captured.out)
    assert re.search(r"loss of accuracy: AbsRel \d\.\d{4}, δ1 \d\.\d{4} against PyTorch float32\n", captured.out)
    assert re.search(r"depth.onnx: int8, 0.\d MB, opset 18\n$", captured.out)
    assert (tmp_path / "files" / "depth.onnx").is_file()
    noise = captured.out + captured.err + caplog.text
    assert not re.search(r"warn|torchvision|\[torch.onnx\]|pre-process", noise, re.IGNORECASE)
    assert not [str(warning.message) for warning in recwarn if warning.category is not DeprecationWarning]


def test_export__says_that_rendered_scenes_are_no_photographs(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"must end in .onnx"):
        main(["--model", "no-such-model", "--out", str(tmp_path / "depth.pt")])
    assert "rendered scenes, which are no photographs; pass your own with --images" in capsys.readouterr().out


def test_export__help_has_an_example_and_states_the_bounds():
    text = make_parser().format_help()
    assert "depth-anything-hf export --model" in text.split("examples:", 1)[1]
    assert f"up to {CHECKED_IMAGES} of them" in text
    stated = re.search(r"to (\S+) of the prediction's spread in float32, (\S+) in float16", text).groups()
    assert [float(bound) for bound in stated] == [LARGEST_ERROR["float32"], LARGEST_ERROR["float16"]]
