"""Exports as the readers of other programs see them. Each imports its program, which need not be installed.

A reader returns by name what the program reads: the image, uint8 [H, W, 3] RGB, or None if the program does not give it
back unchanged, and the label, uint8 [H, W], class index of the run, 255 = no label.
"""

import json
import os
import runpy
import zipfile
from pathlib import Path

import numpy as np


def mmseg(folder: Path):
    """MMSegmentation: its config, its data set and its transforms that load image and mask."""
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmseg.datasets import BaseSegDataset

    init_default_scope("mmseg")
    config, found = Config.fromfile(folder / "config.py"), {}
    for loader in (config.train_dataloader, config.val_dataloader):
        options = {name: value for name, value in loader.dataset.items() if name not in ("type", "pipeline")}
        loads = [step for step in config.train_pipeline if step["type"].startswith("Load")]
        for sample in BaseSegDataset(**options, pipeline=loads):
            label = sample["gt_seg_map"].astype(np.uint8)
            found[Path(sample["img_path"]).stem] = np.ascontiguousarray(sample["img"][..., ::-1]), label
    assert config.model.decode_head.num_classes == len(config.data.metainfo.classes)
    return found


def smp(folder: Path):
    """The script for segmentation-models-pytorch, at its own size; a network takes a training step on its images."""
    import segmentation_models_pytorch
    import torch

    script, found = runpy.run_path(str(folder / "train.py")), {}
    model = segmentation_models_pytorch.Unet("resnet18", encoder_weights=None, classes=len(script["CLASSES"]))
    for name in ("train.txt", "val.txt"):
        data = script["Masks"](name)
        for index, line in enumerate(data.lines):
            image, label = data[index]
            pixels = (image * 255).round().permute(1, 2, 0).byte().numpy()
            found[Path(line.split(" ")[0]).stem] = pixels, label.byte().numpy()
    loss = torch.nn.CrossEntropyLoss(ignore_index=255)(model(image[None, :, :64, :64]), label[None, :64, :64])
    assert loss.requires_grad
    return found


def nnunet(folder: Path):
    """nnU-Net: its check of the data set, its reader of images and its labels, which become class indices again."""
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
    from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
    from nnunetv2.utilities.label_handling.label_handling import LabelManager
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    description = json.loads((folder / "dataset.json").read_text())
    verify_dataset_integrity(str(folder), 1)
    labels = LabelManager(description["labels"], None)
    assert labels.has_ignore_label
    assert labels.ignore_label == max(description["labels"].values())
    found = {}
    for name, files in get_filenames_of_train_images_and_targets(str(folder)).items():
        image = NaturalImage2DIO().read_images(files["images"])[0]
        label = NaturalImage2DIO().read_seg(files["label"])[0][0, 0]
        label = np.where(label == labels.ignore_label, 255, label).astype(np.uint8)
        found[name] = np.moveaxis(image[:, 0], 0, -1).astype(np.uint8), label
    return found


def ultralytics_semantic(folder: Path):
    """Ultralytics, task semantic: the masks as its data set loads them, before it resizes image and mask together."""
    from ultralytics.data.dataset import SemanticDataset

    found = {}
    for split, data in _ultralytics_splits(folder / "semantic.yaml"):
        dataset = SemanticDataset(img_path=data[split], data=data, task="semantic", imgsz=640, augment=False)
        for image_file, mask_file in zip(dataset.im_files, dataset.mask_files, strict=True):
            found[Path(image_file).stem] = _opencv(image_file), _opencv(mask_file, is_grey=True)
        assert len(dataset.labels) == len(dataset.im_files), "none is refused"
    return found


def ultralytics_segment(folder: Path, yaml_name: str = "segment.yaml", splits=("train", "val")):
    """Ultralytics, task segment: outlines that its data set reads and its function draws, at the image's own size."""
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import polygon2mask

    found = {}
    for split, data in _ultralytics_splits(folder / yaml_name):
        if split not in splits:
            continue
        dataset = YOLODataset(img_path=data[split], data=data, task="segment", imgsz=640, augment=False)
        for label in dataset.labels:
            height, width = label["shape"]
            drawn = np.full((height, width), 255, np.uint8)
            for number, segment in zip(label["cls"][:, 0], label["segments"], strict=True):
                polygon = (segment * np.array([width, height], np.float32)).reshape(1, -1)
                drawn[polygon2mask((height, width), polygon) == 1] = number
            found[Path(label["im_file"]).stem] = _opencv(label["im_file"]), drawn
    return found


def yolo(folder: Path):
    """Ultralytics, task segment, for an export of outlines without val images."""
    return ultralytics_segment(folder, "data.yaml", ("train",))


def _ultralytics_splits(path: Path):
    from ultralytics.data.utils import check_det_dataset

    data = check_det_dataset(str(path), autodownload=False)
    return [(split, data) for split in ("train", "val")]


def _opencv(path: str, is_grey: bool = False):
    import cv2

    pixels = cv2.imread(path, cv2.IMREAD_GRAYSCALE if is_grey else cv2.IMREAD_COLOR)
    return pixels if is_grey else np.ascontiguousarray(pixels[..., ::-1])


def geotiff(folder: Path):
    """rasterio: the band of each file."""
    import rasterio

    found = {}
    for path in sorted(folder.glob("*.tif")):
        with rasterio.open(path) as file:
            assert file.nodata == 255
            found[path.stem] = None, file.read(1)
    return found


def labelme(folder: Path):
    """LabelMe: its reader of a file, and its function that draws the shapes."""
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    from labelme import utils
    from labelme._label_file import read_label_file

    names = (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
    values = {name: index for index, name in enumerate(names, -1)}
    assert names[0] == "__ignore__"
    found = {}
    for path in sorted(folder.glob("*.json")):
        if path.name == "provenance.json":
            continue
        content = read_label_file(str(path))
        image = utils.img_data_to_arr(content.image_data)
        drawn, _ = utils.shapes_to_label(image.shape, content.shapes, values)
        found[path.stem] = image[..., :3], np.where(drawn == -1, 255, drawn).astype(np.uint8)
    return found


def label_studio(folder: Path):
    """Label Studio's SDK: its decoder of brush strokes."""
    from label_studio_sdk.converter.brush import decode_rle

    names = (folder / "interface.xml").read_text(encoding="utf-8").split('<Label value="')[1:]
    values = {text.split('"')[0]: index for index, text in enumerate(names)}
    found = {}
    for task in json.loads((folder / "tasks.json").read_text(encoding="utf-8")):
        (prediction,) = task["predictions"]
        for stroke in prediction["result"]:
            size = stroke["original_height"], stroke["original_width"]
            label = found.setdefault(task["data"]["id"], (None, np.full(size, 255, np.uint8)))[1]
            opacity = np.reshape(decode_rle(stroke["value"]["rle"]), (*size, 4))[..., 3]
            value = values[stroke["value"]["brushlabels"][0]]
            label[opacity > 0] = 255 if value == values["abstain"] else value
    return found


def fiftyone(folder: Path):
    """FiftyOne: the data set that the script loads."""
    script = runpy.run_path(str(folder / "load.py"))
    data, found = script["load"](), {}
    try:
        assert len(data.default_mask_targets) == max(data.default_mask_targets)
        for sample in data:
            ids = sample["pseudo_label"].get_mask().astype(np.uint8)
            assert sample["keep_rate"] == (ids > 0).mean()
            found[Path(sample.filepath).stem] = _opencv(sample.filepath), np.where(ids == 0, 255, ids - 1)
    finally:
        data.delete()
    return found


def datumaro(folder: Path):
    """Datumaro, with which CVAT reads its archives."""
    from datumaro import AnnotationType, Dataset

    content = folder / "content"
    with zipfile.ZipFile(folder / "annotations.zip") as archive:
        archive.extractall(content)
    data = Dataset.import_from(str(content), "voc_segmentation")
    names = [label.name for label in data.categories()[AnnotationType.label]]
    found = {}
    for item in data:
        for mask in item.annotations:
            label = found.setdefault(item.id, (None, np.full(mask.image.shape, 254, np.uint8)))[1]
            label[mask.image.astype(bool)] = 255 if names[mask.label] == "abstain" else mask.label
    return found
